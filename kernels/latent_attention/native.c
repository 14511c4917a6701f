/* Absorbed latent attention in three regions: queries to latents, attention over latents, sums of latents to values. */
#include "native.h"

#include <math.h>

#include "../linear/native/groups.h"
#include "../native/columns.h"

#define KEYS 64 /* in a block */
#define HEADS 4 /* of a chunk: a latent is read once for all of them */
#define ROWS LLMC_SMALL_BATCH

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static void append(const llmc_latent *a, int64_t row) {
    int64_t position = a->position[row], slot = row / a->tokens * a->slots + position;
    if (position < 0) return;
    llmc_narrow(llmc_element(a->latents, slot * a->rank, a->type), 1, a->latent.at + row * a->latent.stride, a->rank, a->type);
    llmc_narrow(llmc_element(a->k_ropes, slot * a->rope_dim, a->type), 1, a->k_rope.at + row * a->k_rope.stride, a->rope_dim, a->type);
}

/* absorbed[row, head] = U_k^T q_nope for some rows. */
static void absorb(const llmc_latent *a, int64_t head, int64_t first, int rows) {
    const float *x[ROWS];
    for (int r = 0; r < rows; r++) x[r] = a->q_nope.at + (first + r) * a->q_nope.stride + head * a->nope_dim;
    const char *up = llmc_element(a->kv_up, head * (a->nope_dim + a->value_dim) * a->rank, a->type);
    float *out = a->absorbed + (first * a->heads + head) * a->rank;
    llmc_column_sums(a->type, up, a->rank, a->nope_dim, a->rank, x, rows, out, a->heads * a->rank);
}

/* out[row, head] = U_v context for some rows. */
static void expand(const llmc_latent *a, int64_t head, int64_t first, int rows) {
    const float *x[ROWS];
    int R = rows <= 2 ? rows : rows <= 4 ? 4 : 8;
    for (int r = 0; r < R; r++) x[r] = a->context + ((first + (r < rows ? r : rows - 1)) * a->heads + head) * a->rank;
    llmc_matrix m = {.N = a->value_dim, .K = a->rank, .format = a->type};
    m.weight = llmc_element(a->kv_up, (head * (a->nope_dim + a->value_dim) + a->nope_dim) * a->rank, a->type);
    for (int64_t g = 0; g * LLMC_GROUP < a->value_dim; g++) {
        float sums[ROWS * LLMC_GROUP];
        llmc_plain_sums(&m, g, 0, x, R, sums);
        for (int r = 0; r < rows; r++)
            memcpy(a->out + ((first + r) * a->heads + head) * a->value_dim + g * LLMC_GROUP, sums + r * LLMC_GROUP,
                   llmc_rows_left(&m, g) * sizeof(float));
    }
}

/* The dot products of one key with the queries of some heads, `stride` floats apart. */
static void dots(float *out, const float *key, const float *q, int64_t stride, int64_t n, int heads) {
    vf sum[HEADS];
    for (int h = 0; h < heads; h++) sum[h] = vf_zero();
    for (int64_t i = 0; i < n; i += LLMC_LANES) {
        int left = (int)smaller(LLMC_LANES, n - i);
        vf k = vf_load_part(key + i, left);
        for (int h = 0; h < heads; h++) sum[h] = vf_fma(k, vf_load_part(q + h * stride + i, left), sum[h]);
    }
    for (int h = 0; h < heads; h++) out[h] = vf_sum(sum[h]);
}

typedef struct {
    float largest[HEADS], sum[HEADS];
} running;

/* One head and one block of keys: their weights, and the context so far scaled to the new largest score. */
static void weigh(running *so_far, int h, float *scores, int count, float *context, int64_t rank) {
    float largest = so_far->largest[h];
    for (int i = 0; i < count; i++)
        if (!(scores[i] <= largest)) largest = scores[i];
    float shrink = expf(so_far->largest[h] - largest);
    so_far->sum[h] *= shrink, so_far->largest[h] = largest;
    for (int64_t i = 0; i < rank; i++) context[i] *= shrink;
    for (int i = 0; i < count; i++) so_far->sum[h] += scores[i] = expf(scores[i] - largest);
}

static void attend(const llmc_latent *a, float *scratch, int64_t row, int64_t head, int heads) {
    int64_t b = row / a->tokens, end = a->position[row] + 1, rank = a->rank, rope = a->rope_dim;
    const float *absorbed = a->absorbed + (row * a->heads + head) * rank;
    const float *rotated = a->q_rope.at + row * a->q_rope.stride + head * rope;
    float *context = a->context + (row * a->heads + head) * rank, *wide_ropes = scratch + KEYS * rank;
    float scores[HEADS][KEYS];
    running so_far;
    for (int h = 0; h < heads; h++) so_far.largest[h] = -INFINITY, so_far.sum[h] = 0;
    memset(context, 0, heads * rank * sizeof(float));
    for (int64_t p = 0; p < end; p += KEYS) {
        int count = (int)smaller(KEYS, end - p);
        const float *latents = (const float *)a->latents + (b * a->slots + p) * rank;
        const float *ropes = (const float *)a->k_ropes + (b * a->slots + p) * rope;
        if (a->type != LLMC_FLOAT32) {
            llmc_widen(scratch, llmc_element(a->latents, (b * a->slots + p) * rank, a->type), 1, count * rank, a->type);
            llmc_widen(wide_ropes, llmc_element(a->k_ropes, (b * a->slots + p) * rope, a->type), 1, count * rope, a->type);
            latents = scratch, ropes = wide_ropes;
        }
        for (int i = 0; i < count; i++) {
            float nope[HEADS], turned[HEADS];
            dots(nope, latents + i * rank, absorbed, rank, rank, heads);
            dots(turned, ropes + i * rope, rotated, rope, rope, heads);
            for (int h = 0; h < heads; h++) scores[h][i] = (nope[h] + turned[h]) * a->scale;
        }
        const float *x[HEADS];
        for (int h = 0; h < heads; h++) {
            weigh(&so_far, h, scores[h], count, context + h * rank, rank);
            x[h] = scores[h];
        }
        for (int64_t first = 0; first < rank; first += KEYS) { /* 64 of the latent at a time */
            int64_t width = smaller(KEYS, rank - first);
            float sums[HEADS * KEYS];
            llmc_column_sums(LLMC_FLOAT32, latents + first, rank, count, width, x, heads, sums, KEYS);
            for (int h = 0; h < heads; h++)
                for (int64_t i = 0; i < width; i++) context[h * rank + first + i] += sums[h * KEYS + i];
        }
    }
    for (int h = 0; h < heads; h++)
        for (int64_t i = 0; end > 0 && i < rank; i++) context[h * rank + i] /= so_far.sum[h];
}

void llmc_latent_attend(llmc_thread *t, const llmc_latent *a) {
    int64_t rows = a->batch * a->tokens, at_once = ROWS, parts = (a->heads + HEADS - 1) / HEADS;
    int64_t blocks = (rows + at_once - 1) / at_once;
    LLMC_FOR(t, chunk, blocks * (a->heads + 1)) {
        int64_t first = chunk / (a->heads + 1) * at_once, head = chunk % (a->heads + 1);
        int count = (int)smaller(at_once, rows - first);
        if (head < a->heads) absorb(a, head, first, count);
        else
            for (int r = 0; r < count; r++) append(a, first + r);
    }
    LLMC_FOR(t, chunk, rows * parts) {
        int64_t head = chunk % parts * HEADS;
        attend(a, t->scratch, chunk / parts, head, (int)smaller(HEADS, a->heads - head));
    }
    LLMC_FOR(t, chunk, blocks * a->heads) {
        int64_t first = chunk / a->heads * at_once;
        expand(a, chunk % a->heads, first, (int)smaller(at_once, rows - first));
    }
}
