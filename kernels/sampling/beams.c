/* Nothing is sorted: the best of a row are kept in a list while its scores are looked at in blocks, most of which hold
 * nothing better than the last of the list.
 */
#include "../sampling/beams.h"

#include <math.h>
#include <string.h>

#include "../native/vector_math.h"
#include "../sampling/native.h"

#define NEVER -1e9f
#define BLOCK 64 /* scores looked at together */

/* log of the sum of exp(x - largest). */
static float log_sum(const float *x, int64_t n, float largest) {
    double total = 0;
    for (int64_t from = 0; from < n; from += 1024) {
        int64_t end = from + 1024 < n ? from + 1024 : n, i = from;
        vf sum = vf_zero();
        for (; i + LLMC_LANES <= end; i += LLMC_LANES) sum += vf_exp(vf_load(x + i) - vf_all(largest));
        total += vf_sum(sum);
        for (; i < end; i++) total += expf(x[i] - largest);
    }
    return (float)log(total);
}

static void score_row(const llmc_beams *s, const uint8_t *seen, float *x, int64_t n, float largest, float before, int may_end) {
    float total = log_sum(x, n, largest), penalty = s->repetition_penalty;
    for (int64_t i = 0; i < n; i++) x[i] = x[i] - largest - total;
    if (seen)
        for (int64_t i = 0; i < n; i++)
            if (seen[i]) x[i] = x[i] < 0 ? x[i] * penalty : x[i] / penalty;
    for (int64_t i = 0; i < n; i++) x[i] += before;
    if (!may_end)
        for (int64_t e = 0; e < s->ends_count; e++)
            if (s->ends[e] >= 0 && s->ends[e] < n) x[s->ends[e]] = -INFINITY;
}

/* Later ones of equal scores stay behind. */
static int64_t insert(float *value, int64_t *token, int64_t held, int64_t width, float score, int64_t id) {
    int64_t at = held < width ? held : width - 1;
    for (; at > 0 && value[at - 1] < score; at--) value[at] = value[at - 1], token[at] = token[at - 1];
    value[at] = score, token[at] = id;
    return held < width ? held + 1 : held;
}

static void best_of_row(float *value, int64_t *token, int64_t width, const float *x, int64_t n) {
    int64_t held = 0;
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t end = from + BLOCK < n ? from + BLOCK : n;
        if (held == width && end - from == BLOCK) {
            float last = value[width - 1];
            int32_t is_better = 0;
            for (int64_t j = 0; j < BLOCK; j++) is_better |= x[from + j] > last;
            if (!is_better) continue;
        }
        for (int64_t i = from; i < end; i++)
            if (held < width || x[i] > value[width - 1]) held = insert(value, token, held, width, x[i], i);
    }
}

void llmc_best_continuations(llmc_thread *t, const llmc_beams *s, const float *rule, float *logits, int64_t vocab) {
    LLMC_FOR(t, i, s->prompts * s->beams) { /* by beam */
        int64_t prompt = i / s->beams, row = prompt * s->beams + s->row[i];
        if (!s->is_open[prompt]) continue;
        float *x = logits + row * vocab, *value = s->value + row * s->width;
        int64_t *token = s->token + row * s->width, likeliest = llmc_likeliest(x, vocab);
        if (likeliest < 0) {
            for (int64_t j = 0; j < s->width; j++) value[j] = NAN, token[j] = j;
            continue;
        }
        const uint8_t *seen = s->seen ? s->seen + row * vocab : NULL;
        score_row(s, seen, x, vocab, x[likeliest], s->score[i], rule[4] > 0);
        best_of_row(value, token, s->width, x, vocab);
    }
}

static int is_end(const llmc_beams *s, int64_t token) {
    for (int64_t e = 0; e < s->ends_count; e++)
        if (s->ends[e] == token) return 1;
    return 0;
}

typedef struct {
    float score;
    int64_t step, parent, token;
} text;

/* The best of two lists, the first before the second where they are equal. */
static void keep(text *all, int64_t beams, float *score, int64_t *step, int64_t *parent, int64_t *token) {
    for (int64_t j = 0; j < beams; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < 2 * beams; i++)
            if (all[i].parent >= 0 && (best < 0 || all[i].score > all[best].score)) best = i;
        score[j] = all[best].score, step[j] = all[best].step, parent[j] = all[best].parent, token[j] = all[best].token;
        all[best].parent = -1; /* taken */
    }
}

/* The first beam that goes on from another takes its row; the others take those that nobody goes on from. */
static void place(llmc_beams *s, int64_t prompt, const int64_t *after, const int64_t *tokens, int goes_on, const int64_t *lengths) {
    int64_t beams = s->beams, base = prompt * beams, *row = s->row + base, *common = s->common + base * beams;
    int64_t home[LLMC_MOST_BEAMS], spot[LLMC_MOST_BEAMS], origin[LLMC_MOST_BEAMS], free_row = 0;
    uint8_t is_used[LLMC_MOST_BEAMS] = {0}, is_given[LLMC_MOST_BEAMS] = {0};
    for (int64_t j = 0; j < beams; j++) home[j] = row[after[j]], is_used[home[j]] = 1;
    for (int64_t j = 0; j < beams; j++) {
        spot[j] = home[j];
        if (is_given[home[j]]) {
            while (is_used[free_row]) free_row++;
            spot[j] = free_row++;
        }
        is_given[home[j]] = 1;
    }
    for (int64_t j = 0; j < beams; j++) {
        row[j] = spot[j];
        origin[spot[j]] = home[j];
        s->next[base + spot[j]] = goes_on ? tokens[j] : -1;
    }
    for (int64_t r = 0; r < beams; r++) {
        if (!goes_on) origin[r] = r;
        s->source[base + r] = base + origin[r];
        s->first[base + r] = common[r * beams + origin[r]];
    }
    for (int64_t r = 0; r < beams; r++)
        for (int64_t q = 0; q < beams; q++)
            s->pairs[r * beams + q] = origin[r] == origin[q] ? lengths[base + r] : common[origin[r] * beams + origin[q]];
    memcpy(common, s->pairs, (size_t)(beams * beams) * sizeof *common);
}

static void advance_prompt(llmc_beams *s, int64_t prompt, const float *rule, const int64_t *lengths, int64_t *chosen, int64_t *parent) {
    int64_t beams = s->beams, width = s->width, base = prompt * beams, ended = 0, running = 0;
    float *score = s->score + base, *kept_score = s->kept_score + base, going[LLMC_MOST_BEAMS];
    int64_t *kept_step = s->kept_step + base, after[LLMC_MOST_BEAMS], tokens[LLMC_MOST_BEAMS];
    text all[2 * LLMC_MOST_BEAMS];
    int is_sound = 1, is_full = 1, can_improve = 0;
    for (int64_t j = 0; j < beams; j++) {
        all[j] = (text){kept_score[j], kept_step[j], s->kept_parent[base + j], s->kept_token[base + j]};
        all[beams + j] = (text){NEVER, 0, 0, 0};
        is_sound &= s->value[(base + j) * width] == s->value[(base + j) * width];
    }
    memset(s->is_taken, 0, (size_t)(beams * width));
    for (int64_t i = 0; i < width && is_sound; i++) {
        int64_t best = -1;
        float most = 0;
        for (int64_t c = 0; c < beams * width; c++) {
            float found = s->value[(base + s->row[base + c / width]) * width + c % width];
            if (!s->is_taken[c] && (best < 0 || found > most)) best = c, most = found;
        }
        s->is_taken[best] = 1;
        is_sound = i > 0 || isfinite(most);
        int64_t beam = best / width, token = s->token[(base + s->row[base + beam]) * width + best % width];
        int ends = rule[2] > 0 || is_end(s, token);
        if (ends && i < beams && is_sound) all[beams + ended++] = (text){most / rule[0], s->step + 1, beam, token};
        float on = ends ? most + NEVER : most;
        if (running < beams || on > going[running - 1]) { /* in order, later ones of equal scores behind */
            int64_t at = running < beams ? running++ : beams - 1;
            for (; at > 0 && going[at - 1] < on; at--) going[at] = going[at - 1], after[at] = after[at - 1], tokens[at] = tokens[at - 1];
            going[at] = on, after[at] = beam, tokens[at] = token;
        }
    }
    if (!is_sound) {
        s->is_open[prompt] = 0, s->is_broken[prompt] = 1;
        for (int64_t r = 0; r < beams; r++) s->next[base + r] = -1, s->source[base + r] = base + r, chosen[r] = parent[r] = 0;
        return;
    }
    keep(all, beams, kept_score, kept_step, s->kept_parent + base, s->kept_token + base);
    memcpy(score, going, (size_t)beams * sizeof *score);
    memcpy(chosen, tokens, (size_t)beams * sizeof *chosen);
    memcpy(parent, after, (size_t)beams * sizeof *parent);
    for (int64_t j = 0; j < beams; j++) is_full &= kept_step[j] > 0;
    for (int64_t j = 0; j < beams; j++) can_improve |= score[0] / rule[1] > (kept_step[j] > 0 ? kept_score[beams - 1] : NEVER);
    s->is_open[prompt] = can_improve && !(rule[2] > 0) && !(rule[3] > 0 && is_full);
    place(s, prompt, after, tokens, s->is_open[prompt], lengths);
}

void llmc_advance_beams(llmc_beams *s, const float *rule, const int64_t *lengths, int64_t *chosen, int64_t *parent) {
    for (int64_t p = 0; p < s->prompts; p++) {
        int64_t at = p * s->beams;
        if (s->is_open[p]) advance_prompt(s, p, rule, lengths, chosen + at, parent + at);
        else
            for (int64_t r = at; r < at + s->beams; r++) s->next[r] = -1, s->source[r] = r, chosen[r] = parent[r] = 0;
    }
    s->step++;
}

void llmc_copy_rows(llmc_thread *t, const llmc_beams *s, const int64_t *lengths) {
    LLMC_FOR(t, i, s->parts_count) {
        const int64_t *part = s->parts + 4 * i;
        char *buffer = (char *)(uintptr_t)part[0];
        int64_t heads = part[1], slots = part[2] ? part[2] : 1, bytes = part[3] * s->unit;
        for (int64_t r = 0; r < s->prompts * s->beams; r++) {
            if (s->source[r] == r) continue;
            char *to = buffer + r * heads * slots * bytes;
            const char *from = buffer + s->source[r] * heads * slots * bytes;
            int64_t last = part[2] ? lengths[r] : 1, first = part[2] ? s->first[r] : 0, count;
            if (first < last - slots) first = last - slots;
            for (; first < last; first += count) {
                int64_t slot = first % slots;
                count = last - first < slots - slot ? last - first : slots - slot;
                for (int64_t h = 0; h < heads; h++)
                    memcpy(to + (h * slots + slot) * bytes, from + (h * slots + slot) * bytes, (size_t)(count * bytes));
            }
        }
    }
}
