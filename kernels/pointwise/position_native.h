/* Ops that read the positions of tokens: pooling a row of the batch, waves, a factor that grows with the position. */
#ifndef LLMC_POSITION_H
#define LLMC_POSITION_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Pooling of one row of the batch: y [n] from x [tokens, n], stride floats a row; position -1 is left out. */
static inline void llmc_pool_first(float *y, const float *x, int64_t stride, const int64_t *position, int64_t tokens, int64_t n) {
    memset(y, 0, n * sizeof(float));
    for (int64_t i = tokens - 1; i >= 0; i--)
        if (position[i] >= 0) memcpy(y, x + i * stride, n * sizeof(float));
}

static inline void llmc_pool_last(float *y, const float *x, int64_t stride, const int64_t *position, int64_t tokens, int64_t n) {
    memset(y, 0, n * sizeof(float));
    for (int64_t i = 0; i < tokens; i++)
        if (position[i] >= 0) memcpy(y, x + i * stride, n * sizeof(float));
}

static inline void llmc_pool_mean(float *y, const float *x, int64_t stride, const int64_t *position, int64_t tokens, int64_t n) {
    int64_t count = 0;
    memset(y, 0, n * sizeof(float));
    for (int64_t i = 0; i < tokens; i++) {
        if (position[i] < 0) continue;
        count++;
        for (int64_t j = 0; j < n; j++) y[j] += x[i * stride + j];
    }
    if (count)
        for (int64_t j = 0; j < n; j++) y[j] /= (float)count;
}

static inline void llmc_pool_max(float *y, const float *x, int64_t stride, const int64_t *position, int64_t tokens, int64_t n) {
    llmc_pool_first(y, x, stride, position, tokens, n);
    for (int64_t i = 0; i < tokens; i++) {
        if (position[i] < 0) continue;
        for (int64_t j = 0; j < n; j++)
            if (!(x[i * stride + j] <= y[j])) y[j] = x[i * stride + j]; /* NaN is the largest */
    }
}

/* Sines and cosines of position / wave, `step` apart, the cosines `offset` after the sines; n floats in all. */
static inline void llmc_sinusoidal(float *y, int64_t position, const float *wave, int64_t step, int64_t offset, int64_t n) {
    float at = position < 0 ? 0 : (float)position;
    for (int64_t i = 0; 2 * i < n; i++) {
        y[i * step] = sinf(at / wave[i]);
        if (i * step + offset < n) y[i * step + offset] = cosf(at / wave[i]);
    }
}

/* 1 + scale * log(1 + floor((position + offset) / period)) */
static inline float llmc_position_factor(int64_t position, float scale, float period, int64_t offset) {
    return 1.0f + scale * log1pf(floorf((float)((position < 0 ? 0 : position) + offset) / period));
}

#endif
