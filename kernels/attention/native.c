/* Attention with a running softmax: keys in blocks, all queries of a kv head that share them together. */
#include "native.h"

#include "../native/row_products.h"
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

static inline int sees(const llmc_attention *a, int64_t query, int64_t key) {
    if (key < 0 || (a->is_causal && key > query)) return 0;
    if (a->window && (key <= query - a->window || key >= query + a->window)) return 0;
    return !a->chunk || key / a->chunk == query / a->chunk;
}

/* The products of a query with each key, scaled, and minus infinity up to a whole vector; returns the largest. */
static float score_keys(float *scores, const float *q, const float *keys, int64_t stride, int64_t n, int count, float scale) {
    vf largest = vf_all(-INFINITY);
    if (count < LLMC_LANES) {
        vf_store(scores, vf_products_part(keys, stride, q, n, count) * vf_all(scale));
        for (int i = count; i < LLMC_LANES; i++) scores[i] = -INFINITY;
        return vf_largest(vf_load(scores));
    }
    for (int i = 0; i < count; i += LLMC_LANES) {
        if (i > count - LLMC_LANES) i = count - LLMC_LANES; /* some once more, rather than a part of a vector */
        vf v = vf_products(keys + i * stride, stride, q, n) * vf_all(scale);
        vf_store(scores + i, v);
        largest = vf_max(largest, v);
    }
    for (int i = count; i % LLMC_LANES; i++) scores[i] = -INFINITY;
    return vf_largest(largest);
}

/* What is added to scores beside the product; keys that the query does not see are taken out. Returns how many stay. */
static int adjust(const llmc_attention *a, int64_t at, int head, const int64_t *where, int count, float *scores, int *seen,
                  float *largest) {
    int found = 0;
    for (int i = 0; i < count; i++) {
        if (!sees(a, at, where[i])) continue;
        float score = scores[i];
        if (a->softcap != 0) score = a->softcap * tanhf(score / a->softcap);
        if (a->slopes) score -= a->slopes[head] * (float)(at > where[i] ? at - where[i] : where[i] - at);
        if (a->distance_bias) {
            int64_t distance = where[i] - at < -a->reach ? -a->reach : where[i] - at > a->reach ? a->reach : where[i] - at;
            score += a->distance_bias[head * (2 * a->reach + 1) + a->reach + distance];
        }
        scores[found] = score;
        seen[found++] = i;
        if (!(score <= *largest)) *largest = score;
    }
    for (int i = found; i % LLMC_LANES; i++) scores[i] = -INFINITY;
    return found;
}

/* Scores become weights relative to `largest`; returns their sum. */
static float weigh(float *scores, int count, float largest) {
    vf sum = vf_zero(), most = vf_all(largest);
    for (int i = 0; i < count; i += LLMC_LANES) {
        vf weight = vf_exp(vf_load(scores + i) - most);
        vf_store(scores + i, weight);
        sum += weight;
    }
    return vf_sum(sum);
}

/* out = out * shrink + sum over keys of weight * value; `seen` NULL: of all keys. */
LLMC_INLINE void gather_values(float *out, float shrink, const float *weights, const int *seen, int count,
                               const float *values, int64_t stride, int64_t n) {
    int64_t d = 0;
    for (; d + 4 * LLMC_LANES <= n; d += 4 * LLMC_LANES) {
        vf s = vf_all(shrink), sums[4];
        for (int j = 0; j < 4; j++) sums[j] = vf_load(out + d + j * LLMC_LANES) * s;
        for (int i = 0; i < count; i++) {
            vf w = vf_all(weights[i]);
            const float *value = values + (seen ? seen[i] : i) * stride + d;
            for (int j = 0; j < 4; j++) sums[j] = vf_fma(w, vf_load(value + j * LLMC_LANES), sums[j]);
        }
        for (int j = 0; j < 4; j++) vf_store(out + d + j * LLMC_LANES, sums[j]);
    }
    for (; d < n; d += LLMC_LANES) {
        int rest = n - d < LLMC_LANES ? (int)(n - d) : LLMC_LANES, i = 0;
        vf sums[4] = {vf_load_part(out + d, rest) * vf_all(shrink), vf_zero(), vf_zero(), vf_zero()};
        if (rest == LLMC_LANES)
            for (; i + 4 <= count; i += 4)
                for (int j = 0; j < 4; j++)
                    sums[j] = vf_fma(vf_all(weights[i + j]), vf_load(values + (seen ? seen[i + j] : i + j) * stride + d), sums[j]);
        for (; i < count; i++)
            sums[0] = vf_fma(vf_all(weights[i]), vf_load_part(values + (seen ? seen[i] : i) * stride + d, rest), sums[0]);
        vf_store_part(out + d, (sums[0] + sums[1]) + (sums[2] + sums[3]), rest);
    }
}

/* Folds a block of keys into the running result of every query. `where[i]` is the position of key i, -1 where unseen;
 * `is_run`: they follow one another, so that what a query sees of them is known by the first and the last of those that
 * are not ahead of it. */
static void fold(const llmc_attention *a, queries *qs, const float *keys, int64_t key_stride, const float *values,
                 int64_t value_stride, const int64_t *where, int count, int is_run) {
    int is_bare = is_run && a->softcap == 0 && !a->slopes && !a->distance_bias;
    for (int n = 0; n < qs->count; n++) {
        int64_t at = qs->position[n], ahead = is_run && a->is_causal ? where[0] + count - 1 - at : 0;
        int seen[KEYS], held = ahead > 0 ? (int)(count - ahead) : count, found = held;
        if (ahead >= count) continue;
        int sees_all = sees(a, at, where[0]) && sees(a, at, where[held - 1]);
        float scores[KEYS], largest = qs->largest[n];
        float most = score_keys(scores, qs->q[n], keys, key_stride, a->key_dim, held, a->scale);
        int is_whole = is_bare && sees_all && most != -INFINITY;
        if (!is_whole) found = adjust(a, at, qs->head[n], where, held, scores, seen, &largest);
        else if (!(most <= largest)) largest = most;
        if (found == 0 || largest == -INFINITY) continue;
        float shrink = largest == qs->largest[n] ? 1.0f : expf(qs->largest[n] - largest);
        qs->sum[n] = qs->sum[n] * shrink + weigh(scores, found, largest);
        qs->largest[n] = largest;
        if (is_whole) gather_values(qs->out[n], shrink, scores, NULL, held, values, value_stride, a->value_dim);
        else gather_values(qs->out[n], shrink, scores, seen, found, values, value_stride, a->value_dim);
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
        fold(a, qs, keys, a->key_dim, values, a->value_dim, where, (int)count, !a->key_position);
        p += count;
    }
}

/* The call's own keys, straight from its rows. */
static void fold_new(const llmc_attention *a, queries *qs, int64_t b, int64_t head) {
    for (int64_t i = 0; i < a->tokens; i += KEYS) {
        int count = (int)(a->tokens - i < KEYS ? a->tokens - i : KEYS);
        int64_t row = b * a->tokens + i;
        fold(a, qs, a->k + row * a->k_stride + head * a->key_dim, a->k_stride,
             a->v + row * a->v_stride + head * a->value_dim, a->v_stride, a->position + row, count, count == 1);
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
        queries qs;
        qs.count = 0;
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
