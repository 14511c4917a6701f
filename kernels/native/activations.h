/* The activations that kernels apply to their own results, by number. */
#ifndef LLMC_ACTIVATIONS_H
#define LLMC_ACTIVATIONS_H

enum {
    LLMC_IDENTITY, LLMC_SILU, LLMC_GELU, LLMC_GELU_TANH, LLMC_RELU, LLMC_RELU2, LLMC_SIGMOID, LLMC_TANH,
};

#endif
