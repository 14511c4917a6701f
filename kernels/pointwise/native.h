/* Nonlinearities over a run of features. */
#ifndef LLMC_POINTWISE_H
#define LLMC_POINTWISE_H

#include <stdint.h>

#define LLMC_EACH_ACTIVATION(X) \
    X(gelu) X(gelu_tanh) X(gelu_quick) X(relu) X(relu2) X(silu) X(sigmoid) X(tanh) X(softplus) X(exp) X(identity)

/* y = f(x), and y = f(gate) * up, for n features. `relu2` is relu(x)^2, `gelu_quick` x * sigmoid(1.702 x). */
#define LLMC_DECLARE(kind)                                                                         \
    void llmc_activate_##kind(float *y, const float *x, int64_t n);                                \
    void llmc_gate_##kind(float *y, const float *gate, const float *up, int64_t n);

LLMC_EACH_ACTIVATION(LLMC_DECLARE)
#undef LLMC_DECLARE

/* y = cap * tanh(x / cap). */
void llmc_softcap(float *y, const float *x, float cap, int64_t n);

/* y = max(x - cutoff, 0), the cutoff being mean + quantile * standard deviation (of the whole population). */
void llmc_topk_sparsity(float *y, const float *x, float quantile, int64_t n);

float llmc_largest(const float *x, int64_t n);

#endif
