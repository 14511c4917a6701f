/* Norms of one run of features. Statistics are float32, over as many partial sums as a vector has lanes. */
#ifndef LLMC_NORM_H
#define LLMC_NORM_H

#include <stdint.h>

float llmc_sum(const float *x, int64_t n);

/* The sum of (x - mean)^2. */
float llmc_sum_of_squares(const float *x, int64_t n, float mean);

/* y = a + b. */
void llmc_add(float *y, const float *a, const float *b, int64_t n);

/* x / sqrt(mean(x^2) + eps) * (weight + offset) (Zhang and Sennrich 2019); weight may be NULL. */
void llmc_rms_norm(float *y, const float *x, const float *weight, float offset, float eps, int64_t n);

/* (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016); weight and bias may be NULL. */
void llmc_layer_norm(float *y, const float *x, const float *weight, const float *bias, float eps, int64_t n);

/* x / sqrt(sum(x^2) + eps). */
void llmc_l2_norm(float *y, const float *x, float eps, int64_t n);

#endif
