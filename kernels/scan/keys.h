/* What a token does to a head before any value is seen: its decay, and the rows that are written, read and erased with. */
#ifndef LLMC_SCAN_KEYS_H
#define LLMC_SCAN_KEYS_H

#include "../native/vector_math.h"
#include "native.h"

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t padded(int64_t n) { return (n + LLMC_LANES - 1) / LLMC_LANES * LLMC_LANES; }
LLMC_INLINE int part(int64_t left) { return left < LLMC_LANES ? (int)left : LLMC_LANES; }

/* What a token does to a head, each [padded key_dim] with zeros (decay: anything finite) beyond key_dim. */
typedef struct {
    float *decay, *amount, *key, *query, *erase, *write;
} token_keys;

#define KEY_ROWS 6

static token_keys keys_in(float *memory, int64_t size) {
    return (token_keys){memory, memory + size, memory + 2 * size, memory + 3 * size, memory + 4 * size, memory + 5 * size};
}

static const float *head_of(llmc_stream s, int64_t row, int64_t head, int64_t size) { return s.at + row * s.stride + head * size; }

/* The log decay of a head where it is the same for all tokens, [1] or [key_dim]; the zeros beyond are kept. */
static void constant_rate(const llmc_scan *a, int64_t head, float *rate) {
    int64_t count = a->decay_per == LLMC_DECAY_STATE ? a->key_dim : 1;
    const float *from = a->decay.at + head * count;
    for (int64_t i = 0; i < count; i += LLMC_LANES) {
        vf x = vf_load_part(from + i, part(count - i));
        vf_store_part(rate + i, a->is_A_log ? vf_zero() - vf_exp(x) : x, part(count - i));
    }
}

static void find_decay(const llmc_scan *a, int64_t row, int64_t head, float dt, const float *rate, float *decay) {
    int64_t n = a->key_dim;
    if (a->decay_per == LLMC_DECAY_STATE || a->decay_per == LLMC_DECAY_TOKEN_CHANNEL) {
        int is_own = a->decay_per == LLMC_DECAY_TOKEN_CHANNEL;
        const float *from = is_own ? head_of(a->decay, row, head, n) : rate;
        for (int64_t i = 0; i < n; i += LLMC_LANES) {
            vf x = vf_load_part(from + i, part(n - i));
            if (is_own && a->is_A_log) x = vf_zero() - vf_exp(x);
            vf_store(decay + i, vf_exp(x * vf_all(dt)));
        }
        return;
    }
    vf all = vf_all(1.0f);
    if (a->decay_per != LLMC_DECAY_NONE) {
        vf x = vf_all(a->decay_per == LLMC_DECAY_HEAD ? rate[0] : *head_of(a->decay, row, head, 1));
        if (a->decay_per == LLMC_DECAY_TOKEN_HEAD && a->is_A_log) x = vf_zero() - vf_exp(x);
        all = vf_exp(x * vf_all(dt));
    }
    for (int64_t i = 0; i < n; i += LLMC_LANES) vf_store(decay + i, all);
}

/* Everything of a token that does not depend on values. The key carries beta: it is what the delta rule takes away. */
static void find_keys(const llmc_scan *a, int64_t row, int64_t head, const float *rate, const token_keys *to) {
    int64_t n = a->key_dim, group = head / (a->heads / a->key_heads);
    float dt = a->dt.at ? *head_of(a->dt, row, head, 1) : 1.0f;
    float beta = a->beta.at ? *head_of(a->beta, row, head, 1) : 1.0f;
    const float *k = head_of(a->k, row, group, n), *q = head_of(a->q, row, group, n);
    find_decay(a, row, head, dt, rate, to->decay);
    for (int64_t i = 0; i < n; i += LLMC_LANES) {
        int left = part(n - i);
        vf key = vf_load_part(k + i, left);
        vf_store(to->key + i, key);
        vf_store(to->amount + i, key * vf_all(dt) * vf_all(beta));
        vf_store(to->query + i, vf_load_part(q + i, left) * vf_all(a->scale));
        if (a->update == LLMC_UPDATE_ERASE_WRITE) {
            vf_store(to->erase + i, vf_load_part(head_of(a->erase, row, head, n) + i, left));
            vf_store(to->write + i, vf_load_part(head_of(a->write, row, head, n) + i, left));
        }
        if (a->update == LLMC_UPDATE_DELTA) vf_store(to->write + i, key * vf_all(-beta));
    }
}

#endif
