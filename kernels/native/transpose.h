/* A square block of LLMC_LANES vectors in registers: turned over its diagonal, or each vector summed. */
#ifndef LLMC_TRANSPOSE_H
#define LLMC_TRANSPOSE_H

#include "vector.h"

#if defined(LLMC_AVX512)
LLMC_INLINE void vf_transpose(vf v[16]) {
    __m512 a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)v[i], (__m512)v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)v[i], (__m512)v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            __m512d p = _mm512_castps_pd(a[i + j]), q = _mm512_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, q));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, q));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* b[4 q + i], quarter p: rows 4 q .. 4 q + 3 of column 4 p + i */
        __m512 x = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x44), y = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x44);
        __m512 z = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xee), w = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xee);
        v[i] = (vf)_mm512_shuffle_f32x4(x, y, 0x88);
        v[i + 4] = (vf)_mm512_shuffle_f32x4(x, y, 0xdd);
        v[i + 8] = (vf)_mm512_shuffle_f32x4(z, w, 0x88);
        v[i + 12] = (vf)_mm512_shuffle_f32x4(z, w, 0xdd);
    }
}
#elif defined(LLMC_AVX2)
LLMC_INLINE void vf_transpose(vf v[8]) {
    __m256 a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps((__m256)v[i], (__m256)v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps((__m256)v[i], (__m256)v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = (vf)_mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        v[i + 4] = (vf)_mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}
#else
LLMC_INLINE void vf_transpose(vf v[4]) {
    vf a = v[0], b = v[1], c = v[2], d = v[3];
    for (int i = 0; i < 4; i++) v[i] = (vf){a[i], b[i], c[i], d[i]};
}
#endif

/* Lane i is the sum of v[i]: half the shuffles of a transposition. */
#if defined(LLMC_AVX512)
LLMC_INLINE vf vf_sums(const vf v[16]) {
    __m512 a[8], b[4], c[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512 x = (__m512)v[2 * i], y = (__m512)v[2 * i + 1];
        a[i] = _mm512_unpacklo_ps(x, y) + _mm512_unpackhi_ps(x, y);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* each quarter of b[i] holds 4 i .. 4 i + 3 */
        __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        c[i] = _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd);
    return (vf)(_mm512_shuffle_f32x4(c[0], c[1], 0x88) + _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}
#elif defined(LLMC_AVX2)
LLMC_INLINE vf vf_sums(const vf v[8]) {
    __m256 a[4], b[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256 x = (__m256)v[2 * i], y = (__m256)v[2 * i + 1];
        a[i] = _mm256_unpacklo_ps(x, y) + _mm256_unpackhi_ps(x, y);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) /* each half of b[i] holds 4 i .. 4 i + 3 */
        b[i] = _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44) + _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee);
    return (vf)(_mm256_permute2f128_ps(b[0], b[1], 0x20) + _mm256_permute2f128_ps(b[0], b[1], 0x31));
}
#else
LLMC_INLINE vf vf_sums(const vf v[4]) {
    vf w[4] = {v[0], v[1], v[2], v[3]};
    vf_transpose(w);
    return (w[0] + w[1]) + (w[2] + w[3]);
}
#endif

#endif
