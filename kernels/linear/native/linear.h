/* Linear layers on a CPU: y = activation(x W^T + bias), or y = activation(gate) * up, for every weight format.
 *
 * Every thread of a team calls these functions with the same arguments (team.h). x and y are float32, row-major, and
 * do not overlap. One row of x is a matrix-vector product that runs at the read bandwidth of the memory; up to
 * LLMC_SMALL_BATCH rows read each weight once; more rows are packed once and multiplied in tiles.
 *
 * Formats. LLMC_FP32, LLMC_BF16 and LLMC_FP16 are plain row-major [N, K] without padding, at any address: a tensor of
 * a checkpoint as it is. LLMC_INT8, LLMC_INT4_32, LLMC_INT4_128 and LLMC_TERNARY are packed (pack.h). With a gate, a
 * plain weight is [2N, K], the N gate rows first, and bias [2N] likewise; a packed one is packed with is_gated.
 *
 * How x is rounded. Plain formats: not at all up to LLMC_SMALL_BATCH rows; in larger batches to bf16 for LLMC_BF16
 * on processors whose bf16 dot product is the faster one. Packed formats: to int8, see pack.h. Sums are float32, of
 * bytes exact int32.
 */
#ifndef LLMC_LINEAR_H
#define LLMC_LINEAR_H

#include <stddef.h>
#include <stdint.h>

#include "activations.h"
#include "numbers.h"
#include "team.h"

#define LLMC_SMALL_BATCH 8
#define LLMC_MAX_BEST 1024

enum {
    LLMC_FP32 = LLMC_FLOAT32, LLMC_BF16 = LLMC_BFLOAT16, LLMC_FP16 = LLMC_FLOAT16,
    LLMC_INT8, LLMC_INT4_32, LLMC_INT4_128, LLMC_TERNARY,
};

typedef struct {
    const void *weight;
    const float *bias; /* [N], with a gate [2N], or NULL */
    int64_t N, K;      /* outputs and inputs; with a gate N is the width of y */
    int format;
    int activation;    /* of y, or of the gate */
    int is_gated;      /* y = activation(gate) * up */
    const void *const *parts; /* a plain weight whose rows lie in several places, `weight` the first; or NULL */
    const int64_t *ends;      /* of each part: the number of the row after its last */
    int64_t step; /* 0; for tiles of a plain weight that lies input by input: elements from one input to the next */
} llmc_matrix;

/* y [rows, N] from x [rows, K]. `workspace` is shared by the team: llmc_linear_workspace bytes, 64-byte aligned.
 * `is_prepared`: the workspace holds this very x, left there by the call before, for a matrix of the same format, K
 * and rows (q, k and v of one input: 0, 1, 1). Nothing happens where rows or N is 0. */
void llmc_linear(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                 int is_prepared);

/* Bytes of shared workspace, and of scratch of each thread, that are enough for any format and at most so many rows
 * and inputs. */
size_t llmc_linear_workspace(int64_t rows, int64_t K);
size_t llmc_linear_scratch(int64_t K);

/* The largest output of a head, as numbers: y is written too where it is not NULL. x [K], one row; is_gated is 0.
 * `best` has LLMC_MAX_BEST entries and is shared; when the region is over llmc_best_of gives the answer. */
typedef struct {
    float value;
    int32_t index;
} llmc_best;
void llmc_linear_argmax(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, llmc_best *best);

/* The first of the largest, NaN being larger than all (as torch.argmax). `threads`: of the team that wrote `best`. */
llmc_best llmc_best_of(const llmc_matrix *m, const llmc_best *best, int threads);

#endif
