/* The experts: tokens are listed expert by expert; then each expert's inner units in blocks, then blocks of outputs. */
#include "experts.h"

#include <math.h>
#include <string.h>

#include "../../linear/native/groups.h"
#include "../../native/columns.h"

#define BLOCK 32 /* inner units, or outputs, of a chunk: two blocks of weights stay in the cache for all tokens */
#define MOST LLMC_SMALL_BATCH

/* Some outputs of a matrix of one expert: `rows` of them from `inputs`. In_out: `step` elements from input to input. */
typedef struct {
    const char *weight;
    int64_t rows, inputs, step;
    int format, is_in_out;
} matrix;

LLMC_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Outputs from `first` on of an expert's matrix that has `all` of them. */
static matrix expert_matrix(const llmc_experts *a, const void *stacked, int64_t e, int64_t all, int64_t inputs, int64_t first,
                            int64_t rows) {
    int64_t at = e * all * inputs + first * (a->is_in_out ? 1 : inputs);
    return (matrix){llmc_element(stacked, at, a->format), rows, inputs, all, a->format, a->is_in_out};
}

/* --- sums --------------------------------------------------------------------------------------------------------- */

/* out[r * BLOCK + i] = output first + i of row r of x, for i < count <= BLOCK and r < rows <= MOST; first is a multiple
 * of 16. */
static void block_sums(const matrix *m, int64_t first, int count, const float *const *x, int rows, float *out) {
    const float *in[MOST];
    if (m->is_in_out) {
        const char *at = llmc_element(m->weight, first, m->format);
        llmc_column_sums(m->format, at, m->step, m->inputs, count, x, rows, out, BLOCK);
        return;
    }
    int R = rows <= 2 ? rows : rows <= 4 ? 4 : 8;
    for (int r = 0; r < R; r++) in[r] = x[r < rows ? r : rows - 1];
    llmc_matrix plain = {.weight = m->weight, .N = m->rows, .K = m->inputs, .format = m->format};
    for (int i = 0; i < count; i += LLMC_GROUP) {
        float sums[MOST * LLMC_GROUP];
        llmc_plain_sums(&plain, (first + i) / LLMC_GROUP, 0, in, R, sums);
        for (int r = 0; r < rows; r++) memcpy(out + r * BLOCK + i, sums + r * LLMC_GROUP, smaller(LLMC_GROUP, count - i) * 4);
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

/* Gate or up where each is a matrix of its own, or half of one: output `offset` on of `all`. */
static void one_half(const llmc_experts *a, const void *stacked, const float *bias, int64_t all, int64_t offset, int64_t e,
                     int64_t first, int count, const float *const *x, int rows, const float *by, float *out) {
    matrix m = expert_matrix(a, stacked, e, all, a->width, offset, a->inner);
    block_sums(&m, first, count, x, rows, out);
    weigh(out, by, count, rows);
    add_bias(out, bias_of(bias, e, all, offset + first), 1, count, rows);
}

/* Gate and up in turn. */
static void in_turn(const llmc_experts *a, int64_t e, int64_t first, int count, const float *const *x, int rows,
                    const float *by, float *gate, float *up) {
    matrix m = expert_matrix(a, a->gate_up, e, 2 * a->inner, a->width, 0, 2 * a->inner);
    float both[2][MOST * BLOCK];
    for (int i = 0; i < 2 * count; i += BLOCK)
        block_sums(&m, 2 * first + i, (int)smaller(BLOCK, 2 * count - i), x, rows, both[i / BLOCK]);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++) {
            const float *pair = both[2 * i / BLOCK] + r * BLOCK + 2 * i % BLOCK;
            gate[r * BLOCK + i] = pair[0], up[r * BLOCK + i] = pair[1];
        }
    weigh(gate, by, count, rows);
    weigh(up, by, count, rows);
    const float *bias = bias_of(a->gate_up_bias, e, 2 * a->inner, 2 * first);
    add_bias(gate, bias, 2, count, rows);
    add_bias(up, bias ? bias + 1 : 0, 2, count, rows);
}

/* Gate (where there is one) and up of units `first` on, with their biases; x is weighed by `by` where it is given. */
static void gate_and_up(const llmc_experts *a, int64_t e, int64_t first, int count, const float *const *x, int rows,
                        const float *by, float *gate, float *up) {
    int64_t n = a->inner;
    switch (a->packing) {
    case LLMC_PACKING_SEPARATE:
        if (a->gate) one_half(a, a->gate, a->gate_bias, n, 0, e, first, count, x, rows, by, gate);
        one_half(a, a->up, a->up_bias, n, 0, e, first, count, x, rows, by, up);
        return;
    case LLMC_PACKING_HALVES:
        one_half(a, a->gate_up, a->gate_up_bias, 2 * n, 0, e, first, count, x, rows, by, gate);
        one_half(a, a->gate_up, a->gate_up_bias, 2 * n, n, e, first, count, x, rows, by, up);
        return;
    default: in_turn(a, e, first, count, x, rows, by, gate, up);
    }
}

/* One row of a block: hidden = activation(gate) * (up + offset), or activation(up). */
static void activate(const llmc_experts *a, float *hidden, float *gate, float *up, int count) {
    int is_gated = a->gate || a->gate_up;
    for (int i = 0; i < count; i++) {
        up[i] = up[i] > a->limit ? a->limit : up[i] < -a->limit ? -a->limit : up[i];
        if (is_gated && gate[i] > a->limit) gate[i] = a->limit;
    }
    a->activate(hidden, is_gated ? gate : up, count);
    for (int i = 0; is_gated && i < count; i++) hidden[i] *= up[i] + a->up_offset;
}

static void inner_units(const llmc_experts *a, int64_t e, int64_t first, int count) {
    float gate[MOST * BLOCK], up[MOST * BLOCK], by[MOST];
    for (int64_t at = a->starts[e]; at < a->starts[e + 1]; at += MOST) {
        int rows = (int)smaller(MOST, a->starts[e + 1] - at);
        const float *x[MOST];
        for (int r = 0; r < rows; r++) {
            x[r] = a->x + a->order[at + r] / a->top_k * a->x_stride;
            by[r] = a->weights[a->order[at + r]];
        }
        gate_and_up(a, e, first, count, x, rows, a->weighs_input ? by : 0, gate, up);
        for (int r = 0; r < rows; r++)
            activate(a, a->hidden + (at + r) * a->inner + first, gate + r * BLOCK, up + r * BLOCK, count);
    }
}

/* --- outputs ------------------------------------------------------------------------------------------------------ */

/* Columns `first` on of all tokens, in order of experts. */
static void outputs(const llmc_experts *a, int64_t first, int count) {
    for (int64_t row = 0; row < a->rows; row++) memset(a->out + row * a->width + first, 0, count * sizeof(float));
    for (const int32_t *used = a->starts + a->num_experts + 1; used < a->starts + 2 * a->num_experts + 1 && *used >= 0; used++) {
        int64_t e = *used;
        matrix m = expert_matrix(a, a->down, e, a->width, a->inner, 0, a->width);
        for (int64_t at = a->starts[e]; at < a->starts[e + 1]; at += MOST) {
            int rows = (int)smaller(MOST, a->starts[e + 1] - at);
            const float *x[MOST];
            float sums[MOST * BLOCK];
            for (int r = 0; r < rows; r++) x[r] = a->hidden + (at + r) * a->inner;
            block_sums(&m, first, count, x, rows, sums);
            add_bias(sums, bias_of(a->down_bias, e, a->width, first), 1, count, rows);
            for (int r = 0; r < rows; r++) {
                int64_t slot = a->order[at + r];
                float weight = a->weighs_input ? 1 : a->weights[slot], *y = a->out + slot / a->top_k * a->width + first;
                for (int i = 0; i < count; i++) y[i] += weight * sums[r * BLOCK + i];
            }
        }
    }
}

/* Slots expert by expert, those of one expert in order: a counting sort. */
static void list_slots(const llmc_experts *a) {
    int64_t slots = a->rows * a->top_k, n = a->num_experts;
    int32_t *starts = a->starts, *used = starts + n + 1;
    memset(starts, 0, (n + 1) * sizeof *starts);
    for (int64_t s = 0; s < slots; s++) starts[a->picks[s] + 1]++;
    for (int64_t e = 0; e < n; e++)
        if (starts[e + 1]) *used++ = (int32_t)e;
    if (used < starts + 2 * n + 1) *used = -1;
    for (int64_t e = 0; e < n; e++) starts[e + 1] += starts[e];
    for (int64_t s = 0; s < slots; s++) a->order[starts[a->picks[s]]++] = (int32_t)s;
    for (int64_t e = n; e > 0; e--) starts[e] = starts[e - 1];
    starts[0] = 0;
}

void llmc_run_experts(llmc_thread *t, const llmc_experts *a) {
    int64_t blocks = (a->inner + BLOCK - 1) / BLOCK, most = smaller(a->num_experts, a->rows * a->top_k);
    LLMC_FOR(t, once, 1) list_slots(a);
    LLMC_FOR(t, chunk, most * blocks) { /* how many experts are in use only those know who hold a chunk */
        const int32_t *used = a->starts + a->num_experts + 1;
        int64_t n = 0, first = chunk % blocks * BLOCK;
        while (n < chunk / blocks && used[n] >= 0) n++;
        if (used[n] >= 0) inner_units(a, used[n], first, (int)smaller(BLOCK, a->inner - first));
    }
    LLMC_FOR(t, chunk, (a->width + BLOCK - 1) / BLOCK)
        outputs(a, chunk * BLOCK, (int)smaller(BLOCK, a->width - chunk * BLOCK));
}
