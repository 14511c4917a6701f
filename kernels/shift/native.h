/* The token before each token of a row, and what the row's next call reads. */
#ifndef LLMC_SHIFT_H
#define LLMC_SHIFT_H

#include "../native/numbers.h"
#include "../native/team.h"

typedef struct {
    const float *x; /* [batch * tokens, features], x_stride floats a row */
    float *out;     /* the same, dense */
    int64_t x_stride, batch, tokens, features;
    const int64_t *position; /* [batch, tokens], -1 padding */
    void *last;              /* [batch, features], of `type`: the last token held; NULL: zeros, and nothing is kept */
    int type;
} llmc_shift;

void llmc_token_shift(llmc_thread *t, const llmc_shift *a);

#endif
