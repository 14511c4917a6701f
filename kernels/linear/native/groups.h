/* What a weight format gives to the matrix-vector product: the sums of one group of 16 rows.
 *
 * A format's function writes out[r * 16 + i] = sum over k of W[row i of the group, k] x[r, k], for r < R; R is 1, 2, 4
 * or 8. It may write anything for rows beyond the matrix.
 */
#ifndef LLMC_GROUPS_H
#define LLMC_GROUPS_H

#include "vector_math.h"
#include "linear.h"
#include "quantise.h"

#define LLMC_GROUP 16
#define LLMC_PARTS (LLMC_GROUP / LLMC_LANES) /* vectors in the outputs of a group */

/* The first of a plain matrix's rows in group g, and how many rows there are; `half` 1 is the up half of a pair. */
LLMC_INLINE int64_t llmc_first_row(const llmc_matrix *m, int64_t g, int half) { return half * m->N + g * LLMC_GROUP; }
LLMC_INLINE int llmc_rows_left(const llmc_matrix *m, int64_t g) {
    int64_t left = m->N - g * LLMC_GROUP;
    return left < LLMC_GROUP ? (int)left : LLMC_GROUP;
}
/* Row `row` of a plain matrix, whose rows take `stride` bytes. */
LLMC_INLINE const char *llmc_row(const llmc_matrix *m, int64_t row, int64_t stride) {
    if (!m->parts) return (const char *)m->weight + row * stride;
    int64_t part = 0, first = 0;
    for (; row >= m->ends[part]; part++) first = m->ends[part];
    return (const char *)m->parts[part] + (row - first) * stride;
}
/* The number of a packed matrix's group: pairs alternate. */
LLMC_INLINE int64_t llmc_packed_group(const llmc_matrix *m, int64_t g, int half) { return m->is_gated ? 2 * g + half : g; }

/* The rows of x as a format wants them: as they are, or rounded. */
typedef struct {
    const float *plain[LLMC_SMALL_BATCH];
    llmc_quantised rounded[LLMC_SMALL_BATCH];
} llmc_rows;

void llmc_plain_sums(const llmc_matrix *m, int64_t g, int half, const float *const *x, int R, float *out);
void llmc_packed_sums(const llmc_matrix *m, int64_t g, int half, const llmc_quantised *x, int R, float *out);

#endif
