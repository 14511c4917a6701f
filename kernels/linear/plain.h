/* y = x W^T + bias with a weight as torch holds it. */
#ifndef LLMC_LINEAR_PLAIN_H
#define LLMC_LINEAR_PLAIN_H
#include "../native/team.h"
void llmc_plain_float32(llmc_thread *t, const void *weight, const float *bias, const float *x, float *y, int64_t rows, int64_t n, int64_t k);
void llmc_plain_bfloat16(llmc_thread *t, const void *weight, const float *bias, const float *x, float *y, int64_t rows, int64_t n, int64_t k);
void llmc_plain_float16(llmc_thread *t, const void *weight, const float *bias, const float *x, float *y, int64_t rows, int64_t n, int64_t k);
#endif
