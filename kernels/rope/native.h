/* Turns the first `rotary` dims of each head by the angles of a table: cosines, then sines. */
#ifndef LLMC_ROPE_H
#define LLMC_ROPE_H

#include <stdint.h>
#include <string.h>

/* Pairs (i, i + rotary / 2). */
static inline void llmc_rope_half(float *restrict y, const float *restrict x, const float *restrict table, int64_t heads,
                                  int64_t size, int64_t rotary) {
    const int64_t half = rotary / 2;
    const float *cosine = table, *sine = table + half;
    for (int64_t h = 0; h < heads; h++, x += size, y += size) {
        for (int64_t i = 0; i < half; i++) {
            y[i] = x[i] * cosine[i] - x[half + i] * sine[i];
            y[half + i] = x[half + i] * cosine[i] + x[i] * sine[i];
        }
        memcpy(y + rotary, x + rotary, (size - rotary) * sizeof(float));
    }
}

/* Pairs (2i, 2i + 1). */
static inline void llmc_rope_interleaved(float *restrict y, const float *restrict x, const float *restrict table,
                                         int64_t heads, int64_t size, int64_t rotary) {
    const int64_t half = rotary / 2;
    const float *cosine = table, *sine = table + half;
    for (int64_t h = 0; h < heads; h++, x += size, y += size) {
        for (int64_t i = 0; i < half; i++) {
            y[2 * i] = x[2 * i] * cosine[i] - x[2 * i + 1] * sine[i];
            y[2 * i + 1] = x[2 * i + 1] * cosine[i] + x[2 * i] * sine[i];
        }
        memcpy(y + rotary, x + rotary, (size - rotary) * sizeof(float));
    }
}

#endif
