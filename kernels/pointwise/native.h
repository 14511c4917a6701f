/* Nonlinearities over a run of features. */
#ifndef LLMC_POINTWISE_H
#define LLMC_POINTWISE_H

#include <stdint.h>

/* y = f(x), and y = f(gate) * up, for n features. `relu2` is relu(x)^2, `gelu_quick` x * sigmoid(1.702 x). */
#define LLMC_ACTIVATION(kind)                                                                      \
    void llmc_activate_##kind(float *y, const float *x, int64_t n);                                \
    void llmc_gate_##kind(float *y, const float *gate, const float *up, int64_t n);

LLMC_ACTIVATION(gelu)
LLMC_ACTIVATION(gelu_tanh)
LLMC_ACTIVATION(gelu_quick)
LLMC_ACTIVATION(relu)
LLMC_ACTIVATION(relu2)
LLMC_ACTIVATION(silu)
LLMC_ACTIVATION(sigmoid)
LLMC_ACTIVATION(tanh)
LLMC_ACTIVATION(softplus)
LLMC_ACTIVATION(exp)
LLMC_ACTIVATION(identity)

/* y = cap * tanh(x / cap). */
void llmc_softcap(float *y, const float *x, float cap, int64_t n);

/* y = max(x - cutoff, 0), the cutoff being mean + quantile * standard deviation (of the whole population). */
void llmc_topk_sparsity(float *y, const float *x, float quantile, int64_t n);

float llmc_largest(const float *x, int64_t n);

#endif
