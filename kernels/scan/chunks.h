/* The scan of heads that forget by one factor and only add (SSD, linear attention, retention), some tokens at once.
 *
 * With a_t the log decay summed from the chunk's start, and S the state that the chunk begins with:
 *
 *     y_t = exp(a_t) S^T q_t + sum_{s <= t} exp(a_t - a_s) (q_t . k_s) dt_s v_s        S' = exp(a_C) S + sum_s ...
 *
 * Dao and Gu 2024, section 6; `chunked.py` is the same in torch. Scores q . k are made once for the heads of a unit, which
 * share a key. Sums of decays are float64, kept as two floats each.
 */
#ifndef LLMC_SCAN_CHUNKS_H
#define LLMC_SCAN_CHUNKS_H

#include <math.h>

#include "channels.h"
#include "products.h"

#define CHUNK 32 /* tokens: more cost more inside a chunk than they save between chunks */
#define LEAST_CHUNK 8 /* fewer tokens, or fewer keys, are no faster this way than one by one */
#define LEAST_KEYS 64
#define FORGOTTEN (-1e4)

/* What a thread needs for one unit. */
typedef struct {
    float *keys;    /* [CHUNK, padded key_dim] */
    float *turned;  /* [padded key_dim, CHUNK] */
    float *scores;  /* [CHUNK, CHUNK] q . k */
    float *weights; /* [CHUNK, CHUNK] of the values of a head */
    float *values, *amounts, *out; /* [CHUNK, count], amounts: what each token leaves at the chunk's end */
    float *high, *low, *dt; /* [CHUNK] the sum of log decays, in two parts */
    float *kept;    /* [CHUNK] exp(a_t) scale: what a token reads of the state */
    float *left;    /* [CHUNK] exp(a_C - a_t) dt_t: what it leaves in it */
    const float *rows[CHUNK]; /* of q */
    int64_t at[CHUNK]; /* the rows of the batch that are tokens */
    int count;
} chunk_memory;

static int takes_chunks(const llmc_scan *a) {
    return a->tokens >= LEAST_CHUNK && a->key_dim >= LEAST_KEYS && a->update == LLMC_UPDATE_ADD && !a->beta.at && a->decay_per != LLMC_DECAY_STATE &&
           a->decay_per != LLMC_DECAY_TOKEN_CHANNEL;
}

/* The next tokens of a row of the batch from `row` on; padding gives zeros. Returns the row after them. */
static int64_t gather_tokens(const llmc_scan *a, chunk_memory *m, int64_t row, int64_t end, int64_t first, int64_t floats) {
    for (m->count = 0; row < end && m->count < CHUNK; row++) {
        if (a->position[row] >= 0) m->at[m->count++] = row;
        else memset(a->out + row * a->heads * a->value_dim + first, 0, floats * sizeof(float));
    }
    return row;
}

/* The keys turned, and the scores of all pairs that may see one another. */
static void find_scores(const llmc_scan *a, chunk_memory *m, int64_t group) {
    int64_t n = a->key_dim, wide = (n + LLMC_LANES - 1) / LLMC_LANES * LLMC_LANES;
    for (int i = 0; i < m->count; i++) {
        memcpy(m->keys + i * wide, a->k.at + m->at[i] * a->k.stride + group * n, n * sizeof(float));
        m->rows[i] = a->q.at + m->at[i] * a->q.stride + group * n;
    }
    for (int64_t i = 0; i < m->count; i += LLMC_LANES)
        for (int64_t j = 0; j < n; j += LLMC_LANES) {
            int tokens = m->count - i < LLMC_LANES ? (int)(m->count - i) : LLMC_LANES;
            int keys = n - j < LLMC_LANES ? (int)(n - j) : LLMC_LANES;
            transpose_part(m->turned + j * CHUNK + i, CHUNK, keys, m->keys + i * wide + j, wide, tokens);
        }
    int64_t half = m->count > CHUNK / 2 ? CHUNK / 2 : m->count;
    product(m->rows, 1, half, n, 0, m->turned, CHUNK, m->scores, CHUNK, CHUNK / 2, 0, 0);
    product(m->rows + half, 1, m->count - half, n, 0, m->turned, CHUNK, m->scores + half * CHUNK, CHUNK, CHUNK, 0, 0);
}

/* A head's sums of log decays, and what follows from them for each token. */
static void find_decays(const llmc_scan *a, chunk_memory *m, int64_t head) {
    int is_own = a->decay_per == LLMC_DECAY_TOKEN_HEAD, last = m->count - 1;
    double sum = 0, rate = a->decay_per == LLMC_DECAY_HEAD ? a->decay.at[head] : 0;
    if (a->decay_per == LLMC_DECAY_HEAD && a->is_A_log) rate = -exp(rate);
    for (int i = 0; i <= last; i++) {
        m->dt[i] = a->dt.at ? a->dt.at[m->at[i] * a->dt.stride + head] : 1.0f;
        if (is_own) rate = a->decay.at[m->at[i] * a->decay.stride + head];
        double x = (is_own && a->is_A_log ? -exp(rate) : rate) * m->dt[i];
        sum += x < FORGOTTEN ? FORGOTTEN : x;
        m->high[i] = (float)sum;
        m->low[i] = (float)(sum - m->high[i]);
    }
    for (int i = 0; i <= last; i += LLMC_LANES) {
        vf high = vf_load(m->high + i), rest = (vf_all(m->high[last]) - high) + (vf_all(m->low[last]) - vf_load(m->low + i));
        vf_store(m->kept + i, vf_exp(high) * vf_all(a->scale));
        vf_store(m->left + i, vf_exp(rest) * vf_load(m->dt + i));
    }
}

/* What each token has of the values of each earlier one, and of its own. */
static void find_weights(const llmc_scan *a, chunk_memory *m, int64_t head) {
    for (int t = 0; t < m->count; t++) {
        for (int s = 0; s <= t; s += LLMC_LANES) {
            vf between = (vf_all(m->high[t]) - vf_load(m->high + s)) + (vf_all(m->low[t]) - vf_load(m->low + s));
            vf by = a->decay_per == LLMC_DECAY_NONE ? vf_all(1.0f) : vf_exp(between);
            by = by * vf_load(m->dt + s) * vf_all(a->scale);
            vf_store(m->weights + t * CHUNK + s, vf_load(m->scores + t * CHUNK + s) * by);
        }
        if (a->skip) m->weights[t * CHUNK + t] += a->skip[head];
        for (int s = t + 1; s <= (t | 3); s++) m->weights[t * CHUNK + s] = 0;
    }
}

/* `count` values of a head from `first` on, for the tokens of a chunk; s is their part of the state. */
static void chunk_values(const llmc_scan *a, chunk_memory *m, int64_t head, int64_t first, int64_t count, float *s, int64_t stride) {
    int64_t last = m->count - 1, at = head * a->value_dim + first, width = a->heads * a->value_dim;
    int is_dense = m->at[last] - m->at[0] == last; /* no padding between: operands are read where they lie */
    const float *by_weight[CHUNK], *by_key[4];
    const float *values = is_dense ? a->v.at + m->at[0] * a->v.stride + at : m->values;
    float *out = is_dense ? a->out + m->at[0] * width + at : m->out;
    int64_t values_step = is_dense ? a->v.stride : count, out_step = is_dense ? width : count;
    for (int64_t i = 0; i <= last; i++) {
        const float *v = a->v.at + m->at[i] * a->v.stride + at;
        for (int64_t j = 0; j < count; j += LLMC_LANES) {
            int part = count - j < LLMC_LANES ? (int)(count - j) : LLMC_LANES;
            vf x = vf_load_part(v + j, part);
            if (!is_dense) vf_store_part(m->values + i * count + j, x, part);
            vf_store_part(m->amounts + i * count + j, x * vf_all(m->left[i]), part);
        }
        by_weight[i] = m->weights + i * CHUNK;
    }
    product(m->rows, 1, m->count, a->key_dim, 0, s, stride, out, out_step, count, 0, 0);
    product(by_weight, 1, m->count, m->count, 1, values, values_step, out, out_step, count, m->kept, 1);
    float kept = expf(m->high[last]);
    for (int64_t i = 0; i < a->key_dim; i += 4) {
        int64_t rows = a->key_dim - i < 4 ? a->key_dim - i : 4;
        for (int64_t j = 0; j < rows; j++) by_key[j] = m->turned + (i + j) * CHUNK;
        product(by_key, 1, rows, m->count, 0, m->amounts, count, s + i * stride, stride, count, &kept, 0);
    }
    for (int64_t i = 0; i <= last && !is_dense; i++) memcpy(a->out + m->at[i] * width + at, m->out + i * count, count * sizeof(float));
}

/* Heads `head` to `last`, which share a key, through all tokens of a row of the batch: `count` values of each from
 * `first` on. */
static void run_chunks(const llmc_scan *a, float *scratch, int64_t b, int64_t head, int64_t last, int64_t first, int64_t count) {
    int64_t wide = (a->key_dim + LLMC_LANES - 1) / LLMC_LANES * LLMC_LANES, group = head / (a->heads / a->key_heads);
    int64_t sizes[] = {CHUNK * wide, wide * CHUNK, CHUNK * CHUNK, CHUNK * CHUNK, CHUNK * count, CHUNK * count, CHUNK * count,
                       CHUNK,        CHUNK,        CHUNK,         CHUNK,         CHUNK};
    chunk_memory m;
    float **parts[] = {&m.keys, &m.turned, &m.scores, &m.weights, &m.values, &m.amounts, &m.out, &m.high, &m.low, &m.dt, &m.kept, &m.left};
    float *states = scratch;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; states += (sizes[i] + 15) / 16 * 16, i++) *parts[i] = states;
    memset(scratch, 0, (states - scratch) * sizeof(float));
    if (!a->state) memset(states, 0, (last - head) * a->key_dim * count * sizeof(float));
    int64_t end = (b + 1) * a->tokens;
    for (int64_t row = b * a->tokens; row < end;) {
        /* with parts of a head's values, the other parts clear their own share of a padded row */
        int64_t from = head * a->value_dim + first, floats = last - head > 1 ? (last - head) * a->value_dim : count;
        row = gather_tokens(a, &m, row, end, from, floats);
        if (!m.count) break;
        find_scores(a, &m, group);
        for (int64_t h = head; h < last; h++) {
            int64_t stride = a->state ? a->value_dim : count;
            float *s = a->state ? a->state + (b * a->heads + h) * a->key_dim * a->value_dim + first : states + (h - head) * a->key_dim * count;
            find_decays(a, &m, h);
            find_weights(a, &m, h);
            chunk_values(a, &m, h, first, count, s, stride);
        }
    }
}

#endif
