/* The regions of a linear layer: how rows of the weight are cut into chunks, and what is done with their sums. */
#include "linear.h"

#include "epilogue.h"
#include "gemm.h"
#include "groups.h"

#include <string.h>

#define CHUNK_BYTES (96 * 1024)
#define LEAST_BYTES (8 * 1024)
#define MOST_HELD 4096 /* outputs that a thread keeps on its stack until it knows that it is the one to write them */

typedef struct {
    int64_t groups, per_chunk, chunks;
} cut;

static int64_t bits_of(int format) {
    switch (format) {
    case LLMC_FP32: return 32;
    case LLMC_BF16: case LLMC_FP16: return 16;
    case LLMC_INT8: return 8;
    case LLMC_TERNARY: return 2;
    default: return 4;
    }
}

/* Chunks are long streams of the weight, but a few for each thread unless they would be tiny, and at most `most`. */
static cut cut_rows(const llmc_matrix *m, int threads, int64_t most) {
    int64_t groups = (m->N + LLMC_GROUP - 1) / LLMC_GROUP;
    int64_t bytes = LLMC_GROUP * m->K * bits_of(m->format) / 8 * (1 + m->is_gated);
    int64_t per = CHUNK_BYTES / (bytes + 1) + 1, even = (groups + 4 * threads - 1) / (4 * threads);
    if (threads == 1) per = groups;
    else if (per > even) per = even;
    if (per * bytes < LEAST_BYTES) per = LEAST_BYTES / (bytes + 1) + 1;
    if (per * most < groups) per = (groups + most - 1) / most;
    return (cut){groups, per, (groups + per - 1) / per};
}

LLMC_INLINE void group_sums(const llmc_matrix *m, int64_t g, int half, const llmc_rows *x, int R, float *out) {
    if (llmc_is_packed(m->format)) llmc_packed_sums(m, g, half, x->rounded, R, out);
    else llmc_plain_sums(m, g, half, x->plain, R, out);
}

/* y[r * stride, columns of group g] for `rows` rows; sums are made for R >= rows rows. */
static void group_outputs(const llmc_matrix *m, int64_t g, const llmc_rows *x, int R, int rows, float *y, int64_t stride) {
    float gate[LLMC_SMALL_BATCH * LLMC_GROUP] __attribute__((aligned(64)));
    float up[LLMC_SMALL_BATCH * LLMC_GROUP] __attribute__((aligned(64)));
    group_sums(m, g, 0, x, R, gate);
    if (m->is_gated) group_sums(m, g, 1, x, R, up);
    int left = llmc_rows_left(m, g);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < left; i += LLMC_LANES) {
            int count = left - i < LLMC_LANES ? left - i : LLMC_LANES;
            vf b = m->is_gated ? vf_load(up + r * LLMC_GROUP + i) : vf_zero();
            vf v = llmc_finish(m, vf_load(gate + r * LLMC_GROUP + i), b, g * LLMC_GROUP + i, count);
            vf_store_part(y + r * stride + g * LLMC_GROUP + i, v, count);
        }
    }
}

/* The rows of x for sums of R rows, the last one repeated. Rounded rows go to this thread's scratch: that costs less
 * than a region of its own, and happens only once the thread holds a chunk, so that x is still there. */
static void take_rows(llmc_thread *t, const llmc_matrix *m, const float *x, int rows, int R, llmc_rows *out) {
    for (int r = 0; r < R; r++) {
        int row = r < rows ? r : rows - 1;
        out->plain[r] = x + row * m->K;
        if (!llmc_is_packed(m->format)) continue;
        out->rounded[r] = llmc_quantised_at((char *)t->scratch + row * llmc_quantised_bytes(m->K), m->K);
        if (r < rows) llmc_quantise_row(m->format, out->plain[r], m->K, out->rounded[r]);
    }
}

static void small_batch(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int rows) {
    int R = rows <= 2 ? rows : rows <= 4 ? 4 : 8, is_ready = 0;
    llmc_rows in;
    cut c = cut_rows(m, t->count, LLMC_MAX_CHUNKS);
    int64_t width = c.per_chunk * LLMC_GROUP;
    int is_held = t->count > 1 && width * rows <= MOST_HELD;
    float held[MOST_HELD] __attribute__((aligned(64)));
    LLMC_FOR_AGAIN(t, chunk, c.chunks, is_held) {
        if (!is_ready) take_rows(t, m, x, rows, R, &in);
        is_ready = 1;
        int64_t first = chunk * width, left = m->N - first < width ? m->N - first : width;
        float *to = is_held ? held - first : y;
        for (int64_t g = chunk * c.per_chunk; g < c.groups && g < (chunk + 1) * c.per_chunk; g++)
            group_outputs(m, g, &in, R, rows, to, is_held ? width : m->N);
        if (!llmc_may_write(t) || !is_held) continue;
        for (int r = 0; r < rows; r++) memcpy(y + r * m->N + first, held + r * width, (size_t)left * sizeof *y);
    }
}

void llmc_linear(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                 int is_prepared) {
    if (m->N == 0 || rows == 0) return;
    if (rows <= LLMC_SMALL_BATCH) small_batch(t, m, x, y, (int)rows);
    else if (llmc_is_packed(m->format)) llmc_gemm_packed(t, m, x, y, rows, workspace, is_prepared);
    else llmc_gemm_plain(t, m, x, y, rows, workspace, is_prepared);
}

LLMC_INLINE int is_better(llmc_best a, llmc_best b) { return a.value > b.value || (a.value != a.value && b.value == b.value); }

void llmc_linear_argmax(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, llmc_best *best) {
    cut c = cut_rows(m, t->count, LLMC_MAX_BEST);
    llmc_rows in;
    int is_ready = 0;
    int64_t width = c.per_chunk * LLMC_GROUP;
    int is_held = t->count > 1 && width <= MOST_HELD;
    float held[MOST_HELD] __attribute__((aligned(64)));
    LLMC_FOR_AGAIN(t, chunk, c.chunks, is_held) {
        if (!is_ready) take_rows(t, m, x, 1, 1, &in);
        is_ready = 1;
        int64_t start = chunk * width, left = m->N - start < width ? m->N - start : width;
        llmc_best first = {-__builtin_inff(), (int32_t)(chunk * c.per_chunk * LLMC_GROUP)};
        for (int64_t g = chunk * c.per_chunk; g < c.groups && g < (chunk + 1) * c.per_chunk; g++) {
            float out[LLMC_GROUP];
            float *base = is_held ? held - start : y ? y : out - g * LLMC_GROUP;
            group_outputs(m, g, &in, 1, 1, base, m->N);
            for (int i = 0; i < llmc_rows_left(m, g); i++) {
                llmc_best other = {base[g * LLMC_GROUP + i], (int32_t)(g * LLMC_GROUP + i)};
                if (is_better(other, first)) first = other;
            }
        }
        if (!llmc_may_write(t)) continue;
        best[chunk] = first;
        if (is_held && y) memcpy(y + start, held, (size_t)left * sizeof *y);
    }
}

llmc_best llmc_best_of(const llmc_matrix *m, const llmc_best *best, int threads) {
    cut c = cut_rows(m, threads, LLMC_MAX_BEST);
    llmc_best first = best[0];
    for (int64_t i = 1; i < c.chunks; i++)
        if (is_better(best[i], first)) first = best[i];
    return first;
}

size_t llmc_linear_workspace(int64_t rows, int64_t K) {
    int64_t whole = (rows + LLMC_MR - 1) / LLMC_MR * LLMC_MR, row = 4 * K;
    if (row < llmc_quantised_bytes(K)) row = llmc_quantised_bytes(K);
    return (size_t)(whole * row + 64);
}

size_t llmc_linear_scratch(int64_t K) {
    size_t tiles = (2 * LLMC_BLOCK_PANELS * LLMC_MR + LLMC_BLOCK_DEPTH) * LLMC_NR * sizeof(float);
    size_t rows = (size_t)(LLMC_SMALL_BATCH * llmc_quantised_bytes(K)), wide = (size_t)llmc_gemm_packed_scratch(K);
    if (tiles < rows) tiles = rows;
    return tiles < wide ? wide : tiles;
}
