/* Experts: each token through its picked MLPs. Weights of experts that nobody picked are not read. */
#ifndef LLMC_EXPERTS_H
#define LLMC_EXPERTS_H

#include "../../linear/native/linear.h"
#include "../../native/team.h"

enum { LLMC_PACKING_SEPARATE, LLMC_PACKING_HALVES, LLMC_PACKING_INTERLEAVED };

typedef struct {
    const float *x, *weights; /* [rows, width] and [rows, top_k], with their floats a row */
    const int64_t *picks;     /* [rows, top_k] */
    float *out;               /* [rows, width] */
    int64_t x_stride, rows, top_k, num_experts, width, inner;
    /* out_in: gate and up [experts, inner, width], or gate_up [experts, 2 * inner, width]; down [experts, width, inner].
     * in_out: the last two axes the other way round. gate is NULL where nothing gates. Packed ones (pack.h) are a matrix
     * an expert, out_in, one behind the other; gate_up of LLMC_PACKING_HALVES is a pair. */
    const void *gate, *up, *gate_up, *down;
    const float *gate_bias, *up_bias, *gate_up_bias, *down_bias; /* [experts, ...] or NULL */
    int in_format, down_format; /* of gate, up and gate_up; of down */
    int is_in_out, packing, weighs_input;
    void (*activate)(float *y, const float *x, int64_t n);
    float limit, up_offset; /* limit: infinite where there is none */
    float *hidden;          /* [rows * top_k, inner] */
    int32_t *order;         /* [rows * top_k]: slots row * top_k + pick, expert by expert */
    int32_t *starts;        /* [2 * num_experts + 1]: where each expert's slots start; then the experts in use, -1 ends */
    /* Where weights are packed, rows of llmc_quantised_bytes: x [rows] and hidden [rows * top_k] rounded. */
    void *x_rounded, *hidden_rounded;
    /* Room for panels of either of them, as `width` or `inner` floats a row where weights are plain, 2 top_k rows a row:
     * an expert with more than LLMC_SMALL_BATCH slots has panels, 13 slots take 24 rows, and no number takes more by far.
     * first_panel [num_experts]: of the experts that have any, in panels of plain weights. */
    void *panels;
    int32_t *first_panel;
} llmc_experts;

void llmc_run_experts(llmc_thread *t, const llmc_experts *a);

#endif
