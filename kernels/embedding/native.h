/* Copies a row of a table, times a factor that was rounded to the table's type. */
#ifndef LLMC_EMBEDDING_H
#define LLMC_EMBEDDING_H

#include "../native/numbers.h"

#define LLMC_EMBED(type, element, widen)                                                                         \
    static inline void llmc_embed_##type(float *y, const void *table, int64_t row, int64_t n, float factor) {    \
        const element *from = (const element *)table + row * n;                                                  \
        if (factor == 1.0f) for (int64_t i = 0; i < n; i++) y[i] = widen(from[i]);                               \
        else for (int64_t i = 0; i < n; i++) y[i] = widen(from[i]) * factor;                                     \
    }

LLMC_EMBED(float32, float, (float))
LLMC_EMBED(bfloat16, uint16_t, llmc_from_bfloat16)
LLMC_EMBED(float16, _Float16, (float))

static inline float llmc_rounded_float32(float x) { return x; }
static inline float llmc_rounded_bfloat16(float x) { return llmc_from_bfloat16(llmc_to_bfloat16(x)); }
static inline float llmc_rounded_float16(float x) { return (float)(_Float16)x; }

#endif
