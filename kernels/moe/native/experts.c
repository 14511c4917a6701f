/* The experts: tokens are listed expert by expert; then each expert's inner units in blocks, then blocks of outputs.
 *
 * Packed weights take rows rounded to int8: a token's once, whoever reads it; the inner units' once they are all there.
 * Few rows of an expert are multiplied as vectors; more lie in panels and are multiplied in tiles, of packed weights and
 * of plain ones.
 */
#include "experts.h"

#include <math.h>
#include <string.h>

#include "../../linear/native/gemm.h"
#include "../../linear/native/groups.h"
#include "../../linear/native/pack.h"
#include "../../native/columns.h"
#include "../../native/program.h"

#define BLOCK 32 /* inner units, or outputs, of a chunk: two blocks of weights stay in the cache for all tokens */
#define FEW LLMC_SMALL_BATCH
#define FEW_FLOATS 12 /* rows of floats, which need no widening, that are sooner multiplied as vectors than turned over */
#define MOST (LLMC_BLOCK_PANELS * LLMC_MR) /* rows taken at once */
_Static_assert(MOST == LLMC_TILE_PANELS * LLMC_QR && LLMC_MR % LLMC_QR == 0, "panels of both kinds fill the same room");

/* Some outputs of a matrix of one expert: `rows` of them from `inputs`. In_out: `step` elements from input to input;
 * packed: `half` 1 of a pair is up. */
typedef struct {
    const char *weight;
    int64_t rows, inputs, step;
    int format, is_in_out, is_pair, half;
} matrix;

/* Rows that are multiplied by a matrix: as they are, rounded, or, where `panels` is not NULL, in panels. */
typedef struct {
    int count;
    llmc_rows few;
    void *panels;
} inputs;

LLMC_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Outputs from `first` on of an expert's matrix that has `all` of them. */
static matrix expert_matrix(const llmc_experts *a, const void *stacked, int format, int64_t e, int64_t all, int64_t inputs,
                            int64_t first, int64_t rows) {
    if (llmc_is_packed(format)) {
        int is_pair = all > rows;
        const char *at = (const char *)stacked + e * llmc_pack_bytes(format, rows, inputs, is_pair);
        return (matrix){at, rows, inputs, 0, format, 0, is_pair, first > 0};
    }
    int64_t at = e * all * inputs + first * (a->is_in_out ? 1 : inputs);
    return (matrix){llmc_element(stacked, at, format), rows, inputs, all, format, a->is_in_out, 0, 0};
}

/* --- rows --------------------------------------------------------------------------------------------------------- */

LLMC_INLINE llmc_quantised rounded_row(void *rows, int64_t row, int64_t width) {
    return llmc_quantised_at((char *)rows + row * llmc_quantised_bytes(width), width);
}

LLMC_INLINE int has_panels(const llmc_experts *a, int format, int64_t e) {
    return a->starts[e + 1] - a->starts[e] > (format == LLMC_FP32 ? FEW_FLOATS : FEW);
}
LLMC_INLINE int panel_rows(int format) { return llmc_is_packed(format) ? LLMC_QR : LLMC_MR; }

static void *panel_of(const llmc_experts *a, int format, int64_t e, int64_t at, int64_t width) {
    int64_t size = llmc_is_packed(format) ? llmc_panel_bytes(width) : llmc_plain_panel_bytes(format, width);
    int64_t first = (int64_t)a->first_panel[e] * (LLMC_MR / panel_rows(format));
    return (char *)a->panels + (first + (at - a->starts[e]) / panel_rows(format)) * size;
}

/* Lays a rounded row into its expert's panel; the last one fills what is left of it with zeros. */
static void lay_rounded(const llmc_experts *a, int format, int64_t e, int64_t at, int64_t width, llmc_quantised row) {
    int r = (int)((at - a->starts[e]) % LLMC_QR);
    void *panel = panel_of(a, format, e, at, width);
    llmc_panel_row(format, panel, r, width, &row);
    for (r++; at + 1 == a->starts[e + 1] && r < LLMC_QR; r++) llmc_panel_row(format, panel, r, width, 0);
}

LLMC_INLINE const float *plain_row(const llmc_experts *a, int64_t slot, int is_hidden) {
    return is_hidden ? a->hidden + slot * a->inner : a->x + a->order[slot] / a->top_k * a->x_stride;
}

/* Lays slot `at`, of which a packed weight has the rounded row, into its expert's panel. Of a plain weight the first slot
 * of a panel lays all of it. */
static void lay(const llmc_experts *a, int format, int64_t at, int64_t width, int is_hidden, llmc_quantised rounded) {
    int64_t e = a->picks[a->order[at]];
    const float *rows[LLMC_MR];
    int count = 0;
    if (!has_panels(a, format, e)) return;
    if (llmc_is_packed(format)) {
        lay_rounded(a, format, e, at, width, rounded);
        return;
    }
    if ((at - a->starts[e]) % LLMC_MR) return;
    for (int64_t slot = at; count < LLMC_MR && slot < a->starts[e + 1]; slot++) rows[count++] = plain_row(a, slot, is_hidden);
    llmc_plain_panel(format, rows, count, width, panel_of(a, format, e, at, width));
}

/* `rows` slots of an expert from number `at` on: tokens, or with is_hidden their inner units. */
static inputs take(const llmc_experts *a, int64_t e, int64_t at, int rows, int is_hidden) {
    int format = is_hidden ? a->down_format : a->in_format;
    int64_t width = is_hidden ? a->inner : a->width;
    inputs found = {.count = rows};
    if (has_panels(a, format, e)) {
        found.panels = panel_of(a, format, e, at, width);
        return found;
    }
    int R = rows <= 2 ? rows : rows <= 4 ? 4 : 8;
    for (int r = 0; r < R; r++) {
        int64_t slot = at + (r < rows ? r : rows - 1);
        if (!llmc_is_packed(format)) found.few.plain[r] = plain_row(a, slot, is_hidden);
        else if (is_hidden) found.few.rounded[r] = rounded_row(a->hidden_rounded, slot, width);
        else found.few.rounded[r] = rounded_row(a->x_rounded, a->order[slot] / a->top_k, width);
    }
    return found;
}

/* --- sums --------------------------------------------------------------------------------------------------------- */

/* The rows of a plain matrix that are read after those from n on. */
static llmc_ahead rows_after(const llmc_matrix *m, int64_t n) {
    int64_t stride = m->K * llmc_size(m->format), left = m->N - n - LLMC_NR;
    const char *at = (const char *)m->weight + (n + LLMC_NR) * stride;
    return (llmc_ahead){at, m->step || left <= 0 ? 0 : smaller(left, LLMC_NR) * stride};
}

static void tile_sums(llmc_thread *t, const llmc_matrix *m, int half, int64_t first, int count, const inputs *x, float *out) {
    float *sums = t->scratch;
    int64_t panels = (x->count + panel_rows(m->format) - 1) / panel_rows(m->format);
    for (int i = 0; i < count; i += LLMC_NR) {
        if (llmc_is_packed(m->format)) llmc_packed_tiles(t, m, x->panels, 0, panels, first + i, half, sums);
        else llmc_plain_tiles(t, m, x->panels, 0, panels, first + i, half, rows_after(m, first + i), sums);
        size_t size = smaller(LLMC_NR, BLOCK - i) * sizeof(float);
        for (int r = 0; r < x->count; r++) memcpy(out + r * BLOCK + i, sums + r * LLMC_NR, size);
    }
}

/* out[r * BLOCK + i] = output first + i of row r of x, for i < count <= BLOCK; first is a multiple of 32. */
static void block_sums(llmc_thread *t, const matrix *m, int64_t first, int count, const inputs *x, float *out) {
    llmc_matrix rows = {.weight = m->weight, .N = m->rows, .K = m->inputs, .format = m->format, .is_gated = m->is_pair};
    if (x->panels) {
        rows.step = m->is_in_out ? m->step : 0;
        tile_sums(t, &rows, m->half, first, count, x, out);
        return;
    }
    if (m->is_in_out) {
        const char *at = llmc_element(m->weight, first, m->format);
        llmc_column_sums(m->format, at, m->step, m->inputs, count, x->few.plain, x->count, out, BLOCK);
        return;
    }
    int R = x->count <= 2 ? x->count : x->count <= 4 ? 4 : 8;
    for (int i = 0; i < count; i += LLMC_GROUP) {
        float sums[FEW * LLMC_GROUP] __attribute__((aligned(64)));
        int64_t group = (first + i) / LLMC_GROUP;
        if (llmc_is_packed(m->format)) llmc_packed_sums(&rows, group, m->half, x->few.rounded, R, sums);
        else llmc_plain_sums(&rows, group, 0, x->few.plain, R, sums);
        for (int r = 0; r < x->count; r++) memcpy(out + r * BLOCK + i, sums + r * LLMC_GROUP, LLMC_GROUP * sizeof(float));
    }
}

/* --- inner units -------------------------------------------------------------------------------------------------- */

static void add_bias(float *sums, const float *bias, int64_t step, int count, int rows) {
    for (int r = 0; bias && r < rows; r++)
        for (int i = 0; i < count; i++) sums[r * BLOCK + i] += bias[i * step];
}

static void weigh(float *sums, const float *by, int count, int rows) {
    for (int r = 0; by && r < rows; r++)
        for (int i = 0; i < count; i++) sums[r * BLOCK + i] *= by[r];
}

static const float *bias_of(const float *stacked, int64_t e, int64_t width, int64_t first) {
    return stacked ? stacked + e * width + first : 0;
}

/* A block of inner units of one expert: the first and how many, and for which rows, weighed by `by` if it is given. */
typedef struct {
    int64_t e, first;
    int count;
    inputs x;
    const float *by;
} task;

/* Gate or up where each is a matrix of its own, or half of one: output `offset` on of `all`. */
static void one_half(llmc_thread *t, const llmc_experts *a, const void *stacked, const float *bias, int64_t all, int64_t offset,
                     const task *one, float *out) {
    matrix m = expert_matrix(a, stacked, a->in_format, one->e, all, a->width, offset, a->inner);
    block_sums(t, &m, one->first, one->count, &one->x, out);
    weigh(out, one->by, one->count, one->x.count);
    add_bias(out, bias_of(bias, one->e, all, offset + one->first), 1, one->count, one->x.count);
}

/* Gate and up in turn. */
static void in_turn(llmc_thread *t, const llmc_experts *a, const task *one, float *gate, float *up) {
    int64_t n = 2 * a->inner, first = 2 * one->first;
    int rows = one->x.count;
    matrix m = expert_matrix(a, a->gate_up, a->in_format, one->e, n, a->width, 0, n);
    float both[MOST * BLOCK];
    for (int part = 0; part < 2 * one->count; part += BLOCK) {
        int count = (int)smaller(BLOCK, 2 * one->count - part);
        block_sums(t, &m, first + part, count, &one->x, both);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < count / 2; i++) {
                gate[r * BLOCK + part / 2 + i] = both[r * BLOCK + 2 * i];
                up[r * BLOCK + part / 2 + i] = both[r * BLOCK + 2 * i + 1];
            }
    }
    weigh(gate, one->by, one->count, rows);
    weigh(up, one->by, one->count, rows);
    const float *bias = bias_of(a->gate_up_bias, one->e, n, first);
    add_bias(gate, bias, 2, one->count, rows);
    add_bias(up, bias ? bias + 1 : 0, 2, one->count, rows);
}

/* Gate (where there is one) and up, with their biases. */
static void gate_and_up(llmc_thread *t, const llmc_experts *a, const task *one, float *gate, float *up) {
    int64_t n = a->inner;
    switch (a->packing) {
    case LLMC_PACKING_SEPARATE:
        if (a->gate) one_half(t, a, a->gate, a->gate_bias, n, 0, one, gate);
        one_half(t, a, a->up, a->up_bias, n, 0, one, up);
        return;
    case LLMC_PACKING_HALVES:
        one_half(t, a, a->gate_up, a->gate_up_bias, 2 * n, 0, one, gate);
        one_half(t, a, a->gate_up, a->gate_up_bias, 2 * n, n, one, up);
        return;
    default: in_turn(t, a, one, gate, up);
    }
}

/* One row of a block: hidden = activation(gate) * (up + offset), or activation(up). Gate and up have BLOCK floats. */
static void activate(const llmc_experts *a, float *hidden, float *gate, float *up, int count) {
    int is_gated = a->gate || a->gate_up;
    vf most = vf_all(a->limit), least = vf_all(-a->limit);
    for (int i = 0; i < count; i += LLMC_LANES) { /* NaN stays */
        vf_store(up + i, vf_max(least, vf_min(most, vf_load(up + i))));
        if (is_gated) vf_store(gate + i, vf_min(most, vf_load(gate + i)));
    }
    a->activate(hidden, is_gated ? gate : up, count);
    for (int i = 0; is_gated && i < count; i += LLMC_LANES) {
        int left = (int)smaller(LLMC_LANES, count - i);
        vf_store_part(hidden + i, vf_load_part(hidden + i, left) * (vf_load(up + i) + vf_all(a->up_offset)), left);
    }
}

static void inner_units(llmc_thread *t, const llmc_experts *a, int64_t e, int64_t first, int count) {
    float gate[MOST * BLOCK], up[MOST * BLOCK], by[MOST];
    int most = has_panels(a, a->in_format, e) ? MOST : FEW;
    for (int64_t at = a->starts[e]; at < a->starts[e + 1]; at += most) {
        int rows = (int)smaller(most, a->starts[e + 1] - at);
        task one = {e, first, count, take(a, e, at, rows, 0), a->weighs_input ? by : 0};
        for (int r = 0; r < rows; r++) by[r] = a->weights[a->order[at + r]];
        gate_and_up(t, a, &one, gate, up);
        for (int r = 0; r < rows; r++)
            activate(a, a->hidden + (at + r) * a->inner + first, gate + r * BLOCK, up + r * BLOCK, count);
    }
}

/* --- outputs ------------------------------------------------------------------------------------------------------ */

/* Columns `first` on of all tokens, in order of experts. */
static void outputs(llmc_thread *t, const llmc_experts *a, int64_t first, int count) {
    float sums[MOST * BLOCK];
    for (int64_t row = 0; row < a->rows; row++) memset(a->out + row * a->width + first, 0, count * sizeof(float));
    for (const int32_t *used = a->starts + a->num_experts + 1; used < a->starts + 2 * a->num_experts + 1 && *used >= 0; used++) {
        int64_t e = *used;
        int most = has_panels(a, a->down_format, e) ? MOST : FEW;
        matrix m = expert_matrix(a, a->down, a->down_format, e, a->width, a->inner, 0, a->width);
        for (int64_t at = a->starts[e]; at < a->starts[e + 1]; at += most) {
            inputs x = take(a, e, at, (int)smaller(most, a->starts[e + 1] - at), 1);
            block_sums(t, &m, first, count, &x, sums);
            add_bias(sums, bias_of(a->down_bias, e, a->width, first), 1, count, x.count);
            for (int r = 0; r < x.count; r++) {
                int64_t slot = a->order[at + r];
                float *y = a->out + slot / a->top_k * a->width + first;
                vf weight = vf_all(a->weighs_input ? 1 : a->weights[slot]);
                for (int i = 0; i < count; i += LLMC_LANES) {
                    int left = (int)smaller(LLMC_LANES, count - i);
                    vf_store_part(y + i, vf_fma(weight, vf_load(sums + r * BLOCK + i), vf_load_part(y + i, left)), left);
                }
            }
        }
    }
}

/* Slots expert by expert, those of one expert in order: a counting sort. */
static void list_slots(const llmc_experts *a) {
    int64_t slots = a->rows * a->top_k, n = a->num_experts;
    int32_t *starts = a->starts, *used = starts + n + 1, panels = 0;
    memset(starts, 0, (n + 1) * sizeof *starts);
    for (int64_t s = 0; s < slots; s++) starts[a->picks[s] + 1]++;
    for (int64_t e = 0; e < n; e++) {
        if (!starts[e + 1]) continue;
        *used++ = (int32_t)e;
        a->first_panel[e] = panels;
        if (starts[e + 1] > FEW) panels += (starts[e + 1] + LLMC_MR - 1) / LLMC_MR;
    }
    if (used < starts + 2 * n + 1) *used = -1;
    for (int64_t e = 0; e < n; e++) starts[e + 1] += starts[e];
    for (int64_t s = 0; s < slots; s++) a->order[starts[a->picks[s]]++] = (int32_t)s;
    for (int64_t e = n; e > 0; e--) starts[e] = starts[e - 1];
    starts[0] = 0;
}

/* Lists the slots, and rounds the tokens where that is wanted: with it each token is a chunk. */
static void begin(llmc_thread *t, const llmc_experts *a) {
    int is_packed = llmc_is_packed(a->in_format);
    LLMC_FOR(t, chunk, 1 + (is_packed ? a->rows : 0)) {
        int64_t row = chunk - 1;
        if (row < 0) list_slots(a);
        else llmc_quantise_row(a->in_format, a->x + row * a->x_stride, a->width, rounded_row(a->x_rounded, row, a->width));
    }
    if (a->rows * a->top_k <= FEW) return;
    LLMC_ROWS(t, at, a->rows * a->top_k) {
        llmc_quantised row = {0};
        if (is_packed) row = rounded_row(a->x_rounded, a->order[at] / a->top_k, a->width);
        lay(a, a->in_format, at, a->width, 0, row);
    }
}

/* What the inner units of each slot are multiplied as, now that they are all there: rounded, and in panels. */
static void lay_hidden(llmc_thread *t, const llmc_experts *a) {
    int is_packed = llmc_is_packed(a->down_format);
    if (!is_packed && a->rows * a->top_k <= FEW) return;
    LLMC_ROWS(t, at, a->rows * a->top_k) {
        llmc_quantised row = {0};
        if (is_packed) {
            row = rounded_row(a->hidden_rounded, at, a->inner);
            llmc_quantise_row(a->down_format, a->hidden + at * a->inner, a->inner, row);
        }
        lay(a, a->down_format, at, a->inner, 1, row);
    }
}

void llmc_run_experts(llmc_thread *t, const llmc_experts *a) {
    int64_t blocks = (a->inner + BLOCK - 1) / BLOCK, most = smaller(a->num_experts, a->rows * a->top_k);
    begin(t, a);
    LLMC_FOR(t, chunk, most * blocks) { /* how many experts are in use only those know who hold a chunk */
        const int32_t *used = a->starts + a->num_experts + 1;
        int64_t n = 0, first = chunk % blocks * BLOCK;
        while (n < chunk / blocks && used[n] >= 0) n++;
        if (used[n] >= 0) inner_units(t, a, used[n], first, (int)smaller(BLOCK, a->inner - first));
    }
    lay_hidden(t, a);
    LLMC_FOR(t, chunk, (a->width + BLOCK - 1) / BLOCK)
        outputs(t, a, chunk * BLOCK, (int)smaller(BLOCK, a->width - chunk * BLOCK));
}
