#include "plain.h"
#include "../native/vector.h"
#define PLAIN(type, element, load, load_part)                                                                   \
void llmc_plain_##type(llmc_thread *t, const void *weight, const float *bias, const float *x, float *y,         \
                       int64_t rows, int64_t n, int64_t k) {                                                     \
    LLMC_FOR(t, chunk, (n + 15) / 16) {                                                                          \
        for (int64_t r = 0; r < rows; r++)                                                                       \
            for (int64_t o = chunk * 16; o < n && o < chunk * 16 + 16; o++) {                                    \
                const element *w = (const element *)weight + o * k;                                              \
                const float *from = x + r * k;                                                                   \
                vf a = vf_zero(), b = vf_zero();                                                                 \
                int64_t i = 0;                                                                                   \
                for (; i + 2 * LLMC_LANES <= k; i += 2 * LLMC_LANES) {                                           \
                    a = vf_fma(load(w + i), vf_load(from + i), a);                                               \
                    b = vf_fma(load(w + i + LLMC_LANES), vf_load(from + i + LLMC_LANES), b);                     \
                }                                                                                                \
                for (; i < k; i += LLMC_LANES) {                                                                 \
                    int c = k - i < LLMC_LANES ? (int)(k - i) : LLMC_LANES;                                      \
                    a = vf_fma(load_part(w + i, c), vf_load_part(from + i, c), a);                               \
                }                                                                                                \
                y[r * n + o] = vf_sum(a + b) + (bias ? bias[o] : 0);                                             \
            }                                                                                                    \
    }                                                                                                            \
}
#define BF16_PART(p, c) vf_from_bf16(vh_load_part(p, c))
#define FP16_PART(p, c) vf_from_fp16(vh_load_part(p, c))
PLAIN(float32, float, vf_load, vf_load_part)
PLAIN(bfloat16, uint16_t, vf_load_bf16, BF16_PART)
PLAIN(float16, uint16_t, vf_load_fp16, FP16_PART)
