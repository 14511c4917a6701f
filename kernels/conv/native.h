/* A depthwise causal convolution over the last few tokens of a row, and the tail that the row's next call reads. */
#ifndef LLMC_CONV_H
#define LLMC_CONV_H

#include "../native/numbers.h"
#include "../native/team.h"

#define LLMC_CONV_BLOCK 64 /* channels of a chunk */

typedef struct {
    const float *x; /* [batch * tokens, channels], x_stride floats a row */
    float *out;     /* the same, dense */
    int64_t x_stride, batch, tokens, channels, taps;
    const int64_t *position; /* [batch, tokens], -1 padding */
    const float *weight;     /* [channels, taps] */
    const float *bias;       /* [channels] or NULL */
    void (*activate)(float *y, const float *x, int64_t n);
    void *tail; /* [batch, channels, taps - 1], of `type`, the newest last; NULL: zeros, and nothing is kept */
    int type;
} llmc_conv;

/* Scratch: LLMC_CONV_BLOCK * (2 * taps) floats a thread. */
void llmc_short_conv(llmc_thread *t, const llmc_conv *a);

#endif
