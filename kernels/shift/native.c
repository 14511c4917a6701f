/* Token shift: features in blocks, each through all tokens of a row. */
#include "native.h"

#define BLOCK 256 /* features of a chunk */

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void llmc_token_shift(llmc_thread *t, const llmc_shift *a) {
    int64_t blocks = (a->features + BLOCK - 1) / BLOCK;
    LLMC_FOR(t, chunk, a->batch * blocks) {
        int64_t b = chunk / blocks, first = chunk % blocks * BLOCK, count = smaller(BLOCK, a->features - first);
        float held[BLOCK] = {0};
        void *last = a->last ? llmc_element(a->last, b * a->features + first, a->type) : 0;
        if (last) llmc_widen(held, last, 1, count, a->type);
        const float *before = held;
        for (int64_t row = b * a->tokens; row < (b + 1) * a->tokens; row++) {
            float *out = a->out + row * a->features + first;
            if (a->position[row] < 0) {
                memset(out, 0, count * sizeof(float));
                continue;
            }
            memcpy(out, before, count * sizeof(float));
            before = a->x + row * a->x_stride + first;
        }
        if (last) llmc_narrow(last, 1, before, count, a->type);
    }
}
