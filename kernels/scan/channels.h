/* The scan of heads that have one value each and only add (S6): heads side by side in vectors, a key at a time.
 *
 * A run of heads goes through all tokens with its states in a copy that lies keys first, [vectors, key_dim, LANES], so
 * that each token reads a few lines of every operand and no sum runs across a vector.
 */
#ifndef LLMC_SCAN_CHANNELS_H
#define LLMC_SCAN_CHANNELS_H

#include "../native/transpose.h"
#include "../native/vector_math.h"
#include "native.h"

#define CHANNEL_KEYS 4 /* keys whose decays are computed side by side */

/* Whether the heads of a vector share their key, and no operand is finer than a head and a key. */
static int takes_channels(const llmc_scan *a) {
    int64_t shared = a->heads / a->key_heads;
    return a->value_dim == 1 && a->update == LLMC_UPDATE_ADD && a->decay_per != LLMC_DECAY_TOKEN_CHANNEL && !a->beta.at &&
           (a->key_heads == 1 || shared % LLMC_LANES == 0);
}

/* to [to_rows, from_rows] is from [from_rows, to_rows] turned over, both within a square of LANES. */
LLMC_INLINE void transpose_part(float *to, int64_t to_step, int to_rows, const float *from, int64_t from_step, int from_rows) {
    vf square[LLMC_LANES];
    for (int i = 0; i < LLMC_LANES; i++)
        square[i] = i < from_rows ? vf_load_part(from + i * from_step, to_rows) : vf_zero();
    vf_transpose(square);
    for (int i = 0; i < to_rows; i++) vf_store_part(to + i * to_step, square[i], from_rows);
}

/* Between `count` heads of memory [heads, key_dim] and their copy [key_dim, LANES]. */
static void turn_heads(const llmc_scan *a, float *heads, float *copy, int count, int is_back) {
    for (int64_t i = 0; i < a->key_dim; i += LLMC_LANES) {
        int keys = a->key_dim - i < LLMC_LANES ? (int)(a->key_dim - i) : LLMC_LANES;
        if (is_back) transpose_part(heads + i, a->key_dim, count, copy + i * LLMC_LANES, LLMC_LANES, keys);
        else transpose_part(copy + i * LLMC_LANES, LLMC_LANES, keys, heads + i, a->key_dim, count);
    }
}

/* The log decays of `count` heads from `head` on, which are the same for all tokens: [key_dim, LANES] or [1, LANES]. */
static void channel_rates(const llmc_scan *a, float *rate, int64_t head, int count) {
    int64_t keys = a->decay_per == LLMC_DECAY_STATE ? a->key_dim : 1;
    if (a->decay_per == LLMC_DECAY_STATE) turn_heads(a, (float *)a->decay.at + head * a->key_dim, rate, count, 0);
    else vf_store_part(rate, vf_load_part(a->decay.at + head, count), count);
    if (!a->is_A_log) return;
    for (int64_t i = 0; i < keys; i++)
        vf_store_part(rate + i * LLMC_LANES, vf_zero() - vf_exp(vf_load_part(rate + i * LLMC_LANES, count)), count);
}

/* One token on a vector of heads, s and rate [key_dim, LANES]: what is read of the states. `decay` is that of all keys. */
LLMC_INLINE vf step_channels(int has_rates, int64_t key_dim, float *s, const float *rate, const float *k, const float *q,
                             vf dt, vf amount, vf decay) {
    vf read = vf_zero();
    int64_t i = 0;
    for (; i + CHANNEL_KEYS <= key_dim; i += CHANNEL_KEYS) {
        vf by[CHANNEL_KEYS];
#pragma GCC unroll 4
        for (int j = 0; j < CHANNEL_KEYS; j++)
            by[j] = has_rates ? vf_exp(vf_load(rate + (i + j) * LLMC_LANES) * dt) : decay;
#pragma GCC unroll 4
        for (int j = 0; j < CHANNEL_KEYS; j++) {
            float *at = s + (i + j) * LLMC_LANES;
            vf now = vf_fma(amount, vf_all(k[i + j]), vf_load(at) * by[j]);
            vf_store(at, now);
            read = vf_fma(vf_all(q[i + j]), now, read);
        }
    }
    for (; i < key_dim; i++) {
        vf by = has_rates ? vf_exp(vf_load(rate + i * LLMC_LANES) * dt) : decay;
        vf now = vf_fma(amount, vf_all(k[i]), vf_load(s + i * LLMC_LANES) * by);
        vf_store(s + i * LLMC_LANES, now);
        read = vf_fma(vf_all(q[i]), now, read);
    }
    return read;
}

/* The decay that all keys of `count` heads from `head` on share at a token. */
LLMC_INLINE vf channel_decay(const llmc_scan *a, int64_t row, int64_t head, int count, const float *rate, vf dt) {
    if (a->decay_per == LLMC_DECAY_NONE) return vf_all(1.0f);
    if (a->decay_per == LLMC_DECAY_HEAD) return vf_exp(vf_load_part(rate, count) * dt);
    vf x = vf_load_part(a->decay.at + row * a->decay.stride + head, count);
    return vf_exp((a->is_A_log ? vf_zero() - vf_exp(x) : x) * dt);
}

/* One token on `count` heads from `head` on. */
static void channel_token(const llmc_scan *a, float *s, const float *rate, int64_t row, int64_t head, int count) {
    int64_t group = head / (a->heads / a->key_heads);
    const float *k = a->k.at + row * a->k.stride + group * a->key_dim, *q = a->q.at + row * a->q.stride + group * a->key_dim;
    vf dt = a->dt.at ? vf_load_part(a->dt.at + row * a->dt.stride + head, count) : vf_all(1.0f);
    vf value = vf_load_part(a->v.at + row * a->v.stride + head, count), read;
    if (a->decay_per == LLMC_DECAY_STATE)
        read = step_channels(1, a->key_dim, s, rate, k, q, dt, dt * value, vf_zero());
    else
        read = step_channels(0, a->key_dim, s, rate, k, q, dt, dt * value, channel_decay(a, row, head, count, rate, dt));
    vf skip = a->skip ? vf_load_part(a->skip + head, count) : vf_zero();
    vf_store_part(a->out + row * a->heads + head, vf_fma(skip, value, read * vf_all(a->scale)), count);
}

/* Heads `first` to `last` of a row of the batch, through all tokens. */
static void run_channels(const llmc_scan *a, float *scratch, int64_t b, int64_t first, int64_t last) {
    int64_t size = a->key_dim * LLMC_LANES, vectors = (last - first + LLMC_LANES - 1) / LLMC_LANES;
    float *rates = scratch, *states = rates + vectors * size;
    memset(scratch, 0, 2 * vectors * size * sizeof(float));
#define EACH_VECTOR(i, head, count)                                                                   \
    for (int64_t i = 0, head = first, count; i < vectors; i++, head += LLMC_LANES)                    \
        if ((count = last - head < LLMC_LANES ? last - head : LLMC_LANES), 1)
    EACH_VECTOR(i, head, count) {
        if (a->decay_per == LLMC_DECAY_HEAD || a->decay_per == LLMC_DECAY_STATE)
            channel_rates(a, rates + i * size, head, (int)count);
        if (a->state) turn_heads(a, a->state + (b * a->heads + head) * a->key_dim, states + i * size, (int)count, 0);
    }
    for (int64_t row = b * a->tokens; row < (b + 1) * a->tokens; row++) {
        if (a->position[row] < 0) {
            memset(a->out + row * a->heads + first, 0, (last - first) * sizeof(float));
            continue;
        }
        EACH_VECTOR(i, head, count) channel_token(a, states + i * size, rates + i * size, row, head, (int)count);
    }
    if (a->state)
        EACH_VECTOR(i, head, count)
            turn_heads(a, a->state + (b * a->heads + head) * a->key_dim, states + i * size, (int)count, 1);
#undef EACH_VECTOR
}

#endif
