/* Norms of one run of features, in two passes over it. */
#include "native.h"

#include <math.h>

#include "../native/vector.h"

float llmc_sum(const float *x, int64_t n) {
    vf first = vf_zero(), second = vf_zero();
    int64_t i = 0;
    for (; i + 2 * LLMC_LANES <= n; i += 2 * LLMC_LANES) {
        first += vf_load(x + i);
        second += vf_load(x + i + LLMC_LANES);
    }
    for (; i < n; i += LLMC_LANES) first += vf_load_part(x + i, n - i < LLMC_LANES ? (int)(n - i) : LLMC_LANES);
    return vf_sum(first + second);
}

float llmc_sum_of_squares(const float *x, int64_t n, float mean) {
    vf first = vf_zero(), second = vf_zero(), m = vf_all(mean);
    int64_t i = 0;
    for (; i + 2 * LLMC_LANES <= n; i += 2 * LLMC_LANES) {
        vf a = vf_load(x + i) - m, b = vf_load(x + i + LLMC_LANES) - m;
        first = vf_fma(a, a, first);
        second = vf_fma(b, b, second);
    }
    float rest = 0;
    for (; i < n; i++) rest += (x[i] - mean) * (x[i] - mean);
    return vf_sum(first + second) + rest;
}

void llmc_add(float *y, const float *a, const float *b, int64_t n) {
    int64_t i = 0;
    for (; i + LLMC_LANES <= n; i += LLMC_LANES) vf_store(y + i, vf_load(a + i) + vf_load(b + i));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

/* y = (x - mean) * factor * weight + bias. */
static void scale(float *y, const float *x, float mean, float factor, const float *weight, float offset, const float *bias,
                  int64_t n) {
    vf m = vf_all(mean), f = vf_all(factor), o = vf_all(offset);
    int64_t i = 0;
    for (; i + LLMC_LANES <= n; i += LLMC_LANES) {
        vf value = (vf_load(x + i) - m) * f;
        if (weight) value *= vf_load(weight + i) + o;
        if (bias) value += vf_load(bias + i);
        vf_store(y + i, value);
    }
    for (; i < n; i++) {
        float value = (x[i] - mean) * factor;
        if (weight) value *= weight[i] + offset;
        if (bias) value += bias[i];
        y[i] = value;
    }
}

void llmc_rms_norm(float *y, const float *x, const float *weight, float offset, float eps, int64_t n) {
    scale(y, x, 0, 1.0f / sqrtf(llmc_sum_of_squares(x, n, 0) / (float)n + eps), weight, offset, 0, n);
}

void llmc_l2_norm(float *y, const float *x, float eps, int64_t n) {
    scale(y, x, 0, 1.0f / sqrtf(llmc_sum_of_squares(x, n, 0) + eps), 0, 0, 0, n);
}

void llmc_layer_norm(float *y, const float *x, const float *weight, const float *bias, float eps, int64_t n) {
    float mean = llmc_sum(x, n) / (float)n;
    scale(y, x, mean, 1.0f / sqrtf(llmc_sum_of_squares(x, n, mean) / (float)n + eps), weight, 0, bias, n);
}
