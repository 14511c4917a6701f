/* Matrix-vector products with packed weights: int8, int4 and ternary against activations in int8. */
#include "groups.h"
#include "pack.h"
#include "quantise.h"

#ifndef LLMC_AHEAD_PACKED
#define LLMC_AHEAD_PACKED 8192 /* bytes between what is read and what is prefetched */
#endif
#define WIDTH (LLMC_LANES * 4) /* bytes of a line that one register takes */
/* Four short vectors in a group would only cost the compiler 40 seconds. */
#if defined(__AVX2__)
#define UNROLL_PARTS _Pragma("GCC unroll 4")
#else
#define UNROLL_PARTS _Pragma("GCC unroll 1")
#endif

LLMC_INLINE void prefetch_line(const uint8_t *line, int part) {
    if (part == 0) __builtin_prefetch(line + LLMC_AHEAD_PACKED, 0, 2);
}

/* gcc would load the vector again for every mask. */
LLMC_INLINE vi vi_in_register(vi a) {
#if defined(__AVX__)
    __asm__("" : "+v"(a));
#endif
    return a;
}

LLMC_INLINE void int8_group(int R, const uint8_t *at, int64_t K, const llmc_quantised *x, float *out) {
    const int CHAINS = R <= 2 ? 4 / R : 1;
    int64_t blocks = (K + LLMC_BLOCK - 1) / LLMC_BLOCK;
    vf total[LLMC_PARTS][8];
UNROLL_PARTS
    for (int part = 0; part < LLMC_PARTS; part++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) total[part][r] = vf_zero();
    }
    for (int64_t b = 0; b < blocks; b++) {
UNROLL_PARTS
        for (int part = 0; part < LLMC_PARTS; part++) {
            vi sum[8][4];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                sum[r][0] = vi_all(x[r].init[b]);
#pragma GCC unroll 4
                for (int c = 1; c < CHAINS; c++) sum[r][c] = vi_zero();
            }
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                const uint8_t *line = at + b * 512 + i * 64;
                prefetch_line(line, part);
                vi w = vi_load(line + part * WIDTH);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
                    sum[r][i % CHAINS] = vi_dot_bytes(sum[r][i % CHAINS], w, x[r].q + b * LLMC_BLOCK + i * 4);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                vi all = CHAINS == 4 ? (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]) : CHAINS == 2 ? sum[r][0] + sum[r][1] : sum[r][0];
                total[part][r] = vf_fma(vf_from_int(all), vf_all(x[r].scale[b]), total[part][r]);
            }
        }
    }
    const float *scale = (const float *)(const void *)(at + blocks * 512);
UNROLL_PARTS
    for (int part = 0; part < LLMC_PARTS; part++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            vf_store(out + r * LLMC_GROUP + part * LLMC_LANES, total[part][r] * vf_load(scale + part * LLMC_LANES));
    }
}

/* One block of int4: 4 lines of nibbles against 32 columns. */
LLMC_INLINE vi int4_block(const uint8_t *lines, int part, const int8_t *q, int32_t init) {
    vi low = vi_all(init), high = vi_zero();
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vi w = vi_in_register(vi_load(lines + i * 64 + part * WIDTH));
        low = vi_dot_small_bytes(low, w & 0x0f0f0f0f, q + 8 * i);
#if defined(LLMC_HAS_DOT)
        high = vi_dot_bytes(high, w & (int32_t)0xf0f0f0f0, q + 8 * i + 4); /* 16 times the sum */
    }
    return low + (high >> 4);
#else
        high = vi_dot_small_bytes(high, (vi)((vu)w >> 4) & 0x0f0f0f0f, q + 8 * i + 4);
    }
    return low + high;
#endif
}

LLMC_INLINE void int4_group(int R, int step, const uint8_t *at, int64_t K, const llmc_quantised *x, float *out) {
    vf total[LLMC_PARTS][8];
UNROLL_PARTS
    for (int part = 0; part < LLMC_PARTS; part++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) total[part][r] = vf_zero();
    }
    for (int64_t k = 0; k < K; k += step, at += step * 8 + 32) {
        for (int line = 0; line < step / 8; line++) prefetch_line(at + line * 64, 0);
UNROLL_PARTS
        for (int part = 0; part < LLMC_PARTS; part++) {
            vf scale = vf_load_fp16(at + step * 8 + part * LLMC_LANES * 2);
#pragma GCC unroll 4
            for (int s = 0; s < step / LLMC_BLOCK; s++) {
                int64_t b = k / LLMC_BLOCK + s;
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    vi sum = int4_block(at + s * 256, part, x[r].q + b * LLMC_BLOCK, x[r].init[b]);
                    total[part][r] = vf_fma(vf_from_int(sum), scale * vf_all(x[r].scale[b]), total[part][r]);
                }
            }
        }
    }
UNROLL_PARTS
    for (int part = 0; part < LLMC_PARTS; part++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) vf_store(out + r * LLMC_GROUP + part * LLMC_LANES, total[part][r]);
    }
}

/* Up to four rows of x: digits stay where they are in the byte, four sums are 1, 4, 16 and 64 times too large. */
LLMC_INLINE void ternary_in_place(int R, const uint8_t *at, int64_t lines, int part, const llmc_quantised *x, vi *out) {
    const int SETS = R == 1 ? 2 : 1;
    vi sum[2][4][4];
#pragma GCC unroll 4
    for (int f = 0; f < 4; f++) {
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[0][r][f] = sum[1][r][f] = vi_zero();
    }
    for (int64_t i = 0; i < lines; i += 2) {
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            const uint8_t *line = at + (i + odd) * 64;
            prefetch_line(line, part);
            vi w = vi_in_register(vi_load(line + part * WIDTH));
#pragma GCC unroll 4
            for (int f = 0; f < 4; f++) {
                vi digits = w & (0x03030303 << (2 * f));
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    vi *s = &sum[odd % SETS][r][f];
                    *s = vi_dot_bytes(*s, digits, x[r].q + (i + odd) * 16 + 4 * f);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        out[r] = vi_all(x[r].init[0]);
#pragma GCC unroll 4
        for (int f = 0; f < 4; f++) out[r] += (SETS == 2 ? sum[0][r][f] + sum[1][r][f] : sum[0][r][f]) >> (2 * f);
    }
}

/* Any number of rows, and processors without a dot product of bytes: digits are shifted down. */
LLMC_INLINE void ternary_shifted(int R, const uint8_t *at, int64_t lines, int part, const llmc_quantised *x, vi *out) {
    vi sum[2][8];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sum[0][r] = vi_all(x[r].init[0]), sum[1][r] = vi_zero();
    for (int64_t i = 0; i < lines; i++) {
        prefetch_line(at + i * 64, part);
        vu w = (vu)vi_load(at + i * 64 + part * WIDTH);
#pragma GCC unroll 4
        for (int f = 0; f < 4; f++) {
            vi digits = (vi)(w >> (2 * f)) & 0x03030303;
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                vi *s = &sum[LLMC_LANES == 16 ? f % 2 : 0][r];
                *s = vi_dot_small_bytes(*s, digits, x[r].q + i * 16 + 4 * f);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) out[r] = sum[0][r] + sum[1][r];
}

LLMC_INLINE void ternary_group(int R, const uint8_t *at, int64_t K, const llmc_quantised *x, float *out) {
    int64_t lines = (K + LLMC_BLOCK - 1) / LLMC_BLOCK * 2;
    const float *scale = (const float *)(const void *)(at + lines * 64);
#pragma GCC unroll 1
    for (int part = 0; part < LLMC_PARTS; part++) {
        vi sum[8];
#if defined(LLMC_HAS_DOT)
        if (R == 1 || (R <= 4 && LLMC_LANES == 16)) ternary_in_place(R, at, lines, part, x, sum);
        else
#endif
            ternary_shifted(R, at, lines, part, x, sum);
        vf s = vf_load(scale + part * LLMC_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            vf_store(out + r * LLMC_GROUP + part * LLMC_LANES, vf_from_int(sum[r]) * (s * vf_all(x[r].scale[0])));
    }
}

LLMC_INLINE void group(int R, const llmc_matrix *m, int64_t g, int half, const llmc_quantised *x, float *out) {
    const uint8_t *at = (const uint8_t *)m->weight + llmc_packed_group(m, g, half) * llmc_group_bytes(m->format, m->K);
    switch (m->format) {
    case LLMC_INT8: int8_group(R, at, m->K, x, out); return;
    case LLMC_INT4_32: int4_group(R, 32, at, m->K, x, out); return;
    case LLMC_INT4_128: int4_group(R, 128, at, m->K, x, out); return;
    default: ternary_group(R, at, m->K, x, out); return;
    }
}

void llmc_packed_sums(const llmc_matrix *m, int64_t g, int half, const llmc_quantised *x, int R, float *out) {
    switch (R) {
    case 1: group(1, m, g, half, x, out); return;
    case 2: group(2, m, g, half, x, out); return;
    case 4: group(4, m, g, half, x, out); return;
    default: group(8, m, g, half, x, out); return;
    }
}
