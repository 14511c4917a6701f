/* Attention with a running softmax: keys in blocks, all queries of a kv head that share them together. */
#include "native.h"

#include "../native/vector_math.h"

#include <math.h>
#include <string.h>

#define KEYS 64        /* in a block */
#define MAX_QUERIES 64 /* of a chunk, all heads of a group counted */

/* A slot of the cache, counted over all rows and heads. */
static void *key_at(const llmc_attention *a, int64_t slot) { return llmc_element(a->keys, slot * a->key_dim, a->cache_type); }
static void *value_at(const llmc_attention *a, int64_t slot) { return llmc_element(a->values, slot * a->value_dim, a->cache_type); }

static int64_t length_after(const llmc_attention *a, int64_t b) {
    int64_t length = a->lengths[b];
    for (int64_t i = 0; i < a->tokens; i++)
        if (a->position[b * a->tokens + i] >= length) length = a->position[b * a->tokens + i] + 1;
    return length;
}

void llmc_append(llmc_thread *t, const llmc_attention *a) {
    LLMC_FOR(t, chunk, a->batch * a->kv_heads) {
        int64_t b = chunk / a->kv_heads, head = chunk % a->kv_heads, end = length_after(a, b);
        for (int64_t i = 0; i < a->tokens; i++) {
            int64_t row = b * a->tokens + i, position = a->position[row];
            if (position < 0 || (a->is_ring && position + a->slots < end)) continue;
            int64_t slot = chunk * a->slots + (a->is_ring ? position % a->slots : position);
            llmc_narrow(key_at(a, slot), 1, a->k + row * a->k_stride + head * a->key_dim, a->key_dim, a->cache_type);
            llmc_narrow(value_at(a, slot), 1, a->v + row * a->v_stride + head * a->value_dim, a->value_dim, a->cache_type);
        }
    }
}

void llmc_keep(llmc_thread *t, const llmc_attention *a) {
    LLMC_FOR(t, chunk, a->batch * a->kv_heads) {
        int64_t b = chunk / a->kv_heads, head = chunk % a->kv_heads;
        for (int64_t i = 0; i < a->tokens; i++) {
            int64_t row = b * a->tokens + i, slot = chunk * a->slots + i;
            llmc_narrow(key_at(a, slot), 1, a->k + row * a->k_stride + head * a->key_dim, a->key_dim, a->cache_type);
            llmc_narrow(value_at(a, slot), 1, a->v + row * a->v_stride + head * a->value_dim, a->value_dim, a->cache_type);
            if (head == 0) a->key_position[b * a->slots + i] = a->position[row];
        }
    }
}

typedef struct {
    const float *q[MAX_QUERIES]; /* of one token and head each */
    float *out[MAX_QUERIES];
    int64_t position[MAX_QUERIES];
    int head[MAX_QUERIES];
    float largest[MAX_QUERIES], sum[MAX_QUERIES];
    int count;
} queries;

static inline float dot(const float *x, const float *y, int64_t n) {
    vf a = vf_zero(), b = vf_zero();
    int64_t i = 0;
    for (; i + 2 * LLMC_LANES <= n; i += 2 * LLMC_LANES) {
        a = vf_fma(vf_load(x + i), vf_load(y + i), a);
        b = vf_fma(vf_load(x + i + LLMC_LANES), vf_load(y + i + LLMC_LANES), b);
    }
    for (; i < n; i += LLMC_LANES) {
        int rest = n - i < LLMC_LANES ? (int)(n - i) : LLMC_LANES;
        a = vf_fma(vf_load_part(x + i, rest), vf_load_part(y + i, rest), a);
    }
    return vf_sum(a + b);
}

static inline int sees(const llmc_attention *a, int64_t query, int64_t key) {
    if (key < 0 || (a->is_causal && key > query)) return 0;
    if (a->window && (key <= query - a->window || key >= query + a->window)) return 0;
    return !a->chunk || key / a->chunk == query / a->chunk;
}

/* Scores become weights relative to `largest`; returns their sum. */
static float weigh(float *scores, int count, float largest) {
    vf sum = vf_zero(), most = vf_all(largest);
    for (int i = 0; i < count; i += LLMC_LANES) {
        int rest = count - i < LLMC_LANES ? count - i : LLMC_LANES;
        vf weight = vf_exp(vf_load_part(scores + i, rest) - most);
        vf_store_part(scores + i, weight, rest);
        sum += vf_load_part(scores + i, rest);
    }
    return vf_sum(sum);
}

/* out = out * shrink + sum over keys of weight * value. */
static void gather_values(float *out, float shrink, const float *weights, const int *seen, int count, const float *values,
                          int64_t stride, int64_t n) {
    int64_t d = 0;
    for (; d + 4 * LLMC_LANES <= n; d += 4 * LLMC_LANES) {
        vf s = vf_all(shrink), sums[4];
        for (int j = 0; j < 4; j++) sums[j] = vf_load(out + d + j * LLMC_LANES) * s;
        for (int i = 0; i < count; i++) {
            vf w = vf_all(weights[i]);
            const float *value = values + seen[i] * stride + d;
            for (int j = 0; j < 4; j++) sums[j] = vf_fma(w, vf_load(value + j * LLMC_LANES), sums[j]);
        }
        for (int j = 0; j < 4; j++) vf_store(out + d + j * LLMC_LANES, sums[j]);
    }
    for (; d < n; d += LLMC_LANES) {
        int rest = n - d < LLMC_LANES ? (int)(n - d) : LLMC_LANES;
        vf sum = vf_load_part(out + d, rest) * vf_all(shrink);
        for (int i = 0; i < count; i++)
            sum = vf_fma(vf_all(weights[i]), vf_load_part(values + seen[i] * stride + d, rest), sum);
        vf_store_part(out + d, sum, rest);
    }
}

/* Folds a block of keys into the running result of every query. `where[i]` is the position of key i, -1 where unseen. */
static void fold(const llmc_attention *a, queries *qs, const float *keys, int64_t key_stride, const float *values,
                 int64_t value_stride, const int64_t *where, int count) {
    for (int n = 0; n < qs->count; n++) {
        int64_t at = qs->position[n];
        float scores[KEYS], largest = qs->largest[n];
        int seen[KEYS], found = 0;
        for (int i = 0; i < count; i++) {
            if (!sees(a, at, where[i])) continue;
            float score = dot(qs->q[n], keys + i * key_stride, a->key_dim) * a->scale;
            if (a->softcap != 0) score = a->softcap * tanhf(score / a->softcap);
            if (a->slopes) score -= a->slopes[qs->head[n]] * (float)(at > where[i] ? at - where[i] : where[i] - at);
            if (a->distance_bias) {
                int64_t distance = where[i] - at < -a->reach ? -a->reach : where[i] - at > a->reach ? a->reach : where[i] - at;
                score += a->distance_bias[qs->head[n] * (2 * a->reach + 1) + a->reach + distance];
            }
            scores[found] = score;
            seen[found++] = i;
            if (!(score <= largest)) largest = score;
        }
        if (found == 0 || largest == -INFINITY) continue;
        float shrink = largest == qs->largest[n] ? 1.0f : expf(qs->largest[n] - largest);
        qs->sum[n] = qs->sum[n] * shrink + weigh(scores, found, largest);
        qs->largest[n] = largest;
        gather_values(qs->out[n], shrink, scores, seen, found, values, value_stride, a->value_dim);
    }
}

/* The cached keys that some query of the chunk may see. */
static void fold_cache(llmc_thread *t, const llmc_attention *a, queries *qs, int64_t b, int64_t head, int64_t held,
                       int64_t first, int64_t last) {
    float *wide_keys = t->scratch, *wide_values = wide_keys + KEYS * a->key_dim;
    int64_t base = (b * a->kv_heads + head) * a->slots, where[KEYS];
    int64_t begin = held - a->slots > 0 && a->is_ring ? held - a->slots : 0;
    if (begin < first) begin = first;
    int64_t end = held < last ? held : last;
    if (a->key_position) begin = 0, end = a->slots;
    for (int64_t p = begin; p < end;) {
        int64_t slot = a->is_ring ? p % a->slots : p;
        int64_t count = end - p < KEYS ? end - p : KEYS;
        if (slot + count > a->slots) count = a->slots - slot;
        for (int i = 0; i < count; i++) where[i] = a->key_position ? a->key_position[b * a->slots + p + i] : p + i;
        const float *keys = key_at(a, base + slot), *values = value_at(a, base + slot);
        if (a->cache_type != LLMC_FLOAT32) {
            llmc_widen(wide_keys, keys, 1, count * a->key_dim, a->cache_type);
            llmc_widen(wide_values, values, 1, count * a->value_dim, a->cache_type);
            keys = wide_keys, values = wide_values;
        }
        fold(a, qs, keys, a->key_dim, values, a->value_dim, where, (int)count);
        p += count;
    }
}

/* The call's own keys, straight from its rows. */
static void fold_new(const llmc_attention *a, queries *qs, int64_t b, int64_t head) {
    for (int64_t i = 0; i < a->tokens; i += KEYS) {
        int count = (int)(a->tokens - i < KEYS ? a->tokens - i : KEYS);
        int64_t row = b * a->tokens + i;
        fold(a, qs, a->k + row * a->k_stride + head * a->key_dim, a->k_stride,
             a->v + row * a->v_stride + head * a->value_dim, a->v_stride, a->position + row, count);
    }
}

void llmc_attend(llmc_thread *t, const llmc_attention *a) {
    int64_t group = a->heads / a->kv_heads;
    int64_t heads_at_once = group < MAX_QUERIES ? group : MAX_QUERIES;
    int64_t parts = (group + heads_at_once - 1) / heads_at_once; /* of a group with very many heads */
    int64_t block = MAX_QUERIES / heads_at_once;
    if (block > 16) block = 16;
    int64_t blocks = (a->tokens + block - 1) / block;
    while (a->batch * a->kv_heads * parts * blocks > LLMC_MAX_CHUNKS) block *= 2, blocks = (a->tokens + block - 1) / block;
    LLMC_FOR(t, chunk, a->batch * a->kv_heads * parts * blocks) {
        int64_t b = chunk / (a->kv_heads * parts * blocks), rest = chunk % (a->kv_heads * parts * blocks);
        int64_t head = rest / (parts * blocks), part = rest / blocks % parts, first_row = rest % blocks * block;
        queries qs = {.count = 0};
        int64_t first = INT64_MAX, last = 0;
        for (int64_t i = first_row; i < first_row + block && i < a->tokens; i++) {
            int64_t row = b * a->tokens + i;
            for (int64_t g = part * heads_at_once; g < (part + 1) * heads_at_once && g < group; g++) {
                int h = (int)(head * group + g), n = qs.count;
                qs.out[n] = a->out + (row * a->heads + h) * a->value_dim;
                memset(qs.out[n], 0, a->value_dim * sizeof(float));
                if (a->position[row] < 0) continue;
                qs.q[n] = a->q + row * a->q_stride + h * a->key_dim;
                qs.position[n] = a->position[row];
                qs.head[n] = h;
                qs.largest[n] = a->sink ? a->sink[h] : -INFINITY;
                qs.sum[n] = a->sink ? 1 : 0;
                qs.count++;
            }
            int64_t at = a->position[row];
            if (at >= 0 && at < first) first = at;
            if (at >= last) last = at + 1;
        }
        if (qs.count == 0) continue;
        int64_t run = a->chunk ? first / a->chunk * a->chunk : 0;
        first = a->window ? first - a->window + 1 : 0;
        if (first < run) first = run;
        if (!a->is_causal) last = a->window ? last + a->window : INT64_MAX;
        if (a->keys) fold_cache(t, a, &qs, b, head, a->reads_new ? a->lengths[b] : length_after(a, b), first < 0 ? 0 : first, last);
        if (a->reads_new) fold_new(a, &qs, b, head);
        for (int n = 0; n < qs.count; n++) {
            float inverse = qs.sum[n] == 0 ? 0 : 1.0f / qs.sum[n];
            for (int64_t d = 0; d < a->value_dim; d++) qs.out[n][d] *= inverse;
        }
    }
}
