/* What an emitted program is run with: one pass over some tokens, and the operands of each call of a definition. */
#ifndef LLMC_PROGRAM_H
#define LLMC_PROGRAM_H

#include "../sampling/beams.h"
#include "../sampling/native.h"
#include "team.h"

typedef struct {
    int64_t batch, tokens, rows;  /* rows = batch * tokens */
    float *values;                /* what calls hand to each other, as many floats a row as the program says */
    float *locals;                /* what lives within a call */
    const int64_t *position;      /* [batch, tokens], -1 padding */
    const int64_t *lengths;       /* [batch], tokens held before this pass */
    void *const *inputs;          /* of the model, what passes hand to each other, and outputs */
    int64_t cache_type;           /* of cached keys and values: a type of numbers.h */
    void *workspace;              /* what the threads share within a matrix product */
    int64_t sharing;              /* rows of the batch that read one row of what was given once */
} llmc_pass;

typedef struct {
    int64_t function;               /* which segment of the program */
    const int64_t *values;          /* of each input and output: floats a row before it in `values`; -1-i: input i */
    const void *const *parameters;
    void *const *states;            /* the buffers of each state, then of those that other calls keep */
    const int64_t *slots;           /* of each buffer: the size of its token axis */
    const double *scalars;
    const int64_t *stores;          /* of each state of another call: whether this one is the last to read it */
} llmc_call;

typedef void llmc_segment(llmc_thread *, const llmc_pass *, const llmc_call *);

/* The definitions of the program, in the order of `function`. */
extern llmc_segment *const llmc_segments[];

/* Runs consecutive calls on all threads of the team. */
void llmc_run(llmc_team *team, const llmc_pass *pass, const llmc_call *calls, int64_t count);

typedef struct {
    int64_t *tokens;    /* [batch] in: the last token of each row; out: the same after the last step */
    int64_t *position;  /* [batch] memory for positions; -1 in: the row has ended */
    int64_t *lengths;   /* [batch] tokens held so far; counted on */
    float *logits;      /* [batch, vocab] where the pass writes them */
    int64_t vocab;
    const int64_t *ends;/* tokens that end a row, in */
    int64_t ends_count;
    int64_t *chosen;    /* [steps, batch] out: the tokens, -1 where a row had ended */
    const llmc_sampling *sampling; /* how tokens are drawn; NULL: each is the one with the largest logit */
} llmc_decoding;

/* Up to `steps` tokens of every row. Stops early when all rows have ended, or when a row has no largest finite logit
 * (NaN or infinity): that step is not counted. Returns the steps done. */
int64_t llmc_decode(llmc_team *team, llmc_pass *pass, const llmc_call *calls, int64_t count, int64_t steps, llmc_decoding *d);

/* One token of every row from the logits that are there already: what llmc_decode would choose. Returns the rows that
 * have no largest finite logit. `position`, `logits`, `chosen` and `sampling` are used. */
int64_t llmc_choose(const llmc_decoding *d, int64_t batch);

/* As many steps of a beam search as there are rules, at most `steps`: what `d` says of rows holds here too, of which
 * `position`, `lengths`, `tokens` and `logits` are used. Stops early when all prompts are done. Returns the steps done. */
int64_t llmc_search(llmc_team *team, llmc_pass *pass, const llmc_call *calls, int64_t count, int64_t steps, llmc_decoding *d, llmc_beams *beams);

/* Rows that memory is laid out for: without tokens, what there is once for a row of the batch still takes its own. */
static inline int64_t llmc_room(const llmc_pass *pass) { return pass->rows > pass->batch ? pass->rows : pass->batch; }

static inline void *llmc_value(const llmc_pass *pass, int64_t place) {
    return place < 0 ? pass->inputs[-1 - place] : (void *)(pass->values + place * llmc_room(pass));
}

/* Rows of a chunk of a loop over rows: a few chunks a thread. */
static inline int64_t llmc_rows_per_chunk(const llmc_thread *t, int64_t rows) {
    return (rows + t->count * 4 - 1) / (t->count * 4);
}

static inline int64_t llmc_row_chunks(const llmc_thread *t, int64_t rows) {
    int64_t size = llmc_rows_per_chunk(t, rows);
    return size ? (rows + size - 1) / size : 0;
}

static inline int64_t llmc_last_row(const llmc_thread *t, int64_t rows, int64_t chunk) {
    int64_t end = (chunk + 1) * llmc_rows_per_chunk(t, rows);
    return end < rows ? end : rows;
}

/* A region in which each row is done by one thread. */
#define LLMC_ROWS(t, r, rows)                                                       \
    LLMC_FOR(t, r##_chunk, llmc_row_chunks(t, rows))                                \
    for (int64_t r = r##_chunk * llmc_rows_per_chunk(t, rows),                      \
                 r##_end = llmc_last_row(t, rows, r##_chunk); r < r##_end; r++)

#endif
