/* Latent attention over a cache of latents, absorbed: queries are brought to the latents, not latents to the heads. */
#ifndef LLMC_LATENT_H
#define LLMC_LATENT_H

#include "../linear/native/linear.h"
#include "../native/numbers.h"
#include "../native/team.h"

/* One value a token, with the floats of a row. */
typedef struct {
    const float *at;
    int64_t stride;
} llmc_rows_of;

typedef struct {
    int64_t batch, tokens, heads, rank, nope_dim, rope_dim, value_dim;
    llmc_rows_of q_nope, q_rope; /* [batch * tokens, heads * nope_dim] and [.., heads * rope_dim] */
    llmc_rows_of latent, k_rope; /* the call's own: [.., rank] and [.., rope_dim] */
    const void *kv_up;           /* [heads * (nope_dim + value_dim), rank] of `type` */
    void *latents, *k_ropes;     /* [batch, slots, rank] and [batch, slots, rope_dim] of `type`; position p in slot p */
    int64_t slots;
    int type; /* of numbers.h */
    const int64_t *position; /* [batch, tokens], -1 padding */
    float scale;
    float *absorbed, *context; /* [batch * tokens, heads * rank] each */
    float *out;                /* [batch * tokens, heads * value_dim] */
} llmc_latent;

/* Stores the call's latents and attends over all. Scratch: 64 * (rank + rope_dim) floats a thread. */
void llmc_latent_attend(llmc_thread *t, const llmc_latent *a);

#endif
