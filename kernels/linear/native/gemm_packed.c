/* Larger batches with packed weights: x rounded and packed once, digits widened to bytes as they are used.
 *
 * A tile is LLMC_QR rows of x by LLMC_NR columns of y. Its int32 sums are scaled into float32 sums after each block of
 * 32 columns (for ternary, after each piece); both sets stay in registers. Columns are taken in pieces, so that the
 * piece of the weight stays in the first cache while all rows of x pass by.
 */
#include "epilogue.h"
#include "gemm.h"
#include "groups.h"
#include "pack.h"
#include "quantise.h"

#define LLMC_PIECE 768 /* columns of x in a piece; a multiple of 128 */
#define LINE (LLMC_NR * 4) /* bytes of a panel for four columns of x */

/* A panel of LLMC_QR rows of x: q [columns / 4][LLMC_QR][4], then scale and init [block][LLMC_QR]. */
typedef struct {
    int8_t *q;
    float *scale;
    int32_t *init;
} rows_panel;

int64_t llmc_panel_bytes(int64_t K) { return LLMC_QR * llmc_quantised_bytes(K); }

static rows_panel panel_at(void *memory, int64_t p, int64_t K) {
    char *at = (char *)memory + p * llmc_panel_bytes(K);
    int64_t q = LLMC_QR * llmc_padded(K), blocks = LLMC_QR * llmc_blocks(K) * 4;
    return (rows_panel){(int8_t *)at, (float *)(void *)(at + q), (int32_t *)(void *)(at + q + blocks)};
}

void llmc_panel_row(int format, void *panel, int r, int64_t K, const llmc_quantised *row) {
    rows_panel out = panel_at(panel, 0, K);
    const int8_t nothing[4] = {0};
    int64_t blocks = format == LLMC_TERNARY ? 1 : llmc_blocks(K);
    for (int64_t k = 0; k < llmc_padded(K); k += 4) memcpy(out.q + k * LLMC_QR + r * 4, row ? row->q + k : nothing, 4);
    for (int64_t b = 0; b < blocks; b++) {
        out.scale[b * LLMC_QR + r] = row ? row->scale[b] : 0;
        out.init[b * LLMC_QR + r] = row ? row->init[b] : 0;
    }
}

static void pack_rows(llmc_thread *t, int format, const float *x, int64_t rows, int64_t K, int64_t p, void *panel) {
    llmc_quantised one = llmc_quantised_at(t->scratch, K);
    for (int r = 0; r < LLMC_QR; r++) {
        int64_t row = p * LLMC_QR + r;
        if (row < rows) llmc_quantise_row(format, x + row * K, K, one);
        llmc_panel_row(format, panel, r, K, row < rows ? &one : 0);
    }
}

/* The weight of a tile: bytes a and b are its two registers, a line is `step` bytes on; scales of columns by block. */
typedef struct {
    const uint8_t *a, *b;
    int64_t step, blocks, lines; /* lines of four columns in a block */
    const float *scale;          /* [block of int4][LLMC_NR] or NULL */
    int scale_shift;             /* 1 << scale_shift blocks have one scale */
} columns;

/* The piece of w or x that begins at column k. */
static columns piece_of(columns w, int format, int64_t k, int64_t K) {
    int64_t rest = (K - k + LLMC_BLOCK - 1) / LLMC_BLOCK, most = LLMC_PIECE / LLMC_BLOCK, blocks = rest < most ? rest : most;
    w.a += k / 4 * w.step;
    w.b += k / 4 * w.step;
    if (w.scale) w.scale += (k / LLMC_BLOCK >> w.scale_shift) * LLMC_NR;
    if (format == LLMC_TERNARY) w.lines = blocks * (LLMC_BLOCK / 4);
    else w.blocks = blocks;
    return w;
}

static rows_panel piece_of_rows(rows_panel x, int format, int64_t k) {
    static int32_t nothing[LLMC_QR];
    x.q += k * LLMC_QR;
    if (format != LLMC_TERNARY) x.scale += k / LLMC_BLOCK * LLMC_QR, x.init += k / LLMC_BLOCK * LLMC_QR;
    else if (k > 0) x.init = nothing; /* the offset of the whole row was in the first piece */
    return x;
}

LLMC_INLINE void tile(int is_small, int has_scale, int is_ternary, columns w, rows_panel x, float *c, int is_more, llmc_ahead next) {
    int64_t ahead = llmc_ahead_step(next, w.blocks * w.lines / (LLMC_BLOCK / 4));
    const char *end = next.at + next.bytes;
    const uint8_t *a = w.a, *b = w.b;
    const int8_t *q = x.q;
    vf total[LLMC_QR][2];
#pragma GCC unroll 6
    for (int i = 0; i < LLMC_QR; i++) total[i][0] = total[i][1] = vf_zero();
    for (int64_t block = 0; block < w.blocks; block++) {
        vi sum[LLMC_QR][2];
#pragma GCC unroll 6
        for (int i = 0; i < LLMC_QR; i++) sum[i][0] = sum[i][1] = vi_all(x.init[block * LLMC_QR + i]);
        const int64_t lines = is_ternary ? w.lines : LLMC_BLOCK / 4;
#pragma GCC unroll 4
        for (int64_t line = 0; line < lines; line++, a += w.step, b += w.step, q += 4 * LLMC_QR) {
            if (line % (LLMC_BLOCK / 4) == 0 && next.at < end) next.at = llmc_prefetch(next.at, ahead);
            vi first = vi_load(a), second = vi_load(b);
#pragma GCC unroll 6
            for (int i = 0; i < LLMC_QR; i++) {
                vi v = vi_all_bytes(q + 4 * i);
                sum[i][0] = is_small ? vi_dot_small(sum[i][0], first, v) : vi_dot(sum[i][0], first, v);
                sum[i][1] = is_small ? vi_dot_small(sum[i][1], second, v) : vi_dot(sum[i][1], second, v);
            }
        }
        const float *scale = has_scale ? w.scale + (block >> w.scale_shift) * LLMC_NR : 0;
#pragma GCC unroll 6
        for (int i = 0; i < LLMC_QR; i++) {
            vf s = vf_all(x.scale[block * LLMC_QR + i]);
            total[i][0] = vf_fma(vf_from_int(sum[i][0]), has_scale ? s * vf_load(scale) : s, total[i][0]);
            total[i][1] = vf_fma(vf_from_int(sum[i][1]), has_scale ? s * vf_load(scale + LLMC_LANES) : s, total[i][1]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < LLMC_QR; i++) {
        float *at = c + i * LLMC_NR;
        vf_store(at, is_more ? vf_load(at) + total[i][0] : total[i][0]);
        vf_store(at + LLMC_LANES, is_more ? vf_load(at + LLMC_LANES) + total[i][1] : total[i][1]);
    }
}

/* The group that holds column n of y (columns beyond N: some group), and the byte of a line where n begins. */
static const uint8_t *group_of(const llmc_matrix *m, int64_t n, int half) {
    int64_t g = n / LLMC_GROUP, last = (m->N - 1) / LLMC_GROUP;
    return (const uint8_t *)m->weight + llmc_packed_group(m, g < last ? g : last, half) * llmc_group_bytes(m->format, m->K);
}

/* Digits of one register's columns as bytes, to out + line * LINE; gives the scales beside them. */
static void widen_int4(int step, const uint8_t *at, int64_t from, int64_t K, uint8_t *out, float *scale) {
    for (int64_t k = 0; k < K; k += step, at += step * 8 + 32, scale += LLMC_NR) {
        for (int64_t i = 0; i < step / 8; i++, out += 2 * LINE) {
            vu w = (vu)vi_load(at + i * 64 + from * 4);
            vi_store(out, (vi)w & 0x0f0f0f0f);
            vi_store(out + LINE, (vi)(w >> 4) & 0x0f0f0f0f);
        }
        vf_store(scale, vf_load_fp16(at + step * 8 + from * 2));
    }
}

static void widen_ternary(const uint8_t *at, int64_t from, int64_t K, uint8_t *out) {
    for (int64_t k = 0; k < (K + LLMC_BLOCK - 1) / LLMC_BLOCK * LLMC_BLOCK; k += 16, at += 64) {
        vu w = (vu)vi_load(at + from * 4);
#pragma GCC unroll 4
        for (int f = 0; f < 4; f++, out += LINE) vi_store(out, (vi)(w >> (2 * f)) & 0x03030303);
    }
}

/* Columns n ... n + LLMC_NR of gate or up; scales of rows go to `row_scale` [LLMC_NR] (1 for int4). */
static columns take_columns(const llmc_matrix *m, int64_t n, int half, void *scratch, float *row_scale) {
    int64_t blocks = (m->K + LLMC_BLOCK - 1) / LLMC_BLOCK;
    uint8_t *bytes = scratch;
    float *scales = (float *)(void *)(bytes + llmc_padded(m->K) * LLMC_NR);
    columns w = {bytes, bytes + LLMC_LANES * 4, LINE, blocks, LLMC_BLOCK / 4, 0, 0};
    const uint8_t *start[2];
    for (int i = 0; i < 2; i++) {
        int64_t column = n + i * LLMC_LANES, from = column % LLMC_GROUP;
        const uint8_t *at = start[i] = group_of(m, column, half);
        if (m->format == LLMC_INT4_32) widen_int4(32, at, from, m->K, bytes + i * LLMC_LANES * 4, scales + i * LLMC_LANES);
        if (m->format == LLMC_INT4_128) widen_int4(128, at, from, m->K, bytes + i * LLMC_LANES * 4, scales + i * LLMC_LANES);
        if (m->format == LLMC_TERNARY) widen_ternary(at, from, m->K, bytes + i * LLMC_LANES * 4);
        vf s = vf_all(1.0f);
        if (m->format == LLMC_INT8 || m->format == LLMC_TERNARY)
            s = vf_load((const float *)(const void *)(at + llmc_group_bytes(m->format, m->K) - 64) + from);
        vf_store(row_scale + i * LLMC_LANES, s);
        if (m->format == LLMC_INT8) start[i] += from * 4;
    }
    if (m->format == LLMC_INT8) w.a = start[0], w.b = start[1], w.step = 64;
    if (m->format == LLMC_TERNARY) w.blocks = 1, w.lines = blocks * 8;
    if (m->format == LLMC_INT4_32 || m->format == LLMC_INT4_128) w.scale = scales;
    w.scale_shift = m->format == LLMC_INT4_128 ? 2 : 0;
    return w;
}

static void one_tile(int format, columns w, rows_panel x, float *c, int is_more, llmc_ahead next) {
    if (format == LLMC_INT8) tile(0, 0, 0, w, x, c, is_more, next);
    else if (format == LLMC_TERNARY) tile(1, 0, 1, w, x, c, is_more, next);
    else tile(1, 1, 0, w, x, c, is_more, next);
}

void llmc_packed_tiles(llmc_thread *t, const llmc_matrix *m, void *packed, int64_t first, int64_t panels, int64_t n, int half,
                       float *sums) {
    const int64_t size = LLMC_QR * LLMC_NR;
    float scale[LLMC_NR];
    char *wide = (char *)((float *)t->scratch + 2 * LLMC_TILE_PANELS * size);
    int64_t bytes = LLMC_NR * llmc_group_bytes(m->format, m->K) / LLMC_GROUP, halves = 1 + m->is_gated;
    const char *next = (const char *)m->weight + ((n / LLMC_NR + 1) * halves + half) * bytes; /* what the next chunk will read */
    int64_t pieces = (m->K + LLMC_PIECE - 1) / LLMC_PIECE, tiles = pieces * panels, number = 0;
    columns w = take_columns(m, n, half, wide, scale);
    for (int64_t k = 0; k < m->K; k += LLMC_PIECE) {
        columns piece = piece_of(w, m->format, k, m->K);
        for (int64_t p = 0; p < panels; p++, number++) {
            llmc_ahead part = {next + bytes * number / tiles, bytes / tiles + 1};
            rows_panel x = piece_of_rows(panel_at(packed, first + p, m->K), m->format, k);
            one_tile(m->format, piece, x, sums + p * size, k > 0, part);
        }
    }
    for (int64_t i = 0; i < panels * size; i += LLMC_LANES) vf_store(sums + i, vf_load(sums + i) * vf_load(scale + i % LLMC_NR));
}

/* One chunk: LLMC_NR columns of y, and so many panels of rows. */
static void block(llmc_thread *t, const llmc_matrix *m, void *packed, float *y, int64_t rows, int64_t n, int64_t first, int64_t panels) {
    float *sums = t->scratch, *up = sums + LLMC_TILE_PANELS * LLMC_QR * LLMC_NR;
    llmc_packed_tiles(t, m, packed, first, panels, n, 0, sums);
    if (m->is_gated) llmc_packed_tiles(t, m, packed, first, panels, n, 1, up);
    int64_t last = (first + panels) * LLMC_QR;
    llmc_store_tiles(m, sums, up, y, first * LLMC_QR, last < rows ? last : rows, n);
}

int64_t llmc_gemm_packed_scratch(int64_t K) {
    int64_t bytes = llmc_padded(K) * LLMC_NR, scales = llmc_blocks(K) * LLMC_NR * 4;
    return bytes + scales + 2 * LLMC_TILE_PANELS * LLMC_QR * LLMC_NR * 4;
}

void llmc_gemm_packed(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                      int is_prepared) {
    int64_t panels = (rows + LLMC_QR - 1) / LLMC_QR;
    if (!is_prepared) {
        LLMC_FOR(t, p, panels) pack_rows(t, m->format, x, rows, m->K, p, (char *)workspace + p * llmc_panel_bytes(m->K));
    }
    int64_t blocks = (panels + LLMC_TILE_PANELS - 1) / LLMC_TILE_PANELS, even = (panels + blocks - 1) / blocks;
    LLMC_FOR(t, chunk, (m->N + LLMC_NR - 1) / LLMC_NR * blocks) {
        int64_t first = chunk % blocks * even, count = panels - first < even ? panels - first : even;
        if (count > 0) block(t, m, workspace, y, rows, chunk / blocks * LLMC_NR, first, count);
    }
}
