/* Runs an emitted program: a range of its calls, or many passes with the token that each gives fed back. */
#include "program.h"

typedef struct {
    const llmc_pass *pass;
    const llmc_call *calls;
    int64_t count;
} job;

static void run_calls(llmc_thread *t, void *argument) {
    const job *j = argument;
    for (int64_t i = 0; i < j->count; i++) llmc_segments[j->calls[i].function](t, j->pass, &j->calls[i]);
}

void llmc_run(llmc_team *team, const llmc_pass *pass, const llmc_call *calls, int64_t count) {
    job j = {pass, calls, count};
    llmc_team_run(team, run_calls, &j);
}

static int is_end(const llmc_decoding *d, int64_t token) {
    for (int64_t i = 0; i < d->ends_count; i++)
        if (d->ends[i] == token) return 1;
    return 0;
}

static int64_t choose(const llmc_decoding *d, int64_t row) {
    float *logits = d->logits + row * d->vocab;
    return d->sampling ? llmc_sample(d->sampling, row, logits, d->vocab) : llmc_likeliest(logits, d->vocab);
}

int64_t llmc_choose(const llmc_decoding *d, int64_t batch) {
    int64_t failed = 0;
    for (int64_t b = 0; b < batch; b++) {
        int is_open = d->position[b] >= 0; /* the tokens may take the place of the positions */
        d->chosen[b] = is_open ? choose(d, b) : -1;
        failed += is_open && d->chosen[b] < 0;
    }
    return failed;
}

int64_t llmc_decode(llmc_team *team, llmc_pass *pass, const llmc_call *calls, int64_t count, int64_t steps, llmc_decoding *d) {
    for (int64_t step = 0; step < steps; step++) {
        int64_t *chosen = d->chosen + step * pass->batch, left = 0;
        for (int64_t b = 0; b < pass->batch; b++) {
            left += d->position[b] >= 0;
            if (d->position[b] >= 0) d->position[b] = d->lengths[b];
        }
        if (!left) return step;
        llmc_run(team, pass, calls, count);
        for (int64_t b = 0; b < pass->batch; b++) {
            chosen[b] = -1;
            if (d->position[b] < 0) continue;
            chosen[b] = choose(d, b);
            if (chosen[b] < 0) return step;
        }
        for (int64_t b = 0; b < pass->batch; b++) {
            if (d->position[b] < 0) continue;
            d->lengths[b]++;
            d->tokens[b] = chosen[b];
            if (is_end(d, chosen[b])) d->position[b] = -1;
        }
    }
    return steps;
}

typedef struct {
    const llmc_decoding *d;
    llmc_beams *beams;
    const float *rule;
} beam_job;

static void find_best(llmc_thread *t, void *argument) {
    const beam_job *j = argument;
    llmc_best_continuations(t, j->beams, j->rule, j->d->logits, j->d->vocab);
}

static void copy_rows(llmc_thread *t, void *argument) {
    const beam_job *j = argument;
    llmc_copy_rows(t, j->beams, j->d->lengths);
}

int64_t llmc_search(llmc_team *team, llmc_pass *pass, const llmc_call *calls, int64_t count, int64_t steps, llmc_decoding *d, llmc_beams *beams) {
    for (int64_t step = 0; step < steps; step++) {
        int64_t left = 0;
        for (int64_t b = 0; b < pass->batch; b++) {
            int is_open = beams->is_open[b / beams->beams];
            d->position[b] = is_open ? d->lengths[b] : -1;
            left += is_open;
        }
        if (!left) return step;
        beam_job j = {d, beams, beams->rules + 5 * step};
        llmc_run(team, pass, calls, count);
        for (int64_t b = 0; b < pass->batch; b++) d->lengths[b] += d->position[b] >= 0;
        llmc_team_run(team, find_best, &j);
        llmc_advance_beams(beams, j.rule, d->lengths, beams->chosen + step * pass->batch, beams->parent + step * pass->batch);
        llmc_team_run(team, copy_rows, &j);
        for (int64_t b = 0; b < pass->batch; b++) {
            d->tokens[b] = beams->next[b] < 0 ? 0 : beams->next[b];
            if (beams->seen && beams->next[b] >= 0) beams->seen[b * d->vocab + beams->next[b]] = 1;
        }
    }
    return steps;
}
