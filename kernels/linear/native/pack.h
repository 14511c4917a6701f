/* Packed weights: 16 rows interleaved, so that a lane is a row, sums need no horizontal adds, and a thread reads one
 * stream. Sizes are padded to whole groups of rows and blocks of columns; padding multiplies to 0.
 *
 *   LLMC_INT8      per line of 64 bytes 16 rows x 4 columns, w + 128; then 16 float scales of the rows.
 *   LLMC_INT4_32   per block of 32 columns 4 lines of nibbles w + 8, then 16 fp16 scales: byte j of row r in line i
 *                  holds columns 8 i + j (low) and 8 i + 4 + j (high).
 *   LLMC_INT4_128  per block of 128 columns 16 such lines, then 16 fp16 scales.
 *   LLMC_TERNARY   per line 16 rows x 16 columns: bits 2 f of byte j are column 4 f + j, w + 1; then 16 float scales.
 *
 * Activations are rounded to int8: for int8 and int4 with a scale for each 32 columns of a row (as llama.cpp's Q8_0),
 * for ternary with one for each row, 127 / max(|x|, 1e-5), as models that were trained ternary define it.
 */
#ifndef LLMC_PACK_H
#define LLMC_PACK_H

#include "linear.h"

/* Bytes of a packed [N, K] matrix; with is_gated of the pair [2N, K]. */
int64_t llmc_pack_bytes(int format, int64_t N, int64_t K, int is_gated);

/* Packs rows of `source` (LLMC_FP32, LLMC_BF16 or LLMC_FP16, [N, K] or the pair [2N, K], at any address) into `out`,
 * 64-byte aligned. Groups first_group <= g < end_group of llmc_pack_groups are written, so that threads share the
 * work. Scales are those of the largest magnitude in the row or block (int8: / 127; int4: the largest becomes -8 or
 * 7, whichever has the smaller error); ternary: `scale` where it is > 0, for weights that already are -scale, 0 or
 * scale, and else the mean magnitude of the matrix, which the caller passes (llmc_mean_magnitude). */
int64_t llmc_pack_groups(int64_t N, int is_gated);
void llmc_pack(int format, const void *source, int source_format, int64_t N, int64_t K, int is_gated, float scale,
               int64_t first_group, int64_t end_group, void *out);

/* mean(|w|) over count numbers, at least 1e-5: the scale of ternary weights (Ma et al. 2024, eq. 3). */
float llmc_mean_magnitude(const void *source, int source_format, int64_t count);

/* Already whole numbers: q [N, K] int8 (or the pair) with a scale for each row, or one where row_scales is 0. Int8 and
 * ternary only. */
void llmc_pack_whole(int format, const int8_t *q, const float *scale, int row_scales, int64_t N, int64_t K, int is_gated,
                     int64_t first_group, int64_t end_group, void *out);

/* Reads a packed matrix back: out [N, K] (the pair: [2N, K]) float32, what the kernels multiply with. */
void llmc_unpack(int format, const void *packed, int64_t N, int64_t K, int is_gated, float *out);

/* Bytes of one group of 16 rows. */
int64_t llmc_group_bytes(int format, int64_t K);

#endif
