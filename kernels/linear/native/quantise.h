/* Activations as whole numbers: int8 with a scale for each block of 32 columns, or for ternary of the whole row. */
#ifndef LLMC_QUANTISE_H
#define LLMC_QUANTISE_H

#include "vector_math.h"
#include "dot.h"
#include "linear.h"

#define LLMC_BLOCK 32

typedef struct {
    int8_t *q;     /* [llmc_padded(K)], 0 beyond K */
    float *scale;  /* [blocks]: x is about q * scale */
    int32_t *init; /* [blocks]: minus the block's sum of q times what the format adds to its weights */
} llmc_quantised;

LLMC_INLINE int llmc_is_packed(int format) { return format >= LLMC_INT8; }
LLMC_INLINE int64_t llmc_padded(int64_t K) { return (K + 127) / 128 * 128; }
LLMC_INLINE int64_t llmc_blocks(int64_t K) { return llmc_padded(K) / LLMC_BLOCK; }

/* Bytes of one row in the order q, scale, init; a multiple of 32. */
LLMC_INLINE int64_t llmc_quantised_bytes(int64_t K) { return llmc_padded(K) + llmc_blocks(K) * 8; }
LLMC_INLINE llmc_quantised llmc_quantised_at(void *memory, int64_t K) {
    char *p = memory;
    return (llmc_quantised){(int8_t *)p, (float *)(void *)(p + llmc_padded(K)),
                            (int32_t *)(void *)(p + llmc_padded(K) + llmc_blocks(K) * 4)};
}

void llmc_quantise_row(int format, const float *x, int64_t K, llmc_quantised out);

#endif
