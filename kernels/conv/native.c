/* The short convolution: channels in blocks, side by side in vectors, each block through all tokens of a row. */
#include "native.h"

#include "../native/vector.h"

#define BLOCK LLMC_CONV_BLOCK

/* y = bias + sum over taps of weight[j] * seen[j], for the channels of a block; weight [taps, BLOCK]. */
static void sum_taps(float *y, const float *bias, const float *weight, const float *const *seen, int64_t taps, int count) {
    for (int i = 0; i < count; i += LLMC_LANES) {
        int left = count - i < LLMC_LANES ? count - i : LLMC_LANES;
        vf sum = bias ? vf_load_part(bias + i, left) : vf_zero();
        for (int64_t j = 0; j < taps; j++)
            sum = vf_fma(vf_load(weight + j * BLOCK + i), vf_load_part(seen[j] + i, left), sum);
        vf_store_part(y + i, sum, left);
    }
}

/* The channels of one row from `first` on. `held` [taps - 1, BLOCK] has the tail, the oldest first. */
static void run_row(const llmc_conv *a, int64_t b, int64_t first, int count, const float *weight, float *held) {
    const float *seen[a->taps];
    for (int64_t j = 0; j + 1 < a->taps; j++) seen[j + 1] = held + j * BLOCK;
    for (int64_t row = b * a->tokens; row < (b + 1) * a->tokens; row++) {
        float *out = a->out + row * a->channels + first;
        if (a->position[row] < 0) {
            memset(out, 0, count * sizeof(float));
            continue;
        }
        for (int64_t j = 0; j + 1 < a->taps; j++) seen[j] = seen[j + 1];
        seen[a->taps - 1] = a->x + row * a->x_stride + first;
        sum_taps(out, a->bias ? a->bias + first : 0, weight, seen, a->taps, count);
        a->activate(out, out, count);
    }
    if (!a->tail) return;
    for (int64_t j = 0; j + 1 < a->taps; j++)
        llmc_narrow(llmc_element(a->tail, (b * a->channels + first) * (a->taps - 1) + j, a->type), a->taps - 1,
                    seen[j + 1], count, a->type);
}

void llmc_short_conv(llmc_thread *t, const llmc_conv *a) {
    int64_t blocks = (a->channels + BLOCK - 1) / BLOCK;
    LLMC_FOR(t, chunk, a->batch * blocks) {
        int64_t b = chunk / blocks, first = chunk % blocks * BLOCK;
        int count = a->channels - first < BLOCK ? (int)(a->channels - first) : BLOCK;
        float *weight = t->scratch, *held = weight + a->taps * BLOCK;
        memset(weight, 0, 2 * a->taps * BLOCK * sizeof(float));
        for (int64_t j = 0; j < a->taps; j++) {
            llmc_widen(weight + j * BLOCK, a->weight + first * a->taps + j, a->taps, count, LLMC_FLOAT32);
            if (a->tail && j + 1 < a->taps)
                llmc_widen(held + j * BLOCK,
                           llmc_element(a->tail, (b * a->channels + first) * (a->taps - 1) + j, a->type), a->taps - 1,
                           count, a->type);
        }
        run_row(a, b, first, count, weight, held);
    }
}
