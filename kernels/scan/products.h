/* Small products of matrices whose rows lie anywhere: four rows and some vectors of the result in registers. */
#ifndef LLMC_SCAN_PRODUCTS_H
#define LLMC_SCAN_PRODUCTS_H

#include "../native/vector.h"

#if defined(LLMC_AVX512)
#define PRODUCT_WIDTH 4
#else
#define PRODUCT_WIDTH 2
#endif

/* R rows of out, N vectors each, the last with `left` numbers: keep[r * keep_step] * out + x w, or x w without keep. The
 * inputs of a row of x are `x_step` apart. */
LLMC_INLINE void product_block(int R, int N, const float *const *x, int64_t x_step, int64_t inputs, const float *w, int64_t step,
                               float *out, int64_t out_step, const float *keep, int64_t keep_step, int left) {
    vf sum[4][PRODUCT_WIDTH];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) {
            float *at = out + r * out_step + j * LLMC_LANES;
            sum[r][j] = !keep ? vf_zero() : vf_all(keep[r * keep_step]) * (left == LLMC_LANES ? vf_load(at) : vf_load_part(at, left));
        }
    }
    for (int64_t k = 0; k < inputs; k++, w += step) {
        vf b[PRODUCT_WIDTH];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) b[j] = left == LLMC_LANES ? vf_load(w + j * LLMC_LANES) : vf_load_part(w, left);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            vf by = vf_all(x[r][k * x_step]);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) sum[r][j] = vf_fma(by, b[j], sum[r][j]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) {
            float *at = out + r * out_step + j * LLMC_LANES;
            if (left == LLMC_LANES) vf_store(at, sum[r][j]);
            else vf_store_part(at, sum[r][j], left);
        }
    }
}

LLMC_INLINE void product_rows(int R, const float *const *x, int64_t x_step, int64_t inputs, const float *w, int64_t step,
                              float *out, int64_t out_step, int64_t count, const float *keep, int64_t keep_step) {
    const int64_t wide = PRODUCT_WIDTH * LLMC_LANES;
    int64_t i = 0;
    for (; i + wide <= count; i += wide)
        product_block(R, PRODUCT_WIDTH, x, x_step, inputs, w + i, step, out + i, out_step, keep, keep_step, LLMC_LANES);
    for (; PRODUCT_WIDTH > 2 && i + 2 * LLMC_LANES <= count; i += 2 * LLMC_LANES)
        product_block(R, 2, x, x_step, inputs, w + i, step, out + i, out_step, keep, keep_step, LLMC_LANES);
    for (; i + LLMC_LANES <= count; i += LLMC_LANES)
        product_block(R, 1, x, x_step, inputs, w + i, step, out + i, out_step, keep, keep_step, LLMC_LANES);
    if (i < count) product_block(R, 1, x, x_step, inputs, w + i, step, out + i, out_step, keep, keep_step, (int)(count - i));
}

/* out [rows, count] = keep * out + x w, w [inputs, count] with rows `step` apart. `is_lower`: row r has r + 1 inputs, and
 * zeros behind them up to the next multiple of four. */
static void product(const float *const *x, int64_t x_step, int64_t rows, int64_t inputs, int is_lower, const float *w,
                    int64_t step, float *out, int64_t out_step, int64_t count, const float *keep, int64_t keep_step) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
        product_rows(4, x + r, x_step, is_lower ? r + 4 : inputs, w, step, out + r * out_step, out_step, count,
                     keep ? keep + r * keep_step : 0, keep_step);
    for (; r < rows; r++)
        product_rows(1, x + r, x_step, is_lower ? r + 1 : inputs, w, step, out + r * out_step, out_step, count,
                     keep ? keep + r * keep_step : 0, keep_step);
}

#endif
