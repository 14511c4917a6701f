/* Products of bytes: each int32 lane of a sum grows by four products of unsigned weights and signed activations.
 *
 * vi_dot is exact for all bytes; vi_dot_small wants weights below 128 and is cheaper without VNNI.
 */
#ifndef LLMC_DOT_H
#define LLMC_DOT_H

#include "vector.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(LLMC_AVX512) && defined(__AVX512VNNI__)
#define LLMC_HAS_DOT 1
LLMC_INLINE vi vi_dot(vi sum, vi w, vi x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
#elif defined(LLMC_AVX2) && defined(__AVXVNNI__)
#define LLMC_HAS_DOT 1
LLMC_INLINE vi vi_dot(vi sum, vi w, vi x) { return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x); }
#elif defined(LLMC_AVX2) && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define LLMC_HAS_DOT 1
LLMC_INLINE vi vi_dot(vi sum, vi w, vi x) { return (vi)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)w, (__m256i)x); }
#endif

#if !defined(LLMC_HAS_DOT)
typedef int16_t vs __attribute__((vector_size(LLMC_LANES * 4)));

/* Sums of the two products of int16 in each lane. */
LLMC_INLINE vi vi_products(vs a, vs b) {
#if defined(LLMC_AVX512)
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(LLMC_AVX2)
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    vi low = ((vi)a << 16 >> 16) * ((vi)b << 16 >> 16), high = ((vi)a >> 16) * ((vi)b >> 16);
    return low + high;
#endif
}

/* Bytes of pairs (0, 2) and (1, 3) as int16: the products of pairs fit an int32, those of bytes would not an int16. */
LLMC_INLINE vi vi_dot(vi sum, vi w, vi x) {
    vs even = (vs)(w & 0x00ff00ff), odd = (vs)((vi)((vu)w >> 8) & 0x00ff00ff);
    return sum + (vi_products(even, (vs)((vs)x << 8) >> 8) + vi_products(odd, (vs)x >> 8));
}
#endif

LLMC_INLINE vi vi_dot_small(vi sum, vi w, vi x) {
#if defined(LLMC_HAS_DOT) || !(defined(LLMC_AVX512) || defined(LLMC_AVX2))
    return vi_dot(sum, w, x);
#elif defined(LLMC_AVX512)
    __m512i pairs = _mm512_maddubs_epi16((__m512i)w, (__m512i)x);
    return sum + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#else
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)x);
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

/* The four bytes at p in every lane. */
LLMC_INLINE vi vi_all_bytes(const int8_t *p) {
    int32_t dword;
    memcpy(&dword, p, 4);
    return vi_all(dword);
}

/* The same as vi_dot(sum, w, vi_all_bytes(x)), in one instruction where there is one: gcc does not make it. */
LLMC_INLINE vi vi_dot_bytes(vi sum, vi w, const int8_t *x) {
#if defined(LLMC_AVX512) && defined(LLMC_HAS_DOT)
    typedef int32_t __attribute__((may_alias, aligned(1))) dword;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const dword *)x));
    return sum;
#else
    return vi_dot(sum, w, vi_all_bytes(x));
#endif
}
LLMC_INLINE vi vi_dot_small_bytes(vi sum, vi w, const int8_t *x) {
#if defined(LLMC_HAS_DOT)
    return vi_dot_bytes(sum, w, x);
#else
    return vi_dot_small(sum, w, vi_all_bytes(x));
#endif
}

/* LLMC_LANES whole numbers of -128 ... 127 as bytes. */
LLMC_INLINE void vi_store_bytes(int8_t *p, vi a) {
#if defined(LLMC_AVX512)
    __m128i bytes = _mm512_cvtepi32_epi8((__m512i)a);
    memcpy(p, &bytes, sizeof bytes);
#elif defined(LLMC_AVX2)
    __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)a), _mm256_extracti128_si256((__m256i)a, 1));
    __m128i bytes = _mm_packs_epi16(halves, halves);
    memcpy(p, &bytes, 8);
#else
    for (int i = 0; i < LLMC_LANES; i++) p[i] = (int8_t)a[i];
#endif
}

#endif
