/* The innermost product of larger batches: MR rows of x by NR columns of y, all their sums in registers.
 *
 * Operands are dwords: one float, two bf16 or four bytes along k. x lies as [k][MR] and is broadcast, w as [k][NR].
 * The sums go to, or with `is_more` are added to, c [MR][NR]. What will be read next is prefetched all along: at once
 * it would fill the queue of misses and stop the arithmetic.
 */
#ifndef LLMC_TILE_H
#define LLMC_TILE_H

#include "vector_math.h"

#if defined(LLMC_AVX512)
#define LLMC_MR 12
#else
#define LLMC_MR 6
#endif
#define LLMC_NR (2 * LLMC_LANES)

/* Memory to prefetch into the second cache while a tile is computed. */
typedef struct {
    const char *at;
    int64_t bytes;
} llmc_ahead;

/* Bytes to prefetch in each of `steps` steps, whole lines. */
LLMC_INLINE int64_t llmc_ahead_step(llmc_ahead next, int64_t steps) { return (next.bytes / (steps + 1) + 64) / 64 * 64; }

LLMC_INLINE const char *llmc_prefetch(const char *at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
    return at + bytes;
}

LLMC_INLINE void llmc_tile_fp32(int64_t depth, const float *w, const float *x, float *c, int is_more, llmc_ahead next) {
    int64_t step = llmc_ahead_step(next, depth / 8);
    const char *end = next.at + next.bytes;
    vf sum[LLMC_MR][2];
#pragma GCC unroll 12
    for (int i = 0; i < LLMC_MR; i++) sum[i][0] = sum[i][1] = vf_zero();
    for (int64_t k = 0; k < depth; k++, w += LLMC_NR, x += LLMC_MR) {
        if (k % 8 == 0 && next.at < end) next.at = llmc_prefetch(next.at, step);
        vf a = vf_load(w), b = vf_load(w + LLMC_LANES);
#pragma GCC unroll 12
        for (int i = 0; i < LLMC_MR; i++) {
            vf v = vf_all(x[i]);
            sum[i][0] = vf_fma(v, a, sum[i][0]);
            sum[i][1] = vf_fma(v, b, sum[i][1]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < LLMC_MR; i++, c += LLMC_NR) {
        vf_store(c, is_more ? vf_load(c) + sum[i][0] : sum[i][0]);
        vf_store(c + LLMC_LANES, is_more ? vf_load(c + LLMC_LANES) + sum[i][1] : sum[i][1]);
    }
}

#if defined(LLMC_HAS_BF16_DOT)
LLMC_INLINE void llmc_tile_bf16(int64_t depth, const float *w, const float *x, float *c, int is_more, llmc_ahead next) {
    int64_t step = llmc_ahead_step(next, depth / 8);
    const char *end = next.at + next.bytes;
    __m512 sum[LLMC_MR][2];
#pragma GCC unroll 12
    for (int i = 0; i < LLMC_MR; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k++, w += LLMC_NR, x += LLMC_MR) {
        if (k % 8 == 0 && next.at < end) next.at = llmc_prefetch(next.at, step);
        __m512bh a = (__m512bh)vf_load(w), b = (__m512bh)vf_load(w + LLMC_LANES);
#pragma GCC unroll 12
        for (int i = 0; i < LLMC_MR; i++) {
            __m512bh v = (__m512bh)vf_all(x[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], a, v);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], b, v);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < LLMC_MR; i++, c += LLMC_NR) {
        vf_store(c, is_more ? vf_load(c) + (vf)sum[i][0] : (vf)sum[i][0]);
        vf_store(c + LLMC_LANES, is_more ? vf_load(c + LLMC_LANES) + (vf)sum[i][1] : (vf)sum[i][1]);
    }
}
#endif

#endif
