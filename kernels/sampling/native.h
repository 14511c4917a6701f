/* The next token of a row: penalties, temperature, top-k, top-p, min-p, one uniform number, no sorting.
 *
 * Picks what `reference.py` picks, number for number: probabilities are whole numbers there and here.
 */
#ifndef LLMC_SAMPLING_H
#define LLMC_SAMPLING_H

#include <stdint.h>

#define LLMC_SAMPLING_FLOATS 7 /* of workspace, for each token of the vocabulary */

typedef struct {
    float temperature; /* 0: the likeliest token */
    float top_p, min_p;                                              /* 1, 0: off */
    float repetition_penalty, presence_penalty, frequency_penalty;   /* 1, 0, 0: off */
    int64_t top_k;                                                   /* 0: off */
    const int64_t *seeds; /* [batch] */
    int64_t *steps;       /* [batch] tokens that a row has drawn; counted on */
    int64_t *seen;        /* [batch, room] the tokens that the penalties know, each once; NULL: no penalties */
    int64_t *generated;   /* [batch, room] how often each was generated; counted on */
    int64_t *seen_count;  /* [batch]; counted on, up to room */
    int64_t room;
    void *workspace;      /* [vocab * LLMC_SAMPLING_FLOATS] floats */
} llmc_sampling;

/* The first of the largest logits, or -1 where one is NaN or +inf, or all are -inf. */
int64_t llmc_likeliest(const float *logits, int64_t vocab);

/* The next token of row `row`, or -1 as above. The penalties change the logits. */
int64_t llmc_sample(const llmc_sampling *s, int64_t row, float *logits, int64_t vocab);

#endif
