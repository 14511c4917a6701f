/* Conversions between float32 and the shorter float types. */
#ifndef LLMC_NUMBERS_H
#define LLMC_NUMBERS_H

#include <stdint.h>
#include <string.h>

enum { LLMC_FLOAT32, LLMC_BFLOAT16, LLMC_FLOAT16 };

static inline float llmc_from_bfloat16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

/* Rounds to the nearest, ties to even; NaN stays NaN. */
static inline uint16_t llmc_to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* `count` floats from the elements of `from`, `step` apart, that are of a type of the enum; and the other way. */
static inline void llmc_widen(float *to, const void *from, int64_t step, int64_t count, int type) {
    for (int64_t i = 0; i < count; i++)
        to[i] = type == LLMC_FLOAT32    ? ((const float *)from)[i * step]
                : type == LLMC_BFLOAT16 ? llmc_from_bfloat16(((const uint16_t *)from)[i * step])
                                        : (float)((const _Float16 *)from)[i * step];
}

static inline void llmc_narrow(void *to, int64_t step, const float *from, int64_t count, int type) {
    for (int64_t i = 0; i < count; i++) {
        if (type == LLMC_FLOAT32) ((float *)to)[i * step] = from[i];
        else if (type == LLMC_BFLOAT16) ((uint16_t *)to)[i * step] = llmc_to_bfloat16(from[i]);
        else ((_Float16 *)to)[i * step] = (_Float16)from[i];
    }
}

/* Element `index` of memory of such a type. */
static inline void *llmc_element(void *from, int64_t index, int type) {
    return (char *)from + index * (type == LLMC_FLOAT32 ? 4 : 2);
}

#endif
