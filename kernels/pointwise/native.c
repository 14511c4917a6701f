/* Nonlinearities over a run of features: one vector at a time, the last one cut. */
#include "native.h"

#include <math.h>

#include "../native/vector_math.h"
#include "../norm/native.h"

LLMC_INLINE vf vf_gelu_quick(vf x) { return x * vf_sigmoid(vf_all(1.702f) * x); }
LLMC_INLINE vf vf_identity(vf x) { return x; }

#define LLMC_DEFINE(kind)                                                                                  \
    void llmc_activate_##kind(float *y, const float *x, int64_t n) {                                       \
        int64_t i = 0;                                                                                     \
        for (; i + LLMC_LANES <= n; i += LLMC_LANES) vf_store(y + i, vf_##kind(vf_load(x + i)));           \
        if (i < n) vf_store_part(y + i, vf_##kind(vf_load_part(x + i, (int)(n - i))), (int)(n - i));       \
    }                                                                                                      \
    void llmc_gate_##kind(float *y, const float *gate, const float *up, int64_t n) {                       \
        int64_t i = 0;                                                                                     \
        for (; i + LLMC_LANES <= n; i += LLMC_LANES)                                                       \
            vf_store(y + i, vf_##kind(vf_load(gate + i)) * vf_load(up + i));                               \
        if (i < n) {                                                                                       \
            int rest = (int)(n - i);                                                                       \
            vf_store_part(y + i, vf_##kind(vf_load_part(gate + i, rest)) * vf_load_part(up + i, rest), rest); \
        }                                                                                                  \
    }

LLMC_EACH_ACTIVATION(LLMC_DEFINE)

void llmc_softcap(float *y, const float *x, float cap, int64_t n) {
    int64_t i = 0;
    vf c = vf_all(cap);
    for (; i + LLMC_LANES <= n; i += LLMC_LANES) vf_store(y + i, c * vf_tanh(vf_load(x + i) / c));
    if (i < n) vf_store_part(y + i, c * vf_tanh(vf_load_part(x + i, (int)(n - i)) / c), (int)(n - i));
}

void llmc_topk_sparsity(float *y, const float *x, float quantile, int64_t n) {
    float mean = llmc_sum(x, n) / (float)n;
    float cutoff = mean + sqrtf(llmc_sum_of_squares(x, n, mean) / (float)n) * quantile;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] > cutoff ? x[i] - cutoff : 0;
}

float llmc_largest(const float *x, int64_t n) {
    float largest = x[0];
    for (int64_t i = 1; i < n; i++)
        if (!(x[i] <= largest)) largest = x[i];
    return largest;
}
