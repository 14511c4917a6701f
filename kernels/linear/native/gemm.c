/* Larger batches with plain weights: regions, the packing of x, and panels of the weight.
 *
 * bf16 weights are widened to fp32, which is exact, except where the processor's bf16 dot product is the faster one:
 * on AMD it makes two products a lane and cycle; Intel's takes two cycles, so that fp32 is twice as fast there.
 */
#include "gemm.h"

#include "columns.h"
#include "epilogue.h"
#include "groups.h"
#include "transpose.h"

#if !defined(LLMC_HAS_BF16_DOT)
#define uses_bf16_dot(format) ((void)(format), 0)
#elif defined(LLMC_BF16_DOT)
#define uses_bf16_dot(format) ((format) == LLMC_BF16 && LLMC_BF16_DOT)
#else
#define uses_bf16_dot(format) ((format) == LLMC_BF16 && __builtin_cpu_is("amd"))
#endif

/* The dwords of one row from p on: `columns` of them are there, the others are 0. */
LLMC_INLINE vf dwords_of_x(const float *p, int64_t columns, int is_pairs) {
    int first = columns < LLMC_LANES ? (int)columns : LLMC_LANES;
    vf a = vf_load_part(p, first);
#if defined(LLMC_HAS_BF16_DOT)
    if (is_pairs) {
        int64_t rest = columns - first;
        vf b = vf_load_part(p + first, rest < LLMC_LANES ? (int)rest : LLMC_LANES);
        return (vf)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    }
#endif
    (void)is_pairs;
    return a;
}

LLMC_INLINE vf dwords_of_row(int format, const char *p, int64_t columns, int is_pairs) {
    int count = columns < LLMC_LANES ? (int)columns : LLMC_LANES;
    if (format == LLMC_FP32) return vf_load_part((const float *)(const void *)p, count);
    if (is_pairs) {
        char both[LLMC_LANES * 4] = {0};
        if (columns >= 2 * LLMC_LANES) return vf_bits(vi_load(p));
        memcpy(both, p, (size_t)columns * 2);
        return vf_bits(vi_load(both));
    }
    vh half = vh_load_part(p, count);
    return format == LLMC_BF16 ? vf_from_bf16(half) : vf_from_fp16(half);
}

LLMC_INLINE int64_t depth_of(int format, int64_t K) { return uses_bf16_dot(format) ? (K + 1) / 2 : K; }

int64_t llmc_plain_panel_bytes(int format, int64_t K) { return depth_of(format, K) * LLMC_MR * 4; }

void llmc_plain_panel(int format, const float *const *rows, int count, int64_t K, void *panel) {
    const int is_pairs = uses_bf16_dot(format);
    const int64_t depth = depth_of(format, K);
    float *out = panel;
    for (int r = 0; r < LLMC_MR; r += LLMC_LANES) {
        int width = LLMC_MR - r < LLMC_LANES ? LLMC_MR - r : LLMC_LANES;
        for (int64_t k = 0; k < depth; k += LLMC_LANES) {
            vf v[LLMC_LANES];
            int64_t column = is_pairs ? 2 * k : k;
#pragma GCC unroll 16
            for (int i = 0; i < LLMC_LANES; i++) {
                int is_there = i < width && r + i < count;
                v[i] = is_there ? dwords_of_x(rows[r + i] + column, K - column, is_pairs) : vf_zero();
            }
            vf_transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < LLMC_LANES; i++)
                if (k + i < depth) vf_store_part(out + (k + i) * LLMC_MR + r, v[i], width);
        }
    }
}

/* Rows `first` ... of the weight, `left` of them there, dwords k ... k + depth: [depth][LLMC_NR]. */
LLMC_INLINE void fill_panel(int format, int is_pairs, const llmc_matrix *m, int64_t first, int64_t left, int64_t k, int64_t depth,
                            float *out) {
    int64_t size = format == LLMC_FP32 ? 4 : 2, step = is_pairs ? 2 : 1;
    for (int half = 0; half < 2; half++) {
        const char *w[LLMC_LANES];
        for (int i = 0; i < LLMC_LANES; i++) {
            int64_t row = half * LLMC_LANES + i;
            w[i] = llmc_row(m, first + (row < left ? row : left - 1), m->K * size) + k * step * size;
        }
        for (int64_t d = 0; d < depth; d += LLMC_LANES) {
            vf v[LLMC_LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LLMC_LANES; i++) {
                v[i] = dwords_of_row(format, w[i] + d * step * size, m->K - (k + d) * step, is_pairs);
            }
            vf_transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < LLMC_LANES; i++)
                if (d + i < depth) vf_store(out + (d + i) * LLMC_NR + half * LLMC_LANES, v[i]);
        }
    }
}

/* The same of a weight that lies input by input. */
static void copy_panel(const llmc_matrix *m, int is_pairs, int64_t first, int64_t left, int64_t k, int64_t depth, float *out) {
    const int64_t size = m->format == LLMC_FP32 ? 4 : 2, inputs = is_pairs ? 2 : 1;
    for (int half = 0; half < 2; half++, left -= LLMC_LANES) {
        const char *at = (const char *)m->weight + (k * inputs * m->step + first + half * LLMC_LANES) * size;
        int count = left < 0 ? 0 : left < LLMC_LANES ? (int)left : LLMC_LANES;
        for (int64_t d = 0; d < depth; d++, at += inputs * m->step * size) {
            vf v = llmc_load_typed(m->format, at, count);
            if (is_pairs) {
                int is_there = 2 * (k + d) + 1 < m->K;
                vf odd = is_there ? llmc_load_typed(m->format, at + m->step * size, count) : vf_zero();
                v = vf_bits((vi)((vu)vi_bits(v) >> 16) | vi_bits(odd));
            }
            vf_store(out + d * LLMC_NR + half * LLMC_LANES, v);
        }
    }
}

static void panel(const llmc_matrix *m, int is_pairs, int64_t first, int64_t left, int64_t k, int64_t depth, float *out) {
    if (m->step) copy_panel(m, is_pairs, first, left, k, depth, out);
    else if (is_pairs) fill_panel(LLMC_BF16, 1, m, first, left, k, depth, out);
    else if (m->format == LLMC_FP32) fill_panel(LLMC_FP32, 0, m, first, left, k, depth, out);
    else if (m->format == LLMC_BF16) fill_panel(LLMC_BF16, 0, m, first, left, k, depth, out);
    else fill_panel(LLMC_FP16, 0, m, first, left, k, depth, out);
}

/* Part `part` of `parts` of the memory from `next` on. */
static llmc_ahead part_of(llmc_ahead next, int64_t part, int64_t parts) {
    int64_t first = next.bytes * part / parts, end = next.bytes * (part + 1) / parts;
    return (llmc_ahead){next.at + first, end - first};
}

static void tiles(int is_pairs, int64_t panels, int64_t depth, int64_t whole, const float *w, const float *x, float *c, int is_more,
                  llmc_ahead next) {
    for (int64_t p = 0; p < panels; p++, x += whole * LLMC_MR, c += LLMC_MR * LLMC_NR) {
#if defined(LLMC_HAS_BF16_DOT)
        if (is_pairs) {
            llmc_tile_bf16(depth, w, x, c, is_more, part_of(next, p, panels));
            continue;
        }
#endif
        (void)is_pairs;
        llmc_tile_fp32(depth, w, x, c, is_more, part_of(next, p, panels));
    }
}

void llmc_store_tiles(const llmc_matrix *m, const float *gate, const float *up, float *y, int64_t first_row, int64_t rows,
                      int64_t n) {
    for (int64_t row = first_row; row < rows; row++, gate += LLMC_NR, up += LLMC_NR) {
        for (int64_t j = 0; j < LLMC_NR && n + j < m->N; j += LLMC_LANES) {
            int count = m->N - n - j < LLMC_LANES ? (int)(m->N - n - j) : LLMC_LANES;
            vf other = m->is_gated ? vf_load(up + j) : vf_zero();
            vf_store_part(y + row * m->N + n + j, llmc_finish(m, vf_load(gate + j), other, n + j, count), count);
        }
    }
}

void llmc_plain_tiles(llmc_thread *t, const llmc_matrix *m, const void *packed, int64_t first, int64_t panels, int64_t n, int half,
                      llmc_ahead next, float *sums) {
    const int is_pairs = uses_bf16_dot(m->format);
    const int64_t whole = depth_of(m->format, m->K);
    const float *x = (const float *)packed + first * whole * LLMC_MR;
    float *w = (float *)t->scratch + 2 * LLMC_BLOCK_PANELS * LLMC_MR * LLMC_NR;
    for (int64_t k = 0; k < whole || k == 0; k += LLMC_BLOCK_DEPTH) {
        int64_t depth = whole - k < LLMC_BLOCK_DEPTH ? whole - k : LLMC_BLOCK_DEPTH;
        panel(m, is_pairs, half * m->N + n, m->N - n, k, depth, w);
        if (k + depth < whole) tiles(is_pairs, panels, depth, whole, w, x + k * LLMC_MR, sums, k > 0, (llmc_ahead){next.at, 0});
        else tiles(is_pairs, panels, depth, whole, w, x + k * LLMC_MR, sums, k > 0, next);
    }
}

/* One chunk: LLMC_NR columns of y, and the rows of a block of panels. */
static void block(llmc_thread *t, const llmc_matrix *m, const void *packed, float *y, int64_t rows, int64_t n, int64_t first_panel,
                  int64_t panels) {
    int64_t stride = m->K * (m->format == LLMC_FP32 ? 4 : 2), end = m->N * (1 + m->is_gated) - 1;
    float *sums = t->scratch, *up = sums + LLMC_BLOCK_PANELS * LLMC_MR * LLMC_NR;
    for (int half = 0; half <= m->is_gated; half++) {
        int64_t row = half < m->is_gated ? m->N + n : n + LLMC_NR; /* what comes next: its rows follow each other */
        llmc_ahead next = {llmc_row(m, row < end ? row : end, stride), LLMC_NR * stride};
        llmc_plain_tiles(t, m, packed, first_panel, panels, n, half, next, half ? up : sums);
    }
    int64_t last = (first_panel + panels) * LLMC_MR;
    llmc_store_tiles(m, sums, up, y, first_panel * LLMC_MR, last < rows ? last : rows, n);
}

static void pack_x(const llmc_matrix *m, const float *x, int64_t rows, int64_t p, void *panel) {
    const float *at[LLMC_MR];
    int count = 0;
    for (int64_t row = p * LLMC_MR; count < LLMC_MR && row < rows; row++) at[count++] = x + row * m->K;
    llmc_plain_panel(m->format, at, count, m->K, panel);
}

void llmc_gemm_plain(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                     int is_prepared) {
    int64_t panels = (rows + LLMC_MR - 1) / LLMC_MR, size = llmc_plain_panel_bytes(m->format, m->K);
    if (!is_prepared) {
        LLMC_FOR(t, p, panels) { pack_x(m, x, rows, p, (char *)workspace + p * size); }
    }
    int64_t blocks = (panels + LLMC_BLOCK_PANELS - 1) / LLMC_BLOCK_PANELS;
    int64_t even = (panels + blocks - 1) / blocks;
    LLMC_FOR(t, chunk, (m->N + LLMC_NR - 1) / LLMC_NR * blocks) {
        int64_t first = chunk % blocks * even, count = panels - first < even ? panels - first : even;
        if (count > 0) block(t, m, workspace, y, rows, chunk / blocks * LLMC_NR, first, count);
    }
}
