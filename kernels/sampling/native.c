/* Tokens that the filters may keep are listed in the order of their ids; each filter's edge is found by bisection on
 * the bits of the scores, whose ends jump to scores that occur. Where no edge is needed, blocks of the vocabulary are
 * summed, and only the one in which the token lies is looked at.
 */
#include "../sampling/native.h"

#include <math.h>
#include <string.h>

#define LANES 32 /* numbers looked at together */
#define BLOCK 256
#define NEAR -12.0f                    /* the filters seldom reach below: the list begins with what lies above */
#define LOWEST_SCORE -29.0f            /* no mass from here down */
#define OCTAVES 24204406.0f            /* 2^24 / ln 2 */
#define UNIT 1099511627776.0           /* 2^40, the mass of the likeliest token */

typedef struct {
    float *scores;  /* at most 0 */
    int32_t *ids;
    int64_t *mass;
    int64_t count;
    int32_t *keys;   /* scratch for edges: what lies between the ends */
    int64_t *inside;
} list;

int64_t llmc_likeliest(const float *logits, int64_t n) {
    float lanes[LANES], largest = -INFINITY;
    int32_t is_bad[LANES] = {0}, bad = 0;
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
            is_bad[j] |= logits[i + j] != logits[i + j];
        }
    for (; i < n; i++) {
        largest = logits[i] > largest ? logits[i] : largest;
        bad |= logits[i] != logits[i];
    }
    for (int j = 0; j < LANES; j++) {
        largest = lanes[j] > largest ? lanes[j] : largest;
        bad |= is_bad[j];
    }
    if (bad || !isfinite(largest)) return -1;
    for (i = 0; i + LANES <= n; i += LANES) { /* the block that has it */
        int32_t is_here = 0;
        for (int j = 0; j < LANES; j++) is_here |= logits[i + j] == largest;
        if (is_here) break;
    }
    while (logits[i] != largest) i++;
    return i;
}

/* --- the uniform number ----------------------------------------------------------------------------------------- */

/* The first 32 bits of Philox 4x32-10 (Salmon et al. 2011) at key `seed` and counter `step`. */
static uint32_t random_word(uint64_t seed, uint64_t step) {
    uint32_t c0 = (uint32_t)step, c1 = (uint32_t)(step >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

/* total * word / 2^32, rounded down; total is below 2^59. */
static int64_t share_of(int64_t total, int64_t word) {
    return (word * (total >> 29) + (word * (total & 0x1FFFFFFF) >> 29)) >> 3;
}

/* --- scores and their masses ------------------------------------------------------------------------------------ */

/* exp(score) * 2^40 of `n` scores: one product of floats, whole numbers from there on. */
static void weigh(int64_t *mass, const float *scores, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float score = scores[i] > LOWEST_SCORE ? scores[i] : LOWEST_SCORE;
        uint32_t octaves = (uint32_t)(int32_t)(-score * OCTAVES), part = octaves << 8, power = 234126u;
        power = 2737501u - (uint32_t)((uint64_t)power * part >> 32);
        power = 20571132u - (uint32_t)((uint64_t)power * part >> 32);
        power = 119165493u - (uint32_t)((uint64_t)power * part >> 32);
        power = 515877902u - (uint32_t)((uint64_t)power * part >> 32);
        power = 1488521986u - (uint32_t)((uint64_t)power * part >> 32);
        power = 2147483648u - (uint32_t)((uint64_t)power * part >> 32);
        mass[i] = (int64_t)(((uint64_t)power << 9) >> (octaves >> 24));
    }
}

static void scale(float *scores, const float *logits, int64_t n, float largest, float temperature) {
    for (int64_t i = 0; i < n; i++) scores[i] = (logits[i] - largest) / temperature;
}

static int64_t at_least(int64_t *mass, int64_t n, int64_t least) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        mass[i] = mass[i] >= least ? mass[i] : 0;
        total += mass[i];
    }
    return total;
}

/* The first of `n` tokens up to which there is more than `point` of mass. */
static int64_t reach(const int64_t *mass, int64_t n, int64_t point) {
    int64_t i = 0;
    for (; i < n - 1 && point >= mass[i]; i++) point -= mass[i];
    return i;
}

/* --- without an edge: min-p alone, or nothing ------------------------------------------------------------------- */

static int64_t draw_from_all(const llmc_sampling *s, const float *logits, int64_t vocab, float largest, int64_t least, uint32_t word) {
    int64_t *sums = s->workspace, mass[BLOCK], total = 0, block = 0, count = 0;
    float scores[BLOCK];
    for (int64_t from = 0; from < vocab; from += BLOCK) {
        count = vocab - from < BLOCK ? vocab - from : BLOCK;
        scale(scores, logits + from, count, largest, s->temperature);
        weigh(mass, scores, count);
        total += sums[from / BLOCK] = at_least(mass, count, least);
    }
    int64_t point = share_of(total, word), last = (vocab - 1) / BLOCK;
    for (; block < last && point >= sums[block]; block++) point -= sums[block];
    if (block < last) { /* the last one's masses are still there */
        count = BLOCK;
        scale(scores, logits + block * BLOCK, count, largest, s->temperature);
        weigh(mass, scores, count);
        at_least(mass, count, least);
    }
    return block * BLOCK + reach(mass, count, point);
}

/* --- with an edge ----------------------------------------------------------------------------------------------- */

/* Lists the tokens from the score `from` on. Returns the mass of all tokens, where it is wanted. */
static int64_t gather(list *l, const float *logits, int64_t vocab, float largest, float temperature, float from, int wants_mass) {
    int64_t mass[BLOCK], total = 0, kept = 0;
    float scores[BLOCK];
    for (int64_t start = 0; start < vocab; start += BLOCK) {
        int64_t count = vocab - start < BLOCK ? vocab - start : BLOCK;
        scale(scores, logits + start, count, largest, temperature);
        if (wants_mass) {
            weigh(mass, scores, count);
            total += at_least(mass, count, 0);
        }
        for (int64_t i = 0; i < count; i++) {
            l->scores[kept] = scores[i];
            l->ids[kept] = (int32_t)(start + i);
            kept += scores[i] >= from;
        }
    }
    l->count = kept;
    return total;
}

/* Scores of at most 0 as whole numbers, the largest score first. */
static inline int32_t key_of(float score) {
    int32_t bits;
    memcpy(&bits, &score, 4);
    return bits & 0x7FFFFFFF;
}

/* The first key up to which there is `needed` of mass. What lies outside of the ends is looked at no more. */
static int32_t edge_of(const list *l, int64_t needed) {
    int32_t low = 0, high = 0x7F800000;
    int64_t count = l->count;
    for (int64_t i = 0; i < count; i++) l->keys[i] = key_of(l->scores[i]);
    memcpy(l->inside, l->mass, (size_t)count * sizeof *l->mass);
    while (low < high) {
        int32_t middle = low + (high - low) / 2, within = 0, beyond = 0x7F800000;
        int64_t found = 0, kept = 0;
        for (int64_t i = 0; i < count; i++) {
            int32_t key = l->keys[i], is_within = key <= middle;
            found += is_within ? l->inside[i] : 0;
            within = is_within && key > within ? key : within;
            beyond = !is_within && key < beyond ? key : beyond;
        }
        int is_enough = found >= needed;
        if (is_enough) high = within;
        else low = beyond, needed -= found;
        for (int64_t i = 0; i < count; i++) {
            l->keys[kept] = l->keys[i];
            l->inside[kept] = l->inside[i];
            kept += (l->keys[i] <= middle) == is_enough;
        }
        count = kept;
    }
    return low;
}

/* Keeps what lies before the edge, and of what lies on it all but the first `gone`. */
static void cut(list *l, int32_t edge, int64_t gone) {
    int64_t kept = 0;
    for (int64_t i = 0; i < l->count; i++) {
        int32_t key = key_of(l->scores[i]);
        int is_tie = key == edge, is_kept = key < edge || (is_tie && gone <= 0);
        gone -= is_tie;
        l->scores[kept] = l->scores[i];
        l->ids[kept] = l->ids[i];
        l->mass[kept] = l->mass[i];
        kept += is_kept;
    }
    l->count = kept;
}

static void keep_top_k(list *l, int64_t k) {
    for (int64_t i = 0; i < l->count; i++) l->mass[i] = 1;
    cut(l, edge_of(l, k), 0);
}

/* The mass that top-p may take away, from the least likely tokens on; never all. */
static int64_t removable(int64_t total, float top_p) {
    int64_t gone = (int64_t)((1.0 - (double)top_p) * (double)total);
    return gone < total - 1 ? gone : total - 1;
}

static void keep_top_p(list *l, int64_t total, int64_t gone) {
    int32_t edge = edge_of(l, total - gone);
    int64_t reached = 0, one = 1;
    for (int64_t i = 0; i < l->count; i++) {
        int32_t key = key_of(l->scores[i]);
        reached += key <= edge ? l->mass[i] : 0;
        one = key == edge && l->mass[i] > one ? l->mass[i] : one;
    }
    cut(l, edge, (gone - (total - reached)) / one);
}

static int64_t draw_from_list(const llmc_sampling *s, const float *logits, int64_t vocab, float largest, int64_t least, uint32_t word) {
    list l = {.mass = s->workspace};
    l.inside = l.mass + vocab;
    l.scores = (float *)(l.inside + vocab);
    l.ids = (int32_t *)(l.scores + vocab);
    l.keys = l.ids + vocab;
    int by_k = s->top_k > 0 && s->top_k < vocab, by_p = s->top_p < 1.0f;
    int64_t total = gather(&l, logits, vocab, largest, s->temperature, NEAR, !by_k), near = 0;
    if (!by_k) {
        weigh(l.mass, l.scores, l.count);
        near = at_least(l.mass, l.count, 0);
    }
    if (by_k ? l.count < s->top_k : total - near > removable(total, s->top_p)) {
        gather(&l, logits, vocab, largest, s->temperature, -INFINITY, 0);
        if (!by_k) weigh(l.mass, l.scores, l.count);
    }
    if (by_k) {
        keep_top_k(&l, s->top_k);
        weigh(l.mass, l.scores, l.count);
        total = at_least(l.mass, l.count, 0);
    }
    if (by_p) keep_top_p(&l, total, removable(total, s->top_p));
    total = at_least(l.mass, l.count, least);
    return l.ids[reach(l.mass, l.count, share_of(total, word))];
}

/* --- penalties -------------------------------------------------------------------------------------------------- */

static void penalise(const llmc_sampling *s, int64_t row, float *logits) {
    const int64_t *seen = s->seen + row * s->room, *generated = s->generated + row * s->room;
    for (int64_t i = 0; i < s->seen_count[row]; i++) {
        /* products are made in double and rounded: no part of a multiply-add */
        float x = logits[seen[i]], often = (float)((double)generated[i] * (double)s->frequency_penalty);
        x = x < 0 ? (float)((double)x * (double)s->repetition_penalty) : x / s->repetition_penalty;
        x = x - often;
        logits[seen[i]] = x - (generated[i] > 0 ? s->presence_penalty : 0.0f);
    }
}

static void note(const llmc_sampling *s, int64_t row, int64_t token) {
    int64_t *seen = s->seen + row * s->room, *generated = s->generated + row * s->room, i = 0;
    while (i < s->seen_count[row] && seen[i] != token) i++;
    if (i == s->seen_count[row]) {
        if (i == s->room) return;
        seen[i] = token;
        generated[i] = 0;
        s->seen_count[row]++;
    }
    generated[i]++;
}

int64_t llmc_sample(const llmc_sampling *s, int64_t row, float *logits, int64_t vocab) {
    if (s->seen) penalise(s, row, logits);
    int64_t token = llmc_likeliest(logits, vocab);
    if (token < 0) return -1;
    if (s->temperature > 0) {
        int64_t least = (int64_t)((double)s->min_p * UNIT);
        uint32_t word = random_word((uint64_t)s->seeds[row], (uint64_t)s->steps[row]);
        int has_edge = s->top_p < 1.0f || (s->top_k > 0 && s->top_k < vocab);
        token = (has_edge ? draw_from_list : draw_from_all)(s, logits, vocab, logits[token], least, word);
    }
    s->steps[row]++;
    if (s->seen) note(s, row, token);
    return token;
}
