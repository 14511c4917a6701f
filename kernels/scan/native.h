/* The recurrence of linear-time mixers over one matrix of state per head. The law is that of reference.py. */
#ifndef LLMC_SCAN_H
#define LLMC_SCAN_H

#include "../native/team.h"

enum { LLMC_DECAY_NONE, LLMC_DECAY_HEAD, LLMC_DECAY_STATE, LLMC_DECAY_TOKEN_HEAD, LLMC_DECAY_TOKEN_CHANNEL };
enum { LLMC_UPDATE_ADD, LLMC_UPDATE_DELTA, LLMC_UPDATE_ERASE_WRITE };

/* Values per token and head, with the floats of a row. */
typedef struct {
    const float *at;
    int64_t stride;
} llmc_stream;

typedef struct {
    int64_t batch, tokens, heads, key_heads, key_dim, value_dim;
    const int64_t *position; /* [batch, tokens], -1 padding */
    llmc_stream v;           /* [heads * value_dim] a row */
    llmc_stream k, q;        /* [key_heads * key_dim] */
    llmc_stream decay;       /* as decay_per says; stride 0 where it is the same for all tokens */
    llmc_stream dt, beta;    /* [heads], or NULL */
    llmc_stream erase, write; /* [heads * key_dim], or NULL */
    const float *skip;       /* [heads] or NULL */
    int decay_per, is_A_log, update;
    float scale;
    float *state; /* [batch, heads, key_dim, value_dim], continued and kept; NULL: zeros */
    float *out;   /* [batch * tokens, heads * value_dim] */
} llmc_scan;

void llmc_run_scan(llmc_thread *t, const llmc_scan *a);

#endif
