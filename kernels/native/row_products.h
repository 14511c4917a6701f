/* Rows of floats times one vector: a register of rows at once, one sum each, added up together at the end. */
#ifndef LLMC_ROW_PRODUCTS_H
#define LLMC_ROW_PRODUCTS_H

#include "transpose.h"

/* n = STEPS * LLMC_LANES: x stays in registers, the rows are read from front to end. */
LLMC_INLINE vf vf_products_held(int STEPS, const float *rows, int64_t stride, const float *x) {
    vf sums[LLMC_LANES], v[4];
#pragma GCC unroll 4
    for (int s = 0; s < STEPS; s++) v[s] = vf_load(x + s * LLMC_LANES);
#pragma GCC unroll 16
    for (int i = 0; i < LLMC_LANES; i++, rows += stride) {
        sums[i] = vf_load(rows) * v[0];
#pragma GCC unroll 4
        for (int s = 1; s < STEPS; s++) sums[i] = vf_fma(vf_load(rows + s * LLMC_LANES), v[s], sums[i]);
    }
    return vf_sums(sums);
}

LLMC_INLINE vf vf_products_any(const float *rows, int64_t stride, const float *x, int64_t n) {
    vf sums[LLMC_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LLMC_LANES; i++) sums[i] = vf_zero();
    int64_t k = 0;
    for (; k + LLMC_LANES <= n; k += LLMC_LANES) {
        vf v = vf_load(x + k);
        const float *row = rows + k;
#pragma GCC unroll 16
        for (int i = 0; i < LLMC_LANES; i++, row += stride) sums[i] = vf_fma(vf_load(row), v, sums[i]);
    }
    if (k < n) {
        int rest = (int)(n - k);
        vf v = vf_load_part(x + k, rest);
#pragma GCC unroll 16
        for (int i = 0; i < LLMC_LANES; i++) sums[i] = vf_fma(vf_load_part(rows + i * stride + k, rest), v, sums[i]);
    }
    return vf_sums(sums);
}

/* Lane i is the product of row i with x, for LLMC_LANES rows of n floats, `stride` apart. */
LLMC_INLINE vf vf_products(const float *rows, int64_t stride, const float *x, int64_t n) {
    if (n == LLMC_LANES) return vf_products_held(1, rows, stride, x);
    if (n == 2 * LLMC_LANES) return vf_products_held(2, rows, stride, x);
    if (n == 4 * LLMC_LANES) return vf_products_held(4, rows, stride, x);
    return vf_products_any(rows, stride, x, n);
}

/* As vf_products for the first `count` rows; the other lanes are 0. */
LLMC_INLINE vf vf_products_part(const float *rows, int64_t stride, const float *x, int64_t n, int count) {
    vf sums[LLMC_LANES];
    for (int i = 0; i < LLMC_LANES; i++) sums[i] = vf_zero();
    for (int i = 0; i < count; i++) {
        int64_t k = 0;
        for (; k + LLMC_LANES <= n; k += LLMC_LANES) sums[i] = vf_fma(vf_load(rows + i * stride + k), vf_load(x + k), sums[i]);
        if (k == n) continue;
        int rest = (int)(n - k);
        sums[i] = vf_fma(vf_load_part(rows + i * stride + k, rest), vf_load_part(x + k, rest), sums[i]);
    }
    return vf_sums(sums);
}

#endif
