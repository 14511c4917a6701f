/* Routers: which experts a token takes, and how much of each. */
#ifndef LLMC_ROUTER_H
#define LLMC_ROUTER_H

#include "../../linear/native/linear.h"
#include "../../native/team.h"

enum { LLMC_SCORE_SOFTMAX, LLMC_SCORE_SIGMOID, LLMC_SCORE_SQRTSOFTPLUS };

typedef struct {
    int64_t num_experts, top_k, num_groups, top_groups; /* as many top groups as groups: all */
    int score, is_over_chosen, normalises, sums_two; /* sums_two: a group is worth its two best */
    float scale;
    const float *correction; /* [num_experts] or NULL */
} llmc_routing;

/* logits [rows, experts] = x weight^T + bias in float32, whatever the format of the weight (LLMC_FP32, BF16, FP16). */
void llmc_router_logits(llmc_thread *t, const llmc_matrix *m, const float *x, int64_t x_stride, float *logits, int64_t rows);

/* One token: weights and experts [top_k], the best first, of equals the lowest number. spare [2 * num_experts +
 * num_groups]. */
void llmc_route(float *weights, int64_t *experts, const float *logits, float *spare, const llmc_routing *rule);

#endif
