/* Rounding of one row of activations. */
#include "quantise.h"

static int32_t offset_of(int format) { return format == LLMC_INT8 ? 128 : format == LLMC_TERNARY ? 1 : 8; }

static float largest(const float *x, int64_t count) {
    vf most = vf_zero();
    for (int64_t k = 0; k < count; k += LLMC_LANES)
        most = vf_max(most, vf_abs(vf_load_part(x + k, count - k < LLMC_LANES ? (int)(count - k) : LLMC_LANES)));
    return vf_largest(most);
}

/* q of `count` (at most LLMC_BLOCK) columns, 0 for the rest of the block; gives their sum. */
static int32_t round_block(const float *x, int64_t count, float factor, int8_t *q) {
    vi sum = vi_zero();
    for (int k = 0; k < LLMC_BLOCK; k += LLMC_LANES) {
        int64_t left = count - k;
        vf v = vf_load_part(x + (left > 0 ? k : 0), left <= 0 ? 0 : left < LLMC_LANES ? (int)left : LLMC_LANES);
        v = vf_max(vf_min(v * vf_all(factor), vf_all(127.0f)), vf_all(-128.0f));
        vi whole = vi_nearest(v);
        vi_store_bytes(q + k, whole);
        sum += whole;
    }
    return vi_sum(sum);
}

void llmc_quantise_row(int format, const float *x, int64_t K, llmc_quantised out) {
    int32_t offset = offset_of(format);
    float factor = 0;
    if (format == LLMC_TERNARY) {
        float most = largest(x, K);
        factor = 127.0f * (1.0f / (most > 1e-5f ? most : 1e-5f)); /* torch's `127 / x`, in the same two roundings */
        out.scale[0] = 1.0f / factor;
        out.init[0] = 0;
    }
    for (int64_t b = 0; b < llmc_blocks(K); b++) {
        int64_t count = K - b * LLMC_BLOCK;
        count = count < 0 ? 0 : count < LLMC_BLOCK ? count : LLMC_BLOCK;
        const float *from = x + (count ? b * LLMC_BLOCK : 0);
        if (format != LLMC_TERNARY) {
            float most = largest(from, count);
            factor = most > 0 ? 127.0f / most : 0.0f;
            if (!(factor < 3e38f)) factor = 3e38f; /* the block is nothing but subnormals */
            out.scale[b] = most / 127.0f;
        }
        int32_t sum = round_block(from, count, factor, out.q + b * LLMC_BLOCK);
        if (format == LLMC_TERNARY) out.init[0] -= offset * sum;
        else out.init[b] = -offset * sum;
    }
}
