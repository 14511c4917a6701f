/* Vectors times a matrix that is stored input by input: out[r, i] = sum over k of x[r, k] W[k, i].
 *
 * A few outputs are held in registers while k runs, so that each weight is read once for up to four rows of x.
 */
#ifndef LLMC_COLUMNS_H
#define LLMC_COLUMNS_H

#include "numbers.h"
#include "vector.h"

LLMC_INLINE vf llmc_load_typed(int type, const char *p, int count) {
    if (type == LLMC_FLOAT32) return count == LLMC_LANES ? vf_load((const float *)p) : vf_load_part((const float *)p, count);
    vh h;
    if (count == LLMC_LANES) memcpy(&h, p, sizeof h);
    else h = vh_load_part(p, count);
    return type == LLMC_BFLOAT16 ? vf_from_bf16(h) : vf_from_fp16(h);
}

/* N vectors of outputs, the last with `left` of them, for R rows of x. Rows of W are `step` elements apart. */
LLMC_INLINE void llmc_columns(int type, int N, int R, const char *at, int64_t step, int64_t inputs, int left,
                              const float *const *x, float *out, int64_t out_stride) {
    const int64_t size = llmc_size(type);
    vf sum[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) sum[r][j] = vf_zero();
    }
    for (int64_t k = 0; k < inputs; k++, at += step * size) {
        __builtin_prefetch(at + 16 * step * size, 0, 2);
        vf w[4];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            w[j] = llmc_load_typed(type, at + j * LLMC_LANES * size, j + 1 < N ? LLMC_LANES : left);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            vf by = vf_all(x[r][k]);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) sum[r][j] = vf_fma(by, w[j], sum[r][j]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            vf_store_part(out + r * out_stride + j * LLMC_LANES, sum[r][j], j + 1 < N ? LLMC_LANES : left);
    }
}

LLMC_INLINE void llmc_column_rows(int type, int R, const char *at, int64_t step, int64_t inputs, int64_t count,
                                  const float *const *x, float *out, int64_t out_stride) {
    const int64_t size = llmc_size(type);
    int64_t i = 0;
    for (; i + 4 * LLMC_LANES <= count; i += 4 * LLMC_LANES)
        llmc_columns(type, 4, R, at + i * size, step, inputs, LLMC_LANES, x, out + i, out_stride);
    for (; i < count; i += LLMC_LANES)
        llmc_columns(type, 1, R, at + i * size, step, inputs, count - i < LLMC_LANES ? (int)(count - i) : LLMC_LANES, x,
                     out + i, out_stride);
}

#define LLMC_COLUMN_ROWS(TYPE)                                                                                          \
    for (; rows >= 4; rows -= 4, x += 4, out += 4 * out_stride)                                                         \
        llmc_column_rows(TYPE, 4, weight, step, inputs, count, x, out, out_stride);                                     \
    for (; rows > 0; rows--, x++, out += out_stride) llmc_column_rows(TYPE, 1, weight, step, inputs, count, x, out, out_stride);

/* out[r * out_stride + i] for i < count and r < rows; weight [inputs, count] of a type of numbers.h, rows `step`
 * elements apart. */
static inline void llmc_column_sums(int type, const void *matrix, int64_t step, int64_t inputs, int64_t count,
                                    const float *const *x, int rows, float *out, int64_t out_stride) {
    const char *weight = matrix;
    if (type == LLMC_FLOAT32) { LLMC_COLUMN_ROWS(LLMC_FLOAT32) }
    else if (type == LLMC_BFLOAT16) { LLMC_COLUMN_ROWS(LLMC_BFLOAT16) }
    else { LLMC_COLUMN_ROWS(LLMC_FLOAT16) }
}

#endif
