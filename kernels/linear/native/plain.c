/* Matrix-vector products with plain rows in fp32, bf16 or fp16: a few rows at once, each read from front to end.
 *
 * A register of weights is a whole cache line: bf16 is split into even and odd columns by a shift and a mask, x by two
 * permutations that all rows share; what reads fewer bytes an instruction does not reach the memory's bandwidth.
 */
#include "groups.h"
#include "row_products.h"

#ifndef LLMC_AHEAD_PLAIN
#define LLMC_AHEAD_PLAIN 8192 /* bytes between what is read and what is prefetched, where two rows are read at once */
#endif
#define SHORT_ROW 1024 /* bytes, below which the loop itself is what costs */
#define SHORT_FLOATS 1024 /* columns up to which the rows of a whole group of floats are read at once: 4 KB, a page */
#define STEP (2 * LLMC_LANES) /* columns taken at once */
#if defined(LLMC_AVX512)
#define MOST_SUMS 16
#else
#define MOST_SUMS 8
#endif

LLMC_INLINE int bytes_of(int format) { return format == LLMC_FP32 ? 4 : 2; }

typedef struct {
    vf a, b;
} pair;

/* STEP columns of x or of a row: the evens and the odds for bf16 beside few rows of x, where that is cheaper to make
 * than to widen each half; the first and the second half otherwise. */
LLMC_INLINE pair arrange(int is_split, vf a, vf b) { return is_split ? (pair){vf_evens(a, b), vf_odds(a, b)} : (pair){a, b}; }
LLMC_INLINE pair weights(int format, int is_split, const char *p) {
    if (format == LLMC_FP32) return (pair){vf_load((const float *)p), vf_load((const float *)p + LLMC_LANES)};
    if (format == LLMC_FP16) return (pair){vf_load_fp16(p), vf_load_fp16(p + 2 * LLMC_LANES)};
    if (!is_split) return (pair){vf_load_bf16(p), vf_load_bf16(p + 2 * LLMC_LANES)};
    vi both = vi_load(p);
    return (pair){vf_bits(both << 16), vf_bits(both & vi_all((int32_t)0xffff0000u))};
}

/* sums[r][i] = the products of ROWS rows i of the weight with R rows of x, by lane. */
LLMC_INLINE void rows_by_x(int format, int ROWS, int R, const char *const *w, const float *const *x, int64_t K,
                           int fetches, vf (*sums)[LLMC_GROUP]) {
    const int IS_SPLIT = format == LLMC_BF16 && R <= 2, SUMS = ROWS * R * 2 <= MOST_SUMS ? 2 : 1;
    vf sum[2][4][8];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sum[0][i][r] = sum[1][i][r] = vf_zero();
    }
    int64_t k = 0, ahead = R == 4 ? 8 * K * bytes_of(format) : LLMC_AHEAD_PLAIN;
    for (; k + STEP <= K; k += STEP) {
        pair v[8];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) v[r] = arrange(IS_SPLIT, vf_load(x[r] + k), vf_load(x[r] + k + LLMC_LANES));
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            const char *at = w[i] + k * bytes_of(format);
#pragma GCC unroll 2
            for (int line = 0; line < (LLMC_LANES == 16 ? 32 * bytes_of(format) : 64); line += 64)
                if (fetches && (LLMC_LANES == 16 || k % 32 == 0)) __builtin_prefetch(at + ahead + line, 0, 2);
            pair c = weights(format, IS_SPLIT, at);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                sum[0][i][r] = vf_fma(c.a, v[r].a, sum[0][i][r]);
                sum[SUMS - 1][i][r] = vf_fma(c.b, v[r].b, sum[SUMS - 1][i][r]);
            }
        }
    }
    if (k < K) {
        int64_t rest = K - k;
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            char last[STEP * 4] = {0};
            memcpy(last, w[i] + k * bytes_of(format), (size_t)(rest * bytes_of(format)));
            pair c = weights(format, IS_SPLIT, last);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                float tail[STEP] = {0};
                memcpy(tail, x[r] + k, (size_t)rest * 4);
                pair v = arrange(IS_SPLIT, vf_load(tail), vf_load(tail + LLMC_LANES));
                sum[0][i][r] = vf_fma(c.a, v.a, vf_fma(c.b, v.b, sum[0][i][r]));
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sums[r][i] = SUMS == 2 ? sum[0][i][r] + sum[1][i][r] : sum[0][i][r];
    }
}

/* Where the rows of a group of floats lie one after another; NULL where some are missing, or of another part. */
LLMC_INLINE const float *whole_group(const llmc_matrix *m, int64_t g, int half) {
    int64_t row = llmc_first_row(m, g, half), first = 0, part = 0;
    if (llmc_rows_left(m, g) < LLMC_GROUP) return 0;
    if (!m->parts) return (const float *)m->weight + row * m->K;
    for (; row >= m->ends[part]; part++) first = m->ends[part];
    return row + LLMC_GROUP <= m->ends[part] ? (const float *)m->parts[part] + (row - first) * m->K : 0;
}

static void short_group(const float *w, const float *x, int64_t K, float *out) {
    for (int i = 0; i < LLMC_GROUP; i += LLMC_LANES) vf_store(out + i, vf_products(w + i * K, K, x, K));
}

/* A few rows of the weight at once; of more rows of x than registers hold sums for, first one half and then the other. */
LLMC_INLINE void group(int format, int R, const llmc_matrix *m, int64_t g, int half, const float *const *x, float *out) {
    const int PART = R == 8 ? 4 : R, ROWS = MOST_SUMS / PART < 4 ? MOST_SUMS / PART : R == 4 || R == 8 ? 4 : 2;
    int64_t first = llmc_first_row(m, g, half), stride = m->K * bytes_of(format);
    int left = llmc_rows_left(m, g);
    vf sums[8][LLMC_GROUP];
    const char *w[LLMC_GROUP];
    for (int i = 0; i < LLMC_GROUP; i++) w[i] = llmc_row(m, first + (i < left ? i : left - 1), stride);
    for (int r = 0; r < R; r++)
        for (int i = left; i < LLMC_GROUP; i++) sums[r][i] = vf_zero();
    if (R == 1 && stride < SHORT_ROW)
        for (int i = 0; i < left; i += 4) rows_by_x(format, 4, 1, w + i, x, m->K, 0, (vf(*)[LLMC_GROUP]) & sums[0][i]);
    else
        for (int i = 0; i < left; i += ROWS)
            for (int r = 0; r < R; r += PART)
                rows_by_x(format, ROWS, PART, w + i, x + r, m->K, 1, (vf(*)[LLMC_GROUP]) & sums[r][i]);
    for (int r = 0; r < R; r++)
        for (int part = 0; part < LLMC_PARTS; part++) {
            vf total = vf_zero();
            vf_transpose(sums[r] + part * LLMC_LANES);
            for (int i = 0; i < LLMC_LANES; i++) total += sums[r][part * LLMC_LANES + i];
            vf_store(out + r * LLMC_GROUP + part * LLMC_LANES, total);
        }
}

#define CASES(FORMAT)                                      \
    switch (R) {                                           \
    case 1: group(FORMAT, 1, m, g, half, x, out); return;  \
    case 2: group(FORMAT, 2, m, g, half, x, out); return;  \
    case 4: group(FORMAT, 4, m, g, half, x, out); return;  \
    default: group(FORMAT, 8, m, g, half, x, out); return; \
    }

void llmc_plain_sums(const llmc_matrix *m, int64_t g, int half, const float *const *x, int R, float *out) {
    const float *whole = m->format == LLMC_FP32 && R == 1 && m->K <= SHORT_FLOATS ? whole_group(m, g, half) : 0;
    if (whole) {
        short_group(whole, x[0], m->K, out);
        return;
    }
    if (m->format == LLMC_FP32) CASES(LLMC_FP32)
    if (m->format == LLMC_BF16) CASES(LLMC_BF16)
    CASES(LLMC_FP16)
}
