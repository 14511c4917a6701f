/* Softmax attention over a cache, a call's own rows, or both; one pass over the keys per group of queries. */
#ifndef LLMC_ATTENTION_H
#define LLMC_ATTENTION_H

#include "../native/numbers.h"
#include "../native/team.h"

typedef struct {
    /* queries [batch * tokens, heads * key_dim] with q_stride floats a row, result [batch * tokens, heads * value_dim] */
    const float *q;
    float *out;
    int64_t q_stride;
    int64_t batch, tokens, heads, kv_heads, key_dim, value_dim;
    const int64_t *position; /* [batch, tokens], -1 padding */
    const int64_t *lengths;  /* [batch], tokens held before this call */
    /* cached keys [batch, kv_heads, slots, key_dim] and values [batch, kv_heads, slots, value_dim], or NULL */
    void *keys, *values;
    int cache_type;
    int64_t slots;
    int is_ring; /* position p lies in slot p % slots; otherwise in slot p */
    int64_t *key_position; /* [batch, slots] of keys that lie in any order, all of them held, -1 padding; or NULL */
    /* the call's own keys [batch * tokens, kv_heads * key_dim] and values, with their floats a row */
    const float *k, *v;
    int64_t k_stride, v_stride;
    int reads_new; /* whether attention reads k and v themselves (they are not in the cache yet) */
    /* the rule */
    int is_causal;
    int64_t window; /* 0: none */
    int64_t chunk;  /* length of the runs that see only themselves; 0: none */
    float scale, softcap; /* softcap 0: none */
    const float *slopes;  /* [heads] ALiBi, or NULL */
    const float *distance_bias; /* [heads, 2 * reach + 1] by key - query, farther ones as the farthest; or NULL */
    int64_t reach;
    const float *sink;    /* [heads] one more logit whose value is zero, or NULL */
} llmc_attention;

/* Stores the call's keys and values in the cache. In a ring only the last `slots` tokens of a row. */
void llmc_append(llmc_thread *t, const llmc_attention *a);

/* Stores the call's keys, values and positions in the order of its tokens: token i in slot i. */
void llmc_keep(llmc_thread *t, const llmc_attention *a);

void llmc_attend(llmc_thread *t, const llmc_attention *a);

#endif
