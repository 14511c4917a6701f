/* The scan in order of time. Heads with wide values run with values side by side in vectors, a key at a time, in the
 * state itself; heads with few values with keys side by side, in a copy that lies values first; heads with one value
 * (S6) as `channels.h` has it. Many tokens are taken in chunks: of heads that only add and forget by one factor as in
 * `chunks.h`, of others with large states as in `delta.h`. */
#include "native.h"

#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "channels.h"
#include "chunks.h"
#include "delta.h"
#include "keys.h"

#define WIDE 4 /* vectors of values taken at once */

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

static int64_t values_at_once(const llmc_scan *a, int threads, int64_t least) {
    int64_t count = a->value_dim;
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

static void run_scan(llmc_thread *t, const llmc_scan *a) {
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
    int is_delta = takes_delta(a);
    int64_t count = values_at_once(a, t->count, is_delta ? STRIP : WIDE * LLMC_LANES), parts = (a->value_dim + count - 1) / count;
    if (is_delta) {
        int64_t heads = parts > 1 ? 1 : smaller(heads_at_once(a, t->count), MOST_HEADS), units = (a->heads + heads - 1) / heads;
        LLMC_FOR(t, chunk, a->batch * units * parts) {
            int64_t unit = chunk / parts, first = chunk % parts * count, head = unit % units * heads;
            run_delta(a, t->scratch, unit / units, head, smaller(head + heads, a->heads), first, smaller(count, a->value_dim - first));
        }
        return;
    }
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

/* Products of decays pass through numbers below 1e-38 on their way to 0, and each costs 100 cycles unless it counts as 0. */
void llmc_run_scan(llmc_thread *t, const llmc_scan *a) {
#if defined(__SSE__)
    unsigned was = _mm_getcsr();
    _mm_setcsr(was | 0x8040); /* results and operands */
    run_scan(t, a);
    _mm_setcsr(was);
#else
    run_scan(t, a);
#endif
}
