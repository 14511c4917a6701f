/* The router: scores of all experts of a token, and the best of them. */
#include <math.h>
#include <string.h>

#include "../../linear/native/groups.h"
#include "router.h"

void llmc_router_logits(llmc_thread *t, const llmc_matrix *m, const float *x, int64_t x_stride, float *logits, int64_t rows) {
    int64_t groups = (m->N + LLMC_GROUP - 1) / LLMC_GROUP, at_once = LLMC_SMALL_BATCH;
    while (groups * ((rows + at_once - 1) / at_once) > LLMC_MAX_CHUNKS) at_once *= 2;
    LLMC_FOR(t, chunk, groups * ((rows + at_once - 1) / at_once)) {
        int64_t g = chunk % groups, end = (chunk / groups + 1) * at_once;
        for (int64_t first = chunk / groups * at_once; first < end && first < rows; first += LLMC_SMALL_BATCH) {
            int count = (int)(rows - first < LLMC_SMALL_BATCH ? rows - first : LLMC_SMALL_BATCH);
            int R = count <= 2 ? count : count <= 4 ? 4 : 8;
            const float *in[LLMC_SMALL_BATCH];
            float sums[LLMC_SMALL_BATCH * LLMC_GROUP];
            for (int r = 0; r < R; r++) in[r] = x + (first + (r < count ? r : count - 1)) * x_stride;
            llmc_plain_sums(m, g, 0, in, R, sums);
            for (int r = 0; r < count; r++)
                for (int i = 0; i < llmc_rows_left(m, g); i++)
                    logits[(first + r) * m->N + g * LLMC_GROUP + i] =
                        sums[r * LLMC_GROUP + i] + (m->bias ? m->bias[g * LLMC_GROUP + i] : 0);
        }
    }
}

static void find_scores(float *scores, const float *logits, int64_t n, int kind) {
    if (kind == LLMC_SCORE_SOFTMAX) {
        float largest = logits[0], sum = 0;
        for (int64_t i = 1; i < n; i++)
            if (!(logits[i] <= largest)) largest = logits[i];
        for (int64_t i = 0; i < n; i++) sum += scores[i] = expf(logits[i] - largest);
        for (int64_t i = 0; i < n; i++) scores[i] /= sum;
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        float x = logits[i];
        if (kind == LLMC_SCORE_SIGMOID) scores[i] = 1.0f / (1.0f + expf(-x));
        else scores[i] = sqrtf(x > 20.0f ? x : log1pf(expf(x)));
    }
}

/* The numbers of the `count` largest, the first of equals first; NaN is the largest. */
static void find_best(int64_t *best, const float *x, int64_t n, int64_t count) {
    float value = INFINITY;
    int64_t before = -1;
    for (int64_t k = 0; k < count; k++) {
        int64_t found = -1;
        float largest = 0;
        for (int64_t i = 0; i < n; i++) {
            float y = x[i] != x[i] ? INFINITY : x[i];
            int is_left = y < value || (y == value && i > before);
            if (is_left && (found < 0 || y > largest)) found = i, largest = y;
        }
        best[k] = before = found, value = largest;
    }
}

/* Sets the experts outside the best groups to -inf. */
static void keep_best_groups(float *choice, float *rank, const llmc_routing *rule) {
    int64_t size = rule->num_experts / rule->num_groups, best[2];
    int64_t taken = rule->sums_two && size > 1 ? 2 : 1;
    for (int64_t g = 0; g < rule->num_groups; g++) {
        find_best(best, choice + g * size, size, taken);
        rank[g] = choice[g * size + best[0]] + (taken == 2 ? choice[g * size + best[1]] : 0);
    }
    int64_t groups[rule->top_groups];
    find_best(groups, rank, rule->num_groups, rule->top_groups);
    for (int64_t g = 0; g < rule->num_groups; g++) {
        int is_kept = 0;
        for (int64_t i = 0; i < rule->top_groups; i++) is_kept |= groups[i] == g;
        for (int64_t i = 0; !is_kept && i < size; i++) choice[g * size + i] = -INFINITY;
    }
}

void llmc_route(float *weights, int64_t *experts, const float *logits, float *spare, const llmc_routing *rule) {
    int64_t n = rule->num_experts;
    float *scores = spare, *choice = spare + n;
    if (rule->is_over_chosen) memcpy(scores, logits, n * sizeof(float));
    else find_scores(scores, logits, n, rule->score);
    for (int64_t i = 0; i < n; i++) choice[i] = scores[i] + (rule->correction ? rule->correction[i] : 0);
    if (rule->top_groups < rule->num_groups) keep_best_groups(choice, spare + 2 * n, rule);
    find_best(experts, choice, n, rule->top_k);
    for (int64_t k = 0; k < rule->top_k; k++) weights[k] = scores[experts[k]];
    if (rule->is_over_chosen) {
        memcpy(choice, weights, rule->top_k * sizeof(float));
        find_scores(weights, choice, rule->top_k, rule->score);
    }
    float sum = 0;
    for (int64_t k = 0; k < rule->top_k; k++) sum += weights[k];
    float factor = rule->scale;
    for (int64_t k = 0; k < rule->top_k; k++) weights[k] = (rule->normalises ? weights[k] / (sum + 1e-20f) : weights[k]) * factor;
}
