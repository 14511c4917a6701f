/* Scores between the tokens of a chunk where every channel forgets at its own rate.
 *
 *     score of t and an earlier s = sum_i left_t[i] right_s[i] prod_{s < r <= t} decay_r[i]
 *
 * Tokens lie in blocks of four. Inside a block the product is built up token by token; between blocks a left row carries
 * the decays since the border before it, a right row those up to the end of its block. There are products of decays only
 * and no quotients: nothing overflows, and a decay of zero costs no digits elsewhere.
 */
#ifndef LLMC_SCAN_PAIRS_H
#define LLMC_SCAN_PAIRS_H

#include "../native/transpose.h"
#include "../native/vector.h"

#define PAIR_CHUNK 16 /* tokens, at most */
#define BLOCK 4
#define MOST_RIGHTS 2
#define SCORES (MOST_RIGHTS * PAIR_CHUNK) /* floats of a row of scores */
#if defined(LLMC_AVX512)
#define TILE_ROWS 4 /* so that a tile's sums stay in registers */
#else
#define TILE_ROWS 2
#endif

/* Rows of `size` channels, a multiple of LANES; zeros, and decays of 1, beyond the tokens. */
typedef struct {
    int64_t size;
    int rows;        /* tokens, to a multiple of BLOCK */
    int solves;      /* whether there is a system of equations */
    int rights;      /* kinds of right rows */
    float *decay;    /* [PAIR_CHUNK, size] what is kept of the state at a token */
    float *query;    /* [PAIR_CHUNK, size] left rows; in the end with all decays since the chunk's start */
    float *solve;    /* the same of the system: rows see the state as it was before their own token's decay */
    float *right[MOST_RIGHTS]; /* [PAIR_CHUNK, size]; in the end with all decays up to the chunk's end */
    float *whole;    /* [PAIR_CHUNK / BLOCK, size] decays of blocks; in the end the chunk's in the first */
    float *scores;   /* [PAIR_CHUNK, SCORES] a query's with each right row up to its own token's, kind after kind */
    float *system;   /* the same of the system, without its own token's */
} chunk_pairs;

/* Rows times the row `by`. */
static void decay_rows(float *rows, int count, const float *by, int64_t size) {
    for (int r = 0; r < count; r++)
        for (int64_t i = 0; i < size; i += LLMC_LANES)
            vf_store(rows + r * size + i, vf_load(rows + r * size + i) * vf_load(by + i));
}

/* The sums of vectors, as many as fill whole vectors with their sums. */
LLMC_INLINE void find_sums(const vf *of, int count, float *to) {
#pragma GCC unroll 4
    for (int i = 0; i < count; i += LLMC_LANES) vf_store(to + i, vf_sums(of + i));
}

/* Two tokens of the block at `first`, its first or last ones (P 0 or 2), with right rows of the block. `is_last`: their
 * left rows go on with the decays since the block's border. */
LLMC_INLINE void pairs_inside(int P, int solves, int is_last, const chunk_pairs *p, int first, int kind) {
    const float *decay = p->decay + first * p->size, *right = p->right[kind] + first * p->size;
    float *query = p->query + (first + P) * p->size, *solve = p->solve + (first + P) * p->size;
    vf sums[4 * BLOCK]; /* of two queries, then of two rows of the system */
#pragma GCC unroll 16
    for (int i = 0; i < 4 * BLOCK; i++) sums[i] = vf_zero();
    for (int64_t i = 0; i < p->size; i += LLMC_LANES) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            vf x = vf_load(query + j * p->size + i), y = solves ? vf_load(solve + j * p->size + i) : vf_zero();
#pragma GCC unroll 4
            for (int s = P + j; s >= 0; s--) {
                vf by = vf_load(decay + s * p->size + i), r = vf_load(right + s * p->size + i);
                sums[j * BLOCK + s] = vf_fma(x, r, sums[j * BLOCK + s]);
                x = x * by;
                if (!solves || s == P + j) continue;
                sums[(2 + j) * BLOCK + s] = vf_fma(y, r, sums[(2 + j) * BLOCK + s]);
                y = y * by;
            }
            if (!is_last) continue;
            vf_store(query + j * p->size + i, x);
            if (solves) vf_store(solve + j * p->size + i, y);
        }
    }
    float found[4 * BLOCK], *to = p->scores + (first + P) * SCORES + kind * PAIR_CHUNK + first;
    find_sums(sums, 4 * BLOCK, found);
    for (int j = 0; j < 2; j++) {
        memcpy(to + j * SCORES, found + j * BLOCK, BLOCK * sizeof(float));
        if (solves) memcpy(p->system + (to - p->scores) + j * SCORES, found + (2 + j) * BLOCK, BLOCK * sizeof(float));
    }
}

/* Left rows with the right rows of an earlier block. */
LLMC_INLINE void pairs_between(const float *left, const float *right, int64_t size, float *to) {
    vf sums[TILE_ROWS * BLOCK];
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS * BLOCK; i++) sums[i] = vf_zero();
    for (int64_t i = 0; i < size; i += LLMC_LANES) {
        vf r[BLOCK];
#pragma GCC unroll 4
        for (int s = 0; s < BLOCK; s++) r[s] = vf_load(right + s * size + i);
#pragma GCC unroll 4
        for (int t = 0; t < TILE_ROWS; t++) {
            vf x = vf_load(left + t * size + i);
#pragma GCC unroll 4
            for (int s = 0; s < BLOCK; s++) sums[t * BLOCK + s] = vf_fma(x, r[s], sums[t * BLOCK + s]);
        }
    }
    float found[TILE_ROWS * BLOCK];
    find_sums(sums, TILE_ROWS * BLOCK, found);
    for (int t = 0; t < TILE_ROWS; t++) memcpy(to + t * SCORES, found + t * BLOCK, BLOCK * sizeof(float));
}

/* All scores of the block at `first`; its left rows go on to the chunk's start. */
LLMC_INLINE void pairs_of_block(int solves, const chunk_pairs *p, int first) {
    for (int kind = 0; kind < p->rights; kind++) {
        int is_last = kind + 1 == p->rights;
        if (is_last) pairs_inside(0, solves, 1, p, first, kind), pairs_inside(2, solves, 1, p, first, kind);
        else pairs_inside(0, solves, 0, p, first, kind), pairs_inside(2, solves, 0, p, first, kind);
    }
    float *query = p->query + first * p->size, *solve = p->solve + first * p->size;
    for (int before = first - BLOCK; before >= 0; before -= BLOCK) {
        for (int kind = 0; kind < p->rights; kind++)
            for (int t = 0; t < BLOCK; t += TILE_ROWS) {
                int64_t to = (first + t) * SCORES + kind * PAIR_CHUNK + before;
                const float *right = p->right[kind] + before * p->size;
                pairs_between(query + t * p->size, right, p->size, p->scores + to);
                if (solves) pairs_between(solve + t * p->size, right, p->size, p->system + to);
            }
        decay_rows(query, BLOCK, p->whole + before / BLOCK * p->size, p->size);
        if (solves) decay_rows(solve, BLOCK, p->whole + before / BLOCK * p->size, p->size);
    }
}

/* The right rows of the block at `first` go on to its end, and its decays are one. */
static void close_block(const chunk_pairs *p, int first) {
    for (int64_t i = first * p->size; i < (first + 1) * p->size; i += LLMC_LANES) {
        vf by = vf_load(p->decay + i + (BLOCK - 1) * p->size);
        for (int t = BLOCK - 2; t >= 0; t--) {
            for (int kind = 0; kind < p->rights; kind++) {
                float *at = p->right[kind] + i + t * p->size;
                vf_store(at, vf_load(at) * by);
            }
            by = by * vf_load(p->decay + i + t * p->size);
        }
        vf_store(p->whole + i - first * p->size + first / BLOCK * p->size, by);
    }
}

/* Scores, and what the left rows read of the chunk's first state and the right rows leave in its last. */
static void find_pairs(const chunk_pairs *p) {
    for (int first = 0; first < p->rows; first += BLOCK) {
        if (p->solves) pairs_of_block(1, p, first);
        else pairs_of_block(0, p, first);
        close_block(p, first);
    }
    for (int first = p->rows - 2 * BLOCK; first >= 0; first -= BLOCK) {
        float *after = p->whole + (first / BLOCK + 1) * p->size;
        for (int kind = 0; kind < p->rights; kind++) decay_rows(p->right[kind] + first * p->size, BLOCK, after, p->size);
        decay_rows(p->whole + first / BLOCK * p->size, 1, after, p->size);
    }
}

#endif
