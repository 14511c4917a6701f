/* Larger batches: x packed once, panels of the weight turned over or widened as they are used. */
#ifndef LLMC_GEMM_H
#define LLMC_GEMM_H

#include "vector_math.h"
#include "linear.h"
#include "tile.h"

#define LLMC_BLOCK_PANELS 16   /* panels of LLMC_MR rows whose sums are kept at once */
#define LLMC_BLOCK_DEPTH 2048  /* dwords of k in one panel of the weight, which stays in the second cache */

void llmc_gemm_plain(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                     int is_prepared);

void llmc_gemm_packed(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                      int is_prepared);
int64_t llmc_gemm_packed_scratch(int64_t K);

/* y from sums [row][LLMC_NR] of gate and up, for rows first_row ... and columns n ... */
void llmc_store_tiles(const llmc_matrix *m, const float *gate, const float *up, float *y, int64_t first_row, int64_t rows,
                      int64_t n);

#endif
