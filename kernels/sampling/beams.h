/* A step of a beam search: the best continuations of every row, and what becomes of a prompt's beams.
 *
 * Does what `beam_reference.py` says; the names are those of its arguments.
 */
#ifndef LLMC_BEAMS_H
#define LLMC_BEAMS_H

#include "../native/team.h"

#define LLMC_MOST_BEAMS 64

typedef struct {
    int64_t prompts, beams, width;
    const int64_t *ends;
    int64_t ends_count;
    const float *rules; /* [steps, 5]: the rule, and whether a text may end there */
    int64_t step;       /* tokens drawn before; counted on */
    float repetition_penalty;
    uint8_t *seen; /* [rows, vocab], or NULL; brought up to date */
    float *score;
    int64_t *row, *common;
    float *kept_score;
    int64_t *kept_step, *kept_parent, *kept_token;
    uint8_t *is_open, *is_broken; /* [prompts] */
    int64_t *next;                /* [rows] the tokens to read, -1 where a prompt is done */
    int64_t *chosen, *parent;     /* [steps, prompts, beams] out */
    const int64_t *parts;         /* [parts_count, 4]: address, heads, slots (0: a row is copied whole), units a slot */
    int64_t parts_count, unit;    /* bytes of a unit */
    float *value;                 /* memory: [rows, width] */
    int64_t *token;               /* memory: [rows, width] */
    int64_t *source, *first;      /* memory: [rows] */
    int64_t *pairs;               /* memory: [beams, beams] */
    uint8_t *is_taken;            /* memory: [beams * width] */
} llmc_beams;

/* The best continuations of each row of logits [rows, vocab], which become scores. */
void llmc_best_continuations(llmc_thread *t, const llmc_beams *s, const float *rule, float *logits, int64_t vocab);

/* How the beams of each prompt go on, in `next`, `source` and `first`; lengths [rows]: tokens that the states hold. */
void llmc_advance_beams(llmc_beams *s, const float *rule, const int64_t *lengths, int64_t *chosen, int64_t *parent);

/* Lets rows of all buffers go on from their sources. */
void llmc_copy_rows(llmc_thread *t, const llmc_beams *s, const int64_t *lengths);

#endif
