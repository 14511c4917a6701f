/* The scan in chunks where a state is also erased, or its channels forget at rates of their own: gated delta rules, Kimi's
 * channels, RWKV-7, gated linear attention.
 *
 * What is left in the state is rows of channels times rows of values: amounts times v, and writes times u, where
 *
 *     u_t = solve_t^T S_{t-1} + right_t        delta: solve = decayed key, right = -dt v; erase_write: solve = erase, right = 0
 *
 * With S the state that the chunk begins with, all rows decayed as `pairs.h` has them, and scores A, B of the system and
 * P, Q of the queries with writes and amounts:
 *
 *     (I - A) u = solve S + B v + right        y = query S + P u + Q v        S' = whole S + writes^T u + amounts^T v
 *
 * The system is unit lower triangular and solved forwards, four tokens at a time. Yang et al. 2024 ("Gated Delta
 * Networks", section 3) and `triton_delta.py` have the same algebra. A unit keeps its part of the states in a copy, cut
 * into strips of columns that the first cache holds.
 */
#ifndef LLMC_SCAN_DELTA_H
#define LLMC_SCAN_DELTA_H

#include "keys.h"
#include "pairs.h"
#include "products.h"

#define STRIP 64 /* columns */
#define MOST_HEADS 4 /* that go side by side: a second cache is to hold their states */
#define LEAST_DELTA_STATE 8192 /* floats beyond which a first cache does not hold a state that every token walks through */

/* What a thread needs for one unit: some values of some heads. */
typedef struct {
    chunk_pairs pairs;
    float *other; /* [size] a row that nothing asks for */
    float *rates; /* [heads, size] the log decays where they are the same for all tokens */
    float *columns; /* [MOST_RIGHTS * PAIR_CHUNK, STRIP] u and v, as the right rows of the pairs */
    float *out;     /* [PAIR_CHUNK, STRIP] */
    float *states;  /* [heads, strips, key_dim, STRIP] */
    const float *queries[PAIR_CHUNK], *solves[PAIR_CHUNK]; /* rows of the pairs */
    int64_t at[PAIR_CHUNK];          /* the rows of the batch that are tokens */
    int count;
} delta_memory;

/* Whether there are tokens for a chunk, and whether token by token is slower: products need a third fewer operations, but
 * scores, copies and the system eat that up where the first cache holds a head's state anyway. */
static int takes_delta(const llmc_scan *a) {
    int is_own = a->decay_per == LLMC_DECAY_STATE || a->decay_per == LLMC_DECAY_TOKEN_CHANNEL;
    return (is_own || a->update != LLMC_UPDATE_ADD) && a->tokens >= PAIR_CHUNK && a->key_dim * a->value_dim > LEAST_DELTA_STATE;
}

/* The rows of the chunk's tokens, before any decay. */
static void load_rows(const llmc_scan *a, delta_memory *m, int64_t head, const float *rate) {
    chunk_pairs *p = &m->pairs;
    int is_delta = a->update == LLMC_UPDATE_DELTA, count = m->count;
    int64_t size = p->size;
    p->rows = (count + BLOCK - 1) / BLOCK * BLOCK;
    p->right[1] = p->right[0] + p->rows * size;
    float *write = p->solves ? p->right[0] : 0, *amount = is_delta ? 0 : p->right[p->solves];
    for (int t = 0; t < count; t++) {
        token_keys to = {p->decay + t * size, is_delta ? m->other : amount + t * size, is_delta ? p->solve + t * size : m->other,
                         p->query + t * size, p->solve + t * size, p->solves ? write + t * size : 0};
        find_keys(a, m->at[t], head, rate, &to);
    }
    if (is_delta)
        for (int64_t i = 0; i < count * size; i += LLMC_LANES) vf_store(p->solve + i, vf_load(p->solve + i) * vf_load(p->decay + i));
    for (int64_t i = count * size; i < p->rows * size; i++) {
        p->decay[i] = 1, p->query[i] = p->solve[i] = 0;
        for (int kind = 0; kind < p->rights; kind++) p->right[kind][i] = 0;
    }
}

/* (I - A) u = what is in u, a strip of `wide` columns. */
static void solve_rows(const chunk_pairs *p, float *u, int64_t wide) {
    const float one = 1, *rows[BLOCK];
    for (int first = 0; first < p->rows; first += BLOCK) {
        const float *system = p->system + first * SCORES;
        float *at = u + first * STRIP;
        for (int t = 0; t < BLOCK; t++) rows[t] = system + t * SCORES;
        product_rows(BLOCK, rows, 1, first, u, STRIP, at, STRIP, wide, &one, 0);
        for (int64_t j = 0; j < wide; j += LLMC_LANES) {
            vf x[BLOCK];
#pragma GCC unroll 4
            for (int t = 0; t < BLOCK; t++) {
                x[t] = vf_load(at + t * STRIP + j);
#pragma GCC unroll 4
                for (int s = 0; s < t; s++) x[t] = vf_fma(vf_all(rows[t][first + s]), x[s], x[t]);
                vf_store(at + t * STRIP + j, x[t]);
            }
        }
    }
}

static void add_rows(float *to, const float *x, int rows, int64_t wide) {
    for (int t = 0; t < rows; t++)
        for (int64_t j = 0; j < wide; j += LLMC_LANES)
            vf_store(to + t * STRIP + j, vf_load(to + t * STRIP + j) + vf_load(x + t * STRIP + j));
}

/* to [rows, wide] is the strip of v, times -dt where the delta rule is to solve for it; zeros beyond tokens and columns. */
static void load_values(const llmc_scan *a, const delta_memory *m, int64_t head, int64_t first, int64_t count, float *to) {
    int64_t wide = padded(count);
    for (int t = 0; t < m->count; t++) {
        const float *v = head_of(a->v, m->at[t], head, a->value_dim) + first;
        float by = a->dt.at ? -*head_of(a->dt, m->at[t], head, 1) : -1.0f;
        if (a->update != LLMC_UPDATE_DELTA) by = 1;
        for (int64_t j = 0; j < wide; j += LLMC_LANES) vf_store(to + t * STRIP + j, vf_load_part(v + j, part(count - j)) * vf_all(by));
    }
    for (int t = m->count; t < m->pairs.rows; t++) memset(to + t * STRIP, 0, wide * sizeof(float));
}

/* The result, and the skip. */
static void store_out(const llmc_scan *a, const delta_memory *m, int64_t head, int64_t first, int64_t count) {
    vf skip = vf_all(a->skip ? a->skip[head] : 0);
    for (int t = 0; t < m->count; t++) {
        const float *v = head_of(a->v, m->at[t], head, a->value_dim) + first;
        float *y = a->out + (m->at[t] * a->heads + head) * a->value_dim + first;
        for (int64_t j = 0; j < count; j += LLMC_LANES) {
            vf x = vf_load(m->out + t * STRIP + j);
            if (a->skip) x = vf_fma(skip, vf_load_part(v + j, part(count - j)), x);
            vf_store_part(y + j, x, part(count - j));
        }
    }
}

/* The chunk's tokens on one strip, `count` columns of the head's values from `first` on; s is its state. */
static void run_strip(const llmc_scan *a, delta_memory *m, int64_t head, int64_t first, int64_t count, float *s) {
    const chunk_pairs *p = &m->pairs;
    const float one = 1, *rows[PAIR_CHUNK];
    int64_t wide = padded(count), n = a->key_dim;
    int inputs = p->rights * p->rows;
    float *u = m->columns, *v = a->update == LLMC_UPDATE_DELTA ? m->out : u + (p->rights - 1) * p->rows * STRIP;
    load_values(a, m, head, first, count, v);
    if (p->solves) {
        product(m->solves, 1, p->rows, n, 0, s, STRIP, u, STRIP, wide, 0, 0);
        for (int t = 0; t < p->rows; t++) rows[t] = p->system + t * SCORES + PAIR_CHUNK;
        if (p->rights == 2) product(rows, 1, p->rows, p->rows, 1, v, STRIP, u, STRIP, wide, &one, 0);
        else add_rows(u, v, p->rows, wide);
        solve_rows(p, u, wide);
    }
    product(m->queries, 1, p->rows, n, 0, s, STRIP, m->out, STRIP, wide, 0, 0);
    for (int kind = 0; kind < p->rights; kind++) {
        for (int t = 0; t < p->rows; t++) rows[t] = p->scores + t * SCORES + kind * PAIR_CHUNK;
        product(rows, 1, p->rows, p->rows, 1, u + kind * p->rows * STRIP, STRIP, m->out, STRIP, wide, &one, 0);
    }
    store_out(a, m, head, first, count);
    for (int64_t i = 0; i < n; i += 4) {
        int64_t left = n - i < 4 ? n - i : 4;
        for (int64_t j = 0; j < left; j++) rows[j] = p->right[0] + i + j;
        product(rows, p->size, left, inputs, 0, u, STRIP, s + i * STRIP, STRIP, wide, p->whole + i, 1);
    }
}

/* Between `count` columns of a head's state and strips of them; beyond them strips hold zeros. */
static void copy_strips(const llmc_scan *a, float *state, float *strips, int64_t count, int is_back) {
    for (int64_t at = 0; at < count; at += STRIP, strips += a->key_dim * STRIP) {
        int64_t columns = smaller(count - at, STRIP);
        for (int64_t i = 0; i < a->key_dim; i++)
            for (int64_t j = 0; j < columns; j += LLMC_LANES) {
                float *from = state + i * a->value_dim + at + j, *to = strips + i * STRIP + j;
                if (is_back) vf_store_part(from, vf_load(to), part(columns - j));
                else vf_store(to, vf_load_part(from, part(columns - j)));
            }
    }
}

/* Floats of the strips of one head. */
static int64_t strips_of(const llmc_scan *a, int64_t count) { return (count + STRIP - 1) / STRIP * a->key_dim * STRIP; }

static delta_memory delta_memory_in(const llmc_scan *a, float *scratch, int64_t heads, int64_t count) {
    delta_memory m = {.pairs = {.size = padded(a->key_dim), .solves = a->update != LLMC_UPDATE_ADD}};
    chunk_pairs *p = &m.pairs;
    p->rights = a->update == LLMC_UPDATE_ERASE_WRITE ? 2 : 1;
    int64_t rows = PAIR_CHUNK * p->size;
    int64_t sizes[] = {rows, rows, rows, MOST_RIGHTS * rows, rows / BLOCK, PAIR_CHUNK * SCORES, PAIR_CHUNK * SCORES,
                       p->size, heads * p->size, SCORES * STRIP, PAIR_CHUNK * STRIP, heads * strips_of(a, count)};
    float **parts[] = {&p->decay, &p->query, &p->solve, &p->right[0], &p->whole, &p->scores, &p->system,
                       &m.other, &m.rates, &m.columns, &m.out, &m.states};
    float *at = scratch;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; at += (sizes[i] + 15) / 16 * 16, i++) *parts[i] = at;
    memset(scratch, 0, (at - scratch) * sizeof(float));
    for (int t = 0; t < PAIR_CHUNK; t++) m.queries[t] = p->query + t * p->size, m.solves[t] = p->solve + t * p->size;
    return m;
}

/* `count` values of heads `head` to `last` from `first` on, through all tokens of a row of the batch. Heads go side by side
 * from chunk to chunk: what they read of a token lies together. */
static void run_delta(const llmc_scan *a, float *scratch, int64_t b, int64_t head, int64_t last, int64_t first, int64_t count) {
    delta_memory m = delta_memory_in(a, scratch, last - head, count);
    int64_t size = a->key_dim * a->value_dim, strips = strips_of(a, count);
    float *state = a->state ? a->state + b * a->heads * size + first : 0;
    for (int64_t h = head; h < last; h++) {
        if (state) copy_strips(a, state + h * size, m.states + (h - head) * strips, count, 0);
        if (a->decay_per == LLMC_DECAY_HEAD || a->decay_per == LLMC_DECAY_STATE)
            constant_rate(a, h, m.rates + (h - head) * m.pairs.size);
    }
    int64_t end = (b + 1) * a->tokens, width = a->heads * a->value_dim;
    int64_t from = head * a->value_dim + first, floats = (last - head - 1) * a->value_dim + count;
    for (int64_t row = b * a->tokens; row < end;) {
        for (m.count = 0; row < end && m.count < PAIR_CHUNK; row++) {
            if (a->position[row] >= 0) m.at[m.count++] = row;
            else memset(a->out + row * width + from, 0, floats * sizeof(float));
        }
        if (!m.count) break;
        for (int64_t h = head; h < last; h++) {
            load_rows(a, &m, h, m.rates + (h - head) * m.pairs.size);
            find_pairs(&m.pairs);
            float *states = m.states + (h - head) * strips;
            for (int64_t at = 0; at < count; at += STRIP)
                run_strip(a, &m, h, first + at, smaller(count - at, STRIP), states + at * a->key_dim);
        }
    }
    for (int64_t h = head; h < last && state; h++) copy_strips(a, state + h * size, m.states + (h - head) * strips, count, 1);
}

#endif
