/* Whether all of many numbers are finite: those whose exponent is not all ones. */
#include "numbers.h"

/* 1 where all `count` numbers at `from`, of a type of numbers.h, are. */
int llmc_all_finite(const void *from, int type, int64_t count) {
    int64_t bad = 0;
    if (type == LLMC_FLOAT32) {
        const uint32_t *bits = from;
        for (int64_t i = 0; i < count;) {
            uint32_t some = 0;
            for (int64_t end = i + 4096 < count ? i + 4096 : count; i < end; i++) some += (bits[i] & 0x7F800000) == 0x7F800000;
            bad += some;
        }
    } else {
        const uint16_t *bits = from, ones = type == LLMC_BFLOAT16 ? 0x7F80 : 0x7C00;
        for (int64_t i = 0; i < count;) {
            uint16_t some = 0;
            for (int64_t end = i + 4096 < count ? i + 4096 : count; i < end; i++) some += (bits[i] & ones) == ones;
            bad += some;
        }
    }
    return bad == 0;
}
