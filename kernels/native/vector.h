/* Vectors as wide as the machine's registers, and what kernels do with them beyond + - * and comparisons.
 *
 * `vf` is LLMC_LANES floats, `vi` as many int32: 16 with AVX-512, 8 with AVX2, 4 elsewhere. They are GCC vector types
 * (gcc and clang), so that operators work on them and the code without an instruction set of its own is plain C.
 * Which path is taken is settled when the file is compiled (-march). Loads and stores need no alignment. Rows are
 * cut with the `_part` forms, which touch `count` elements (0 to LLMC_LANES) and read the others as 0.
 */
#ifndef LLMC_VECTOR_H
#define LLMC_VECTOR_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define LLMC_AVX512 1
#define LLMC_LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LLMC_AVX2 1
#define LLMC_LANES 8
#else
#define LLMC_LANES 4
#endif
#if defined(LLMC_AVX512) && defined(__AVX512BF16__)
#define LLMC_HAS_BF16_DOT 1
#endif

#define LLMC_INLINE static inline __attribute__((always_inline, unused))
#define LLMC_VECTOR __attribute__((vector_size(LLMC_LANES * 4)))

typedef float vf LLMC_VECTOR;
typedef int32_t vi LLMC_VECTOR;
typedef uint32_t vu LLMC_VECTOR;
typedef uint16_t vh __attribute__((vector_size(LLMC_LANES * 2))); /* LLMC_LANES halves: bf16 or fp16 as bits */

LLMC_INLINE vf vf_zero(void) { return (vf){0}; }
LLMC_INLINE vi vi_zero(void) { return (vi){0}; }
#if defined(LLMC_AVX512)
LLMC_INLINE vf vf_all(float a) { return (vf)_mm512_set1_ps(a); }
LLMC_INLINE vi vi_all(int32_t a) { return (vi)_mm512_set1_epi32(a); }
#elif defined(LLMC_AVX2)
LLMC_INLINE vf vf_all(float a) { return (vf)_mm256_set1_ps(a); }
LLMC_INLINE vi vi_all(int32_t a) { return (vi)_mm256_set1_epi32(a); }
#else
LLMC_INLINE vf vf_all(float a) { return (vf){a, a, a, a}; }
LLMC_INLINE vi vi_all(int32_t a) { return (vi){a, a, a, a}; }
#endif

LLMC_INLINE vf vf_bits(vi a) { vf r; memcpy(&r, &a, sizeof r); return r; }
LLMC_INLINE vi vi_bits(vf a) { vi r; memcpy(&r, &a, sizeof r); return r; }
LLMC_INLINE vf vf_from_int(vi a) { return __builtin_convertvector(a, vf); }
LLMC_INLINE vf vf_select(vi mask, vf a, vf b) { return vf_bits((vi_bits(a) & mask) | (vi_bits(b) & ~mask)); }

LLMC_INLINE vf vf_load(const float *p) { vf r; memcpy(&r, p, sizeof r); return r; }
LLMC_INLINE vi vi_load(const void *p) { vi r; memcpy(&r, p, sizeof r); return r; }
LLMC_INLINE void vf_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
LLMC_INLINE void vi_store(void *p, vi a) { memcpy(p, &a, sizeof a); }

#if defined(LLMC_AVX512)
LLMC_INLINE vf vf_load_part(const float *p, int count) { return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p); }
LLMC_INLINE void vf_store_part(float *p, vf a, int count) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)a); }
LLMC_INLINE vh vh_load_part(const void *p, int count) { return (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), p); }
#else /* whole vectors, as most are, without a call of memcpy */
LLMC_INLINE vf vf_load_part(const float *p, int count) {
    if (count == LLMC_LANES) return vf_load(p);
    vf r = vf_zero();
    memcpy(&r, p, (size_t)count * 4);
    return r;
}
LLMC_INLINE void vf_store_part(float *p, vf a, int count) {
    if (count == LLMC_LANES) vf_store(p, a);
    else memcpy(p, &a, (size_t)count * 4);
}
LLMC_INLINE vh vh_load_part(const void *p, int count) {
    vh r = {0};
    if (count == LLMC_LANES) memcpy(&r, p, sizeof r);
    else memcpy(&r, p, (size_t)count * 2);
    return r;
}
#endif

/* a * b + c, rounded once where the machine can. */
#if defined(LLMC_AVX512)
LLMC_INLINE vf vf_fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
LLMC_INLINE vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); } /* b where one is NaN */
LLMC_INLINE vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
LLMC_INLINE vi vi_nearest(vf a) { return (vi)_mm512_cvtps_epi32((__m512)a); } /* ties to even */
LLMC_INLINE vf vf_abs(vf a) { return (vf)_mm512_abs_ps((__m512)a); }
LLMC_INLINE vf vf_sqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
LLMC_INLINE float vf_sum(vf a) { return _mm512_reduce_add_ps((__m512)a); }
LLMC_INLINE float vf_largest(vf a) { return _mm512_reduce_max_ps((__m512)a); }
LLMC_INLINE int32_t vi_sum(vi a) { return _mm512_reduce_add_epi32((__m512i)a); }
#elif defined(LLMC_AVX2)
LLMC_INLINE vf vf_fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
LLMC_INLINE vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
LLMC_INLINE vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
LLMC_INLINE vi vi_nearest(vf a) { return (vi)_mm256_cvtps_epi32((__m256)a); }
LLMC_INLINE vf vf_abs(vf a) { return vf_bits(vi_bits(a) & vi_all(0x7fffffff)); }
LLMC_INLINE vf vf_sqrt(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
LLMC_INLINE float vf_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
LLMC_INLINE float vf_largest(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
LLMC_INLINE int32_t vi_sum(vi a) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128((__m256i)a), _mm256_extracti128_si256((__m256i)a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
#else
LLMC_INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
LLMC_INLINE vf vf_max(vf a, vf b) { return vf_select((vi)(a > b), a, b); }
LLMC_INLINE vf vf_min(vf a, vf b) { return vf_select((vi)(a < b), a, b); }
LLMC_INLINE vf vf_abs(vf a) { return vf_bits(vi_bits(a) & vi_all(0x7fffffff)); }
LLMC_INLINE vi vi_nearest(vf a) {
    vi r;
    for (int i = 0; i < LLMC_LANES; i++) r[i] = (int32_t)__builtin_rintf(a[i]);
    return r;
}
LLMC_INLINE vf vf_sqrt(vf a) {
    vf r;
    for (int i = 0; i < LLMC_LANES; i++) r[i] = __builtin_sqrtf(a[i]);
    return r;
}
LLMC_INLINE float vf_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
LLMC_INLINE float vf_largest(vf a) {
    float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
    return x > y ? x : y;
}
LLMC_INLINE int32_t vi_sum(vi a) { return (a[0] + a[2]) + (a[1] + a[3]); }
#endif

/* Halves as unsigned int32 and back: gcc's own conversion of such vectors goes by halves of the register. */
#if defined(LLMC_AVX512)
LLMC_INLINE vu vu_from_halves(vh a) { return (vu)_mm512_cvtepu16_epi32((__m256i)a); }
LLMC_INLINE vh vh_from_ints(vu a) { return (vh)_mm512_cvtepi32_epi16((__m512i)a); }
#elif defined(LLMC_AVX2)
LLMC_INLINE vu vu_from_halves(vh a) { return (vu)_mm256_cvtepu16_epi32((__m128i)a); }
LLMC_INLINE vh vh_from_ints(vu a) {
    __m128i low = _mm256_castsi256_si128((__m256i)a), high = _mm256_extracti128_si256((__m256i)a, 1);
    return (vh)_mm_packus_epi32(low, high); /* all are below 65536 */
}
#else
LLMC_INLINE vu vu_from_halves(vh a) { return __builtin_convertvector(a, vu); }
LLMC_INLINE vh vh_from_ints(vu a) { return __builtin_convertvector(a, vh); }
#endif

/* Every other lane of a followed by b. */
#if defined(LLMC_AVX512)
LLMC_INLINE vf vf_evens(vf a, vf b) {
    const __m512i i = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (vf)_mm512_permutex2var_ps((__m512)a, i, (__m512)b);
}
LLMC_INLINE vf vf_odds(vf a, vf b) {
    const __m512i i = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return (vf)_mm512_permutex2var_ps((__m512)a, i, (__m512)b);
}
#elif defined(LLMC_AVX2)
LLMC_INLINE vf vf_evens(vf a, vf b) {
    __m256d s = _mm256_castps_pd(_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88));
    return (vf)_mm256_castpd_ps(_mm256_permute4x64_pd(s, 0xd8));
}
LLMC_INLINE vf vf_odds(vf a, vf b) {
    __m256d s = _mm256_castps_pd(_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd));
    return (vf)_mm256_castpd_ps(_mm256_permute4x64_pd(s, 0xd8));
}
#else
LLMC_INLINE vf vf_evens(vf a, vf b) { return (vf){a[0], a[2], b[0], b[2]}; }
LLMC_INLINE vf vf_odds(vf a, vf b) { return (vf){a[1], a[3], b[1], b[3]}; }
#endif

/* bf16 is the upper half of a float; rounding is to the nearest, ties to even, NaN stays NaN. */
LLMC_INLINE vf vf_from_bf16(vh a) { return vf_bits((vi)(vu_from_halves(a) << 16)); }
LLMC_INLINE vf vf_load_bf16(const void *p) { vh h; memcpy(&h, p, sizeof h); return vf_from_bf16(h); }
LLMC_INLINE vh vh_bf16(vf a) {
    vu bits = (vu)vi_bits(a), round = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vu is_nan = (vu)(a != a), quiet = (bits >> 16) | 0x40;
    return vh_from_ints((round & ~is_nan) | (quiet & is_nan));
}
LLMC_INLINE void vf_store_bf16(void *p, vf a) { vh h = vh_bf16(a); memcpy(p, &h, sizeof h); }

#if defined(LLMC_AVX512)
LLMC_INLINE vf vf_from_fp16(vh a) { return (vf)_mm512_cvtph_ps((__m256i)a); }
LLMC_INLINE vh vh_fp16(vf a) { return (vh)_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#elif defined(LLMC_AVX2)
LLMC_INLINE vf vf_from_fp16(vh a) { return (vf)_mm256_cvtph_ps((__m128i)a); }
LLMC_INLINE vh vh_fp16(vf a) { return (vh)_mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#else
LLMC_INLINE vf vf_from_fp16(vh a) {
    vu bits = vu_from_halves(a), size = bits & 0x7fff;
    vf wide = vf_bits((vi)(size << 13)) * vf_all(0x1p112f);        /* subnormals come out right too */
    vi special = (vi)(size >= 0x7c00) & vi_all(0x7f800000);        /* infinities and NaN */
    return vf_bits(vi_bits(wide) | special | (vi)((bits & 0x8000) << 16));
}
LLMC_INLINE vh vh_fp16(vf a) {
    vu bits = (vu)vi_bits(a), sign = (bits >> 16) & 0x8000;
    vf size = vf_abs(a);
    vu normal = (vu)vi_bits(size) - (112u << 23);
    normal = (normal + 0xfff + ((normal >> 13) & 1)) >> 13;
    vu tiny = (vu)vi_bits(size + vf_all(0.5f)) - 0x3f000000u;      /* the sum rounds at 2^-24 */
    vu r = ((vu)(size < 0x1p-14f) & tiny) | ((vu)(size >= 0x1p-14f) & normal);
    r = ((vu)(size >= 65520.0f) & 0x7c00u) | (~(vu)(size >= 65520.0f) & r);
    r = ((vu)(a != a) & 0x7e00u) | (~(vu)(a != a) & r);
    return vh_from_ints(r | sign);
}
#endif
LLMC_INLINE vf vf_load_fp16(const void *p) { vh h; memcpy(&h, p, sizeof h); return vf_from_fp16(h); }
LLMC_INLINE float llmc_float_of_fp16(uint16_t a) {
    vh h = {a};
    return vf_from_fp16(h)[0];
}
LLMC_INLINE uint16_t llmc_fp16_of_float(float a) {
    vf f = {a};
    return vh_fp16(f)[0];
}

#endif
