/* Larger batches: x packed once, panels of the weight turned over or widened as they are used. */
#ifndef LLMC_GEMM_H
#define LLMC_GEMM_H

#include "vector_math.h"
#include "linear.h"
#include "quantise.h"
#include "tile.h"

#define LLMC_BLOCK_PANELS 16   /* panels of LLMC_MR rows whose sums are kept at once */
#define LLMC_BLOCK_DEPTH 2048  /* dwords of k in one panel of the weight, which stays in the second cache */

void llmc_gemm_plain(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                     int is_prepared);

/* Rows of x in panels of LLMC_MR, as plain weights of a format are multiplied with them: [depth][LLMC_MR] dwords of a
 * float, or of two bf16 along K. */
int64_t llmc_plain_panel_bytes(int format, int64_t K);
/* `count` rows, at most LLMC_MR, with zeros behind them. */
void llmc_plain_panel(int format, const float *const *rows, int count, int64_t K, void *panel);

/* sums [row][LLMC_NR] of panels `first` ... (at most LLMC_BLOCK_PANELS) of `packed` by columns n ... of y; half 1: of
 * the up half of a pair. `next` is what will be read after it. The thread's scratch behind the sums of both halves is
 * used. */
void llmc_plain_tiles(llmc_thread *t, const llmc_matrix *m, const void *packed, int64_t first, int64_t panels, int64_t n, int half,
                      llmc_ahead next, float *sums);

void llmc_gemm_packed(llmc_thread *t, const llmc_matrix *m, const float *x, float *y, int64_t rows, void *workspace,
                      int is_prepared);
int64_t llmc_gemm_packed_scratch(int64_t K);

/* Rounded rows of x in panels of LLMC_QR, and what tiles make of them. A panel takes llmc_panel_bytes(K). */
#if defined(LLMC_AVX512)
#define LLMC_QR 6
#else
#define LLMC_QR 3
#endif
#define LLMC_TILE_PANELS (2 * LLMC_BLOCK_PANELS) /* panels of rows whose sums are kept at once */

int64_t llmc_panel_bytes(int64_t K);
/* Row r of a panel; zeros where `row` is NULL. */
void llmc_panel_row(int format, void *panel, int r, int64_t K, const llmc_quantised *row);

/* sums [row][LLMC_NR] of panels `first` ... (at most LLMC_TILE_PANELS) of `packed` by columns n ... of y, a multiple of
 * LLMC_NR; half 1: of the up half of a pair. The thread's scratch behind the sums of both halves is used. */
void llmc_packed_tiles(llmc_thread *t, const llmc_matrix *m, void *packed, int64_t first, int64_t panels, int64_t n, int half,
                       float *sums);

/* y from sums [row][LLMC_NR] of gate and up, for rows first_row ... and columns n ... */
void llmc_store_tiles(const llmc_matrix *m, const float *gate, const float *up, float *y, int64_t first_row, int64_t rows,
                      int64_t n);

#endif
