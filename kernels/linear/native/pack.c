/* Packing of weights: every group of 16 rows by itself. */
#include "pack.h"

#include "groups.h"

#define STEP 128 /* numbers of a row handled at once: whole blocks of every format */

static int64_t whole(int64_t K, int64_t step) { return (K + step - 1) / step * step; }

int64_t llmc_group_bytes(int format, int64_t K) {
    switch (format) {
    case LLMC_INT8: return whole(K, 32) * 16 + 64;
    case LLMC_INT4_32: return whole(K, 32) / 32 * 288;
    case LLMC_INT4_128: return whole(K, 128) / 128 * 1056;
    default: return whole(K, 32) * 4 + 64;
    }
}

int64_t llmc_pack_groups(int64_t N, int is_gated) { return (N + LLMC_GROUP - 1) / LLMC_GROUP * (1 + is_gated); }

int64_t llmc_pack_bytes(int format, int64_t N, int64_t K, int is_gated) {
    return llmc_pack_groups(N, is_gated) * llmc_group_bytes(format, K);
}

/* `count` numbers of the source from number i on, as floats; zeros up to a whole vector. */
static void take(const void *source, int format, int64_t i, int64_t count, float *out) {
    for (int64_t k = 0; k < count; k += LLMC_LANES) {
        int part = count - k < LLMC_LANES ? (int)(count - k) : LLMC_LANES;
        const char *at = (const char *)source + (i + k) * (format == LLMC_FP32 ? 4 : 2);
        vf v = format == LLMC_FP32 ? vf_load_part((const float *)(const void *)at, part)
               : format == LLMC_BF16 ? vf_from_bf16(vh_load_part(at, part))
                                     : vf_from_fp16(vh_load_part(at, part));
        vf_store(out + k, v);
    }
}

float llmc_mean_magnitude(const void *source, int source_format, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i += STEP) {
        float w[STEP];
        int64_t some = count - i < STEP ? count - i : STEP;
        take(source, source_format, i, some, w);
        vf part = vf_zero();
        for (int64_t k = 0; k < some; k += LLMC_LANES) part += vf_abs(vf_load(w + k));
        sum += vf_sum(part);
    }
    float mean = count ? (float)(sum / (double)count) : 0.0f;
    return mean > 1e-5f ? mean : 1e-5f;
}

/* Where the whole number of row r and column k of a group lies, written there; `at` is the group. */
static void put(int format, uint8_t *at, int64_t k, int r, int q) {
    switch (format) {
    case LLMC_INT8: at[k / 4 * 64 + r * 4 + k % 4] = (uint8_t)(q + 128); return;
    case LLMC_TERNARY: at[k / 16 * 64 + r * 4 + k % 4] |= (uint8_t)((q + 1) << (k / 4 % 4 * 2)); return;
    default: {
        int64_t step = format == LLMC_INT4_32 ? 32 : 128, block = k / step, in = k % step;
        uint8_t *byte = at + block * (step * 8 + 32) + in / 8 * 64 + r * 4 + in % 4;
        *byte |= (uint8_t)((q + 8) << (in % 8 / 4 * 4));
    }
    }
}

static int get(int format, const uint8_t *at, int64_t k, int r) {
    switch (format) {
    case LLMC_INT8: return at[k / 4 * 64 + r * 4 + k % 4] - 128;
    case LLMC_TERNARY: return (at[k / 16 * 64 + r * 4 + k % 4] >> (k / 4 % 4 * 2) & 3) - 1;
    default: {
        int64_t step = format == LLMC_INT4_32 ? 32 : 128, block = k / step, in = k % step;
        return (at[block * (step * 8 + 32) + in / 8 * 64 + r * 4 + in % 4] >> (in % 8 / 4 * 4) & 15) - 8;
    }
    }
}

/* Whole numbers of `count` weights, as floats; vectors are whole and zeros behind count stay 0. */
static void round_all(const float *w, int64_t count, float inverse, float low, float high, float *q) {
    for (int64_t k = 0; k < count; k += LLMC_LANES) {
        vf v = vf_max(vf_min(vf_load(w + k) * vf_all(inverse), vf_all(high)), vf_all(low));
        vf_store(q + k, vf_from_int(vi_nearest(v)));
    }
}

/* The scale of one block of int4 weights: 8 steps below 0 and 7 above leave the choice of its sign; the better is taken. */
static float int4_scale(const float *w, int64_t count) {
    float most = 0, q[STEP];
    for (int64_t k = 0; k < count; k++)
        if (__builtin_fabsf(w[k]) > __builtin_fabsf(most)) most = w[k];
    float best = 0, error = __builtin_inff();
    for (int choice = 0; choice < 3; choice++) {
        float divisor = choice == 0 ? -8.0f : choice == 1 ? 7.0f : -7.5f;
        float scale = llmc_float_of_fp16(llmc_fp16_of_float(most / divisor));
        round_all(w, count, scale != 0 ? 1 / scale : 0, -8, 7, q);
        vf sum = vf_zero();
        for (int64_t k = 0; k < count; k += LLMC_LANES) {
            vf rest = vf_load(q + k) * vf_all(scale) - vf_load(w + k);
            sum += rest * rest;
        }
        if (vf_sum(sum) < error) error = vf_sum(sum), best = scale;
    }
    return best;
}

static void pack_int4_row(int format, const void *source, int source_format, int64_t start, int64_t K, int r, uint8_t *at) {
    int64_t step = format == LLMC_INT4_32 ? 32 : 128;
    for (int64_t k = 0; k < whole(K, step); k += step, at += step * 8 + 32) {
        int64_t count = K - k < step ? K - k : step;
        float w[STEP] = {0}, q[STEP];
        take(source, source_format, start + k, count, w);
        float scale = int4_scale(w, count);
        round_all(w, step, scale != 0 ? 1 / scale : 0, -8, 7, q);
        for (int64_t i = 0; i < step; i++)
            at[i / 8 * 64 + r * 4 + i % 4] |= (uint8_t)(((int)q[i] + 8) << (i % 8 / 4 * 4));
        uint16_t half = llmc_fp16_of_float(scale);
        memcpy(at + step * 8 + 2 * r, &half, 2);
    }
}

static void pack_row(int format, const void *source, int source_format, int64_t start, int64_t K, float scale, int r, uint8_t *at) {
    float w[STEP], q[STEP], limit = format == LLMC_INT8 ? 127 : 1;
    if (format == LLMC_INT8) {
        vf most = vf_zero();
        for (int64_t k = 0; k < K; k += STEP) {
            int64_t count = K - k < STEP ? K - k : STEP;
            take(source, source_format, start + k, count, w);
            for (int64_t i = 0; i < count; i += LLMC_LANES) most = vf_max(most, vf_abs(vf_load(w + i)));
        }
        scale = vf_largest(most) / 127;
    }
    memcpy(at + llmc_group_bytes(format, K) - 64 + 4 * r, &scale, 4);
    for (int64_t k = 0; k < whole(K, 32); k += STEP) {
        int64_t count = K - k < STEP ? K - k : STEP, end = whole(count, 32);
        memset(w, 0, sizeof w);
        take(source, source_format, start + k, count, w);
        round_all(w, end, scale > 0 ? 1 / scale : 0, -limit, limit, q);
        if (format == LLMC_INT8)
            for (int64_t i = 0; i < end; i++) at[(k + i) / 4 * 64 + r * 4 + i % 4] = (uint8_t)((int)q[i] + 128);
        else
            for (int64_t i = 0; i < end; i++) put(format, at, k + i, r, (int)q[i]);
    }
}

/* The row of the source that is row r of packed group g, or -1 where there is none. */
static int64_t source_row(int64_t N, int is_gated, int64_t g, int r) {
    int64_t row = (is_gated ? g / 2 : g) * LLMC_GROUP + r;
    return row >= N ? -1 : is_gated ? g % 2 * N + row : row;
}

static void pack_nothing(int format, int64_t K, int r, uint8_t *at) {
    int64_t step = format == LLMC_INT4_128 ? 128 : 32;
    for (int64_t k = 0; k < whole(K, step); k++) put(format, at, k, r, 0);
}

void llmc_pack(int format, const void *source, int source_format, int64_t N, int64_t K, int is_gated, float scale,
               int64_t first_group, int64_t end_group, void *out) {
    int64_t bytes = llmc_group_bytes(format, K);
    for (int64_t g = first_group; g < end_group; g++) {
        uint8_t *at = (uint8_t *)out + g * bytes;
        memset(at, 0, (size_t)bytes);
        for (int r = 0; r < LLMC_GROUP; r++) {
            int64_t row = source_row(N, is_gated, g, r);
            if (row < 0) pack_nothing(format, K, r, at);
            else if (format == LLMC_INT8 || format == LLMC_TERNARY)
                pack_row(format, source, source_format, row * K, K, scale, r, at);
            else pack_int4_row(format, source, source_format, row * K, K, r, at);
        }
    }
}

void llmc_pack_whole(int format, const int8_t *q, const float *scale, int row_scales, int64_t N, int64_t K, int is_gated,
                     int64_t first_group, int64_t end_group, void *out) {
    int64_t bytes = llmc_group_bytes(format, K);
    for (int64_t g = first_group; g < end_group; g++) {
        uint8_t *at = (uint8_t *)out + g * bytes;
        memset(at, 0, (size_t)bytes);
        for (int r = 0; r < LLMC_GROUP; r++) {
            int64_t row = source_row(N, is_gated, g, r);
            for (int64_t k = 0; k < whole(K, 32); k++) put(format, at, k, r, row < 0 || k >= K ? 0 : q[row * K + k]);
            if (row >= 0) memcpy(at + bytes - 64 + 4 * r, scale + (row_scales ? row : 0), 4);
        }
    }
}

void llmc_unpack(int format, const void *packed, int64_t N, int64_t K, int is_gated, float *out) {
    int64_t bytes = llmc_group_bytes(format, K), step = format == LLMC_INT4_128 ? 128 : 32;
    for (int64_t g = 0; g < llmc_pack_groups(N, is_gated); g++) {
        const uint8_t *at = (const uint8_t *)packed + g * bytes;
        for (int r = 0; r < LLMC_GROUP; r++) {
            int64_t row = source_row(N, is_gated, g, r);
            for (int64_t k = 0; row >= 0 && k < K; k++) {
                float scale;
                if (format == LLMC_INT8 || format == LLMC_TERNARY) memcpy(&scale, at + bytes - 64 + 4 * r, 4);
                else {
                    uint16_t half;
                    memcpy(&half, at + k / step * (step * 8 + 32) + step * 8 + 2 * r, 2);
                    scale = llmc_float_of_fp16(half);
                }
                out[row * K + k] = (float)get(format, at, k, r) * scale;
            }
        }
    }
}
