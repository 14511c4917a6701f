/* Runs an emitted program: a range of its calls, or many passes with the likeliest token fed back each time. */
#include "program.h"

#include <math.h>

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

/* The first of the largest logits, or -1 where one is NaN or +inf, or all are -inf. */
static int64_t likeliest(const float *logits, int64_t n) {
    float lanes[16], largest = -INFINITY, check = 0;
    for (int j = 0; j < 16; j++) lanes[j] = -INFINITY;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
            check += logits[i + j] == logits[i + j] ? 0.0f : 1.0f;
        }
    for (; i < n; i++) {
        largest = logits[i] > largest ? logits[i] : largest;
        check += logits[i] == logits[i] ? 0.0f : 1.0f;
    }
    for (int j = 0; j < 16; j++) largest = lanes[j] > largest ? lanes[j] : largest;
    if (check != 0 || !isfinite(largest)) return -1;
    for (i = 0; logits[i] != largest; i++) {}
    return i;
}

static int is_end(const llmc_greedy *g, int64_t token) {
    for (int64_t i = 0; i < g->ends_count; i++)
        if (g->ends[i] == token) return 1;
    return 0;
}

int64_t llmc_decode(llmc_team *team, llmc_pass *pass, const llmc_call *calls, int64_t count, int64_t steps, llmc_greedy *g) {
    for (int64_t step = 0; step < steps; step++) {
        int64_t *chosen = g->chosen + step * pass->batch, left = 0;
        for (int64_t b = 0; b < pass->batch; b++) {
            left += g->position[b] >= 0;
            if (g->position[b] >= 0) g->position[b] = g->lengths[b];
        }
        if (!left) return step;
        llmc_run(team, pass, calls, count);
        for (int64_t b = 0; b < pass->batch; b++) {
            chosen[b] = -1;
            if (g->position[b] < 0) continue;
            chosen[b] = likeliest(g->logits + b * g->vocab, g->vocab);
            if (chosen[b] < 0) return step;
        }
        for (int64_t b = 0; b < pass->batch; b++) {
            if (g->position[b] < 0) continue;
            g->lengths[b]++;
            g->tokens[b] = chosen[b];
            if (is_end(g, chosen[b])) g->position[b] = -1;
        }
    }
    return steps;
}
