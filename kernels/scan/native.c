/* The scan in order of time. Heads with wide values run with values side by side in vectors, a key at a time, in the
 * state itself; heads with few values with keys side by side, in a copy that lies values first; heads with one value
 * (S6) as `channels.h` has it. Many tokens of heads that forget by one factor are taken in chunks, as in `chunks.h`. */
#include "native.h"

#include <string.h>

#include "../native/vector_math.h"
#include "channels.h"
#include "chunks.h"

#define WIDE 4 /* vectors of values taken at once */

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t padded(int64_t n) { return (n + LLMC_LANES - 1) / LLMC_LANES * LLMC_LANES; }
LLMC_INLINE int part(int64_t left) { return left < LLMC_LANES ? (int)left : LLMC_LANES; }

/* What a token does to a head, each [padded key_dim] with zeros (decay: anything finite) beyond key_dim. */
typedef struct {
    float *decay, *amount, *key, *query, *erase, *write;
} token_keys;

#define KEY_ROWS 6

static token_keys keys_in(float *memory, int64_t size) {
    return (token_keys){memory, memory + size, memory + 2 * size, memory + 3 * size, memory + 4 * size, memory + 5 * size};
}

static const float *head_of(llmc_stream s, int64_t row, int64_t head, int64_t size) { return s.at + row * s.stride + head * size; }

/* The log decay of a head where it is the same for all tokens, [1] or [key_dim]; the zeros beyond are kept. */
static void constant_rate(const llmc_scan *a, int64_t head, float *rate) {
    int64_t count = a->decay_per == LLMC_DECAY_STATE ? a->key_dim : 1;
    const float *from = a->decay.at + head * count;
    for (int64_t i = 0; i < count; i += LLMC_LANES) {
        vf x = vf_load_part(from + i, part(count - i));
        vf_store_part(rate + i, a->is_A_log ? vf_zero() - vf_exp(x) : x, part(count - i));
    }
}

static void find_decay(const llmc_scan *a, int64_t row, int64_t head, float dt, const float *rate, float *decay) {
    int64_t n = a->key_dim;
    if (a->decay_per == LLMC_DECAY_STATE || a->decay_per == LLMC_DECAY_TOKEN_CHANNEL) {
        int is_own = a->decay_per == LLMC_DECAY_TOKEN_CHANNEL;
        const float *from = is_own ? head_of(a->decay, row, head, n) : rate;
        for (int64_t i = 0; i < n; i += LLMC_LANES) {
            vf x = vf_load_part(from + i, part(n - i));
            if (is_own && a->is_A_log) x = vf_zero() - vf_exp(x);
            vf_store(decay + i, vf_exp(x * vf_all(dt)));
        }
        return;
    }
    vf all = vf_all(1.0f);
    if (a->decay_per != LLMC_DECAY_NONE) {
        vf x = vf_all(a->decay_per == LLMC_DECAY_HEAD ? rate[0] : *head_of(a->decay, row, head, 1));
        if (a->decay_per == LLMC_DECAY_TOKEN_HEAD && a->is_A_log) x = vf_zero() - vf_exp(x);
        all = vf_exp(x * vf_all(dt));
    }
    for (int64_t i = 0; i < n; i += LLMC_LANES) vf_store(decay + i, all);
}

/* Everything of a token that does not depend on values. The key carries beta: it is what the delta rule takes away. */
static void find_keys(const llmc_scan *a, int64_t row, int64_t head, const float *rate, const token_keys *to) {
    int64_t n = a->key_dim, group = head / (a->heads / a->key_heads);
    float dt = a->dt.at ? *head_of(a->dt, row, head, 1) : 1.0f;
    float beta = a->beta.at ? *head_of(a->beta, row, head, 1) : 1.0f;
    const float *k = head_of(a->k, row, group, n), *q = head_of(a->q, row, group, n);
    find_decay(a, row, head, dt, rate, to->decay);
    for (int64_t i = 0; i < n; i += LLMC_LANES) {
        int left = part(n - i);
        vf key = vf_load_part(k + i, left);
        vf_store(to->key + i, key);
        vf_store(to->amount + i, key * vf_all(dt) * vf_all(beta));
        vf_store(to->query + i, vf_load_part(q + i, left) * vf_all(a->scale));
        if (a->update == LLMC_UPDATE_ERASE_WRITE) {
            vf_store(to->erase + i, vf_load_part(head_of(a->erase, row, head, n) + i, left));
            vf_store(to->write + i, vf_load_part(head_of(a->write, row, head, n) + i, left));
        }
        if (a->update == LLMC_UPDATE_DELTA) vf_store(to->write + i, key * vf_all(-beta));
    }
}

/* --- values side by side ------------------------------------------------------------------------------------------ */

/* One token on N vectors of values from s on, rows `stride` apart; the last vector has `left` values. */
LLMC_INLINE void step_values(int N, int update, const llmc_scan *a, const token_keys *x, float *s, int64_t stride,
                             const float *v, float *y, float skip, int left) {
    vf value[WIDE], read[WIDE], seen[WIDE];
#define EACH _Pragma("GCC unroll 4") for (int j = 0; j < N; j++)
#define COUNT(j) (j + 1 < N ? LLMC_LANES : left)
#define LOAD(p, j) (left == LLMC_LANES ? vf_load((p) + j * LLMC_LANES) : vf_load_part((p) + j * LLMC_LANES, COUNT(j)))
#define STORE(p, j, value)                                                    \
    do {                                                                      \
        if (left == LLMC_LANES) vf_store((p) + j * LLMC_LANES, value);        \
        else vf_store_part((p) + j * LLMC_LANES, value, COUNT(j));            \
    } while (0)
    EACH { value[j] = LOAD(v, j); read[j] = vf_zero(); seen[j] = vf_zero(); }
    if (update != LLMC_UPDATE_ADD) {
        for (int64_t i = 0; i < a->key_dim; i++) {
            float by = update == LLMC_UPDATE_DELTA ? x->key[i] * x->decay[i] : x->erase[i];
            EACH seen[j] = vf_fma(vf_all(by), LOAD(s + i * stride, j), seen[j]);
        }
    }
    for (int64_t i = 0; i < a->key_dim; i++) {
        vf decay = vf_all(x->decay[i]), amount = vf_all(x->amount[i]), query = vf_all(x->query[i]);
        vf write = update == LLMC_UPDATE_ADD ? vf_zero() : vf_all(x->write[i]);
        EACH {
            vf now = LOAD(s + i * stride, j) * decay;
            if (update != LLMC_UPDATE_ADD) now = vf_fma(write, seen[j], now);
            now = vf_fma(amount, value[j], now);
            STORE(s + i * stride, j, now);
            read[j] = vf_fma(query, now, read[j]);
        }
    }
    EACH STORE(y, j, vf_fma(vf_all(skip), value[j], read[j]));
#undef EACH
#undef COUNT
#undef LOAD
#undef STORE
}

#define STEP_VALUES(N, left)                                                                                         \
    switch (a->update) {                                                                                             \
    case LLMC_UPDATE_ADD: step_values(N, LLMC_UPDATE_ADD, a, x, s, stride, v, y, skip, left); break;                 \
    case LLMC_UPDATE_DELTA: step_values(N, LLMC_UPDATE_DELTA, a, x, s, stride, v, y, skip, left); break;             \
    default: step_values(N, LLMC_UPDATE_ERASE_WRITE, a, x, s, stride, v, y, skip, left); break;                      \
    }

/* One token on `count` values of a head. */
static void step_head(const llmc_scan *a, const token_keys *x, float *s, int64_t stride, const float *v, float *y,
                      float skip, int64_t count) {
    for (; count >= WIDE * LLMC_LANES; count -= WIDE * LLMC_LANES) {
        STEP_VALUES(WIDE, LLMC_LANES)
        s += WIDE * LLMC_LANES, v += WIDE * LLMC_LANES, y += WIDE * LLMC_LANES;
    }
    for (; count >= LLMC_LANES; count -= LLMC_LANES) {
        STEP_VALUES(1, LLMC_LANES)
        s += LLMC_LANES, v += LLMC_LANES, y += LLMC_LANES;
    }
    if (count) STEP_VALUES(1, (int)count)
}

/* `count` values of one head from `first` on, through all tokens. */
static void run_values(const llmc_scan *a, float *scratch, int64_t b, int64_t head, int64_t first, int64_t count) {
    int64_t size = padded(a->key_dim), stride = a->value_dim;
    float *rate = scratch, *s = rate + size + KEY_ROWS * size;
    token_keys keys = keys_in(rate + size, size);
    if (a->state) {
        s = a->state + ((b * a->heads + head) * a->key_dim) * a->value_dim + first;
    } else {
        memset(s, 0, a->key_dim * count * sizeof(float));
        stride = count;
    }
    if (a->decay_per == LLMC_DECAY_HEAD || a->decay_per == LLMC_DECAY_STATE) constant_rate(a, head, rate);
    for (int64_t row = b * a->tokens; row < (b + 1) * a->tokens; row++) {
        float *y = a->out + row * a->heads * a->value_dim + head * a->value_dim + first;
        if (a->position[row] < 0) {
            memset(y, 0, count * sizeof(float));
            continue;
        }
        find_keys(a, row, head, rate, &keys);
        step_head(a, &keys, s, stride, head_of(a->v, row, head, a->value_dim) + first, y, a->skip ? a->skip[head] : 0, count);
    }
}

/* --- keys side by side -------------------------------------------------------------------------------------------- */

/* One token on one value of a head: s [padded key_dim] is its column of the state. Returns what is read. */
LLMC_INLINE float step_keys(int update, const token_keys *x, float *s, int64_t size, float value) {
    vf v = vf_all(value), read = vf_zero(), seen = vf_zero();
    if (update != LLMC_UPDATE_ADD) {
        for (int64_t i = 0; i < size; i += LLMC_LANES) {
            vf by = update == LLMC_UPDATE_DELTA ? vf_load(x->key + i) * vf_load(x->decay + i) : vf_load(x->erase + i);
            seen = vf_fma(by, vf_load(s + i), seen);
        }
        seen = vf_all(vf_sum(seen));
    }
    for (int64_t i = 0; i < size; i += LLMC_LANES) {
        vf now = vf_load(s + i) * vf_load(x->decay + i);
        if (update != LLMC_UPDATE_ADD) now = vf_fma(vf_load(x->write + i), seen, now);
        now = vf_fma(vf_load(x->amount + i), v, now);
        vf_store(s + i, now);
        read = vf_fma(vf_load(x->query + i), now, read);
    }
    return vf_sum(read);
}

/* Between the state [key_dim, value_dim] of a head and its copy [value_dim, padded key_dim]. */
static void copy_state(const llmc_scan *a, float *state, float *copy, int64_t size, int is_back) {
    for (int64_t i = 0; i < a->key_dim; i++)
        for (int64_t j = 0; j < a->value_dim; j++) {
            if (is_back) state[i * a->value_dim + j] = copy[j * size + i];
            else copy[j * size + i] = state[i * a->value_dim + j];
        }
}

/* Heads `first` to `last` of a row of the batch, through all tokens. */
static void run_keys(const llmc_scan *a, float *scratch, int64_t b, int64_t first, int64_t last) {
    int64_t size = padded(a->key_dim), width = a->value_dim * size;
    token_keys keys = keys_in(scratch, size);
    float *rates = scratch + KEY_ROWS * size, *copies = rates + (last - first) * size;
    memset(copies, 0, (last - first) * width * sizeof(float));
    for (int64_t h = first; h < last; h++) {
        if (a->decay_per == LLMC_DECAY_HEAD || a->decay_per == LLMC_DECAY_STATE) constant_rate(a, h, rates + (h - first) * size);
        if (a->state)
            copy_state(a, a->state + (b * a->heads + h) * a->key_dim * a->value_dim, copies + (h - first) * width, size, 0);
    }
    for (int64_t row = b * a->tokens; row < (b + 1) * a->tokens; row++) {
        float *out = a->out + row * a->heads * a->value_dim;
        if (a->position[row] < 0) {
            memset(out + first * a->value_dim, 0, (last - first) * a->value_dim * sizeof(float));
            continue;
        }
        for (int64_t h = first; h < last; h++) {
            find_keys(a, row, h, rates + (h - first) * size, &keys);
            for (int64_t j = 0; j < a->value_dim; j++) {
                float value = head_of(a->v, row, h, a->value_dim)[j], *s = copies + (h - first) * width + j * size, read;
                switch (a->update) {
                case LLMC_UPDATE_ADD: read = step_keys(LLMC_UPDATE_ADD, &keys, s, size, value); break;
                case LLMC_UPDATE_DELTA: read = step_keys(LLMC_UPDATE_DELTA, &keys, s, size, value); break;
                default: read = step_keys(LLMC_UPDATE_ERASE_WRITE, &keys, s, size, value); break;
                }
                out[h * a->value_dim + j] = read + (a->skip ? a->skip[h] * value : 0);
            }
        }
    }
    if (!a->state) return;
    for (int64_t h = first; h < last; h++)
        copy_state(a, a->state + (b * a->heads + h) * a->key_dim * a->value_dim, copies + (h - first) * width, size, 1);
}

/* --- how the work is cut ------------------------------------------------------------------------------------------ */

#define CHUNKS_A_THREAD 4
#define CHANNEL_FLOATS (6 << 10)
#define COPY_FLOATS (1 << 20) /* of copies in a chunk, at most (but one head always) */

static int64_t heads_at_once(const llmc_scan *a, int threads) {
    int64_t even = (a->batch * a->heads + CHUNKS_A_THREAD * threads - 1) / (CHUNKS_A_THREAD * threads);
    int64_t most = COPY_FLOATS / ((a->value_dim + 1) * padded(a->key_dim)) + 1;
    int64_t heads = smaller(smaller(even, most), a->heads);
    return heads < 1 ? 1 : heads;
}

static int64_t values_at_once(const llmc_scan *a, int threads) {
    int64_t count = a->value_dim, least = WIDE * LLMC_LANES;
    while (count > least && a->batch * a->heads * ((a->value_dim + count - 1) / count) < CHUNKS_A_THREAD * threads)
        count = padded((count + 1) / 2) < least ? least : padded((count + 1) / 2);
    return count;
}

/* Heads that run together: whole vectors, and no more than a thread's first cache holds of their states. */
static int64_t channels_at_once(const llmc_scan *a, int threads) {
    int64_t most = CHANNEL_FLOATS / (2 * a->key_dim) / LLMC_LANES * LLMC_LANES;
    int64_t heads = smaller(padded(heads_at_once(a, threads)), most);
    return heads < LLMC_LANES ? LLMC_LANES : heads;
}

/* Heads of one key that run together, so that their scores are made once: as many as leave each thread some units. */
static int64_t key_sharers(const llmc_scan *a, int threads) {
    int64_t even = a->batch * a->heads / (CHUNKS_A_THREAD * threads);
    return even < 1 ? 1 : smaller(even, a->heads / a->key_heads);
}

void llmc_run_scan(llmc_thread *t, const llmc_scan *a) {
    if (takes_channels(a)) {
        int64_t heads = channels_at_once(a, t->count), groups = (a->heads + heads - 1) / heads;
        LLMC_FOR(t, chunk, a->batch * groups) {
            int64_t first = chunk % groups * heads;
            run_channels(a, t->scratch, chunk / groups, first, smaller(first + heads, a->heads));
        }
        return;
    }
    if (a->value_dim < LLMC_LANES / 2) {
        int64_t heads = heads_at_once(a, t->count), groups = (a->heads + heads - 1) / heads;
        LLMC_FOR(t, chunk, a->batch * groups) {
            int64_t first = chunk % groups * heads;
            run_keys(a, t->scratch, chunk / groups, first, smaller(first + heads, a->heads));
        }
        return;
    }
    int64_t count = values_at_once(a, t->count), parts = (a->value_dim + count - 1) / count;
    if (takes_chunks(a)) {
        int64_t shared = a->heads / a->key_heads, heads = parts > 1 ? 1 : key_sharers(a, t->count);
        int64_t units = (shared + heads - 1) / heads;
        LLMC_FOR(t, chunk, a->batch * a->key_heads * units * parts) {
            int64_t unit = chunk / parts, first = chunk % parts * count, group = unit / units;
            int64_t head = group % a->key_heads * shared, from = unit % units * heads;
            run_chunks(a, t->scratch, group / a->key_heads, head + from, head + smaller(from + heads, shared), first,
                       smaller(count, a->value_dim - first));
        }
        return;
    }
    LLMC_FOR(t, chunk, a->batch * a->heads * parts) {
        int64_t head = chunk / parts, first = chunk % parts * count;
        run_values(a, t->scratch, head / a->heads, head % a->heads, first, smaller(count, a->value_dim - first));
    }
}

size_t llmc_scan_scratch(const llmc_scan *a, int threads) {
    int64_t size = padded(a->key_dim), own = KEY_ROWS * size;
    int64_t wide = own + size + a->key_dim * a->value_dim;
    int64_t narrow = own + heads_at_once(a, threads) * size * (1 + a->value_dim);
    return (size_t)(wide > narrow ? wide : narrow) * sizeof(float);
}
