/* Conversions between float32 and the shorter float types. */
#ifndef LLMC_NUMBERS_H
#define LLMC_NUMBERS_H

#include <stdint.h>
#include <string.h>

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

#endif
