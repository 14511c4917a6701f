/* Conversions between float32 and the shorter float types. */
#ifndef LLMC_NUMBERS_H
#define LLMC_NUMBERS_H

#include <stdint.h>
#include <string.h>

/* Types of elements; the formats of linear.h begin with them. */
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

/* Bytes of an element of such a type, and where element `index` of memory of that type lies. */
static inline int64_t llmc_size(int type) { return type == LLMC_FLOAT32 ? 4 : 2; }
static inline void *llmc_element(const void *from, int64_t index, int type) { return (char *)from + index * llmc_size(type); }

/* `count` floats from the elements of `from`, `step` apart, that are of a type of the enum; and the other way. */
static inline void llmc_widen(float *to, const void *from, int64_t step, int64_t count, int type) {
    const float *wide = from;
    const uint16_t *brain = from;
    const _Float16 *half = from;
    if (type == LLMC_FLOAT32)
        for (int64_t i = 0; i < count; i++) to[i] = wide[i * step];
    else if (type == LLMC_BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = llmc_from_bfloat16(brain[i * step]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = (float)half[i * step];
}

static inline void llmc_narrow(void *to, int64_t step, const float *from, int64_t count, int type) {
    float *wide = to;
    uint16_t *brain = to;
    _Float16 *half = to;
    if (type == LLMC_FLOAT32)
        for (int64_t i = 0; i < count; i++) wide[i * step] = from[i];
    else if (type == LLMC_BFLOAT16)
        for (int64_t i = 0; i < count; i++) brain[i * step] = llmc_to_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; i++) half[i * step] = (_Float16)from[i];
}

#endif
