/* How the team works: one word per thread holds its share of the present region, one word counts finished chunks.
 *
 * Regions are numbered. A share whose number is old is filled by whoever needs it first, with the same bounds, so a
 * thread that sleeps does not stop its chunks from being taken. Waiting spins for a short time, then sleeps (futex).
 *
 * In a repeatable region each thread says which chunk it holds. One that waits longer than a chunk takes does that chunk
 * too, from the same inputs; a compare-and-swap of the holder's word decides which of them writes. As the region cannot
 * be over before that, its inputs are whole for whoever wins, and the other one throws its results away.
 */
#define _GNU_SOURCE
#include "team.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#else
#include <sched.h>
#endif

#define SPINS_IN_REGION 4000
#define SPINS_BETWEEN_JOBS 20000
#define SPINS_PER_LOOK 16       /* at the clock */
#define NANOSECONDS_TO_REPEAT 40000 /* a few times what a chunk takes, a small part of what a thread sleeps */

typedef struct {
    _Alignas(64) _Atomic uint64_t word; /* region: 24 bits, next: 20, end: 20 */
    _Atomic uint64_t held; /* of a repeatable region: its number: 32 bits, chunk + 1: 31, whether it is decided who writes */
} share;

struct llmc_team {
    int count;
    share shares[LLMC_MAX_THREADS];
    _Alignas(64) _Atomic uint64_t done; /* region: 32 bits, finished chunks: 32 */
    _Alignas(64) _Atomic int sleepers;  /* threads that sleep until a region is over */
    _Atomic uint32_t wakings;           /* of them: counts of chunks recur from region to region, this does not */
    _Alignas(64) _Atomic uint32_t job;  /* counts jobs; odd while one is open */
    _Atomic uint32_t inside;            /* workers that are in the open job */
    _Atomic int idle;                   /* workers that sleep until there is a job */
    _Atomic int is_stopping;
    void (*function)(llmc_thread *, void *);
    void *argument;
    uint32_t first_region;
    llmc_thread threads[LLMC_MAX_THREADS];
    pthread_t handles[LLMC_MAX_THREADS];
};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleeps while *word is `seen`; may wake early. */
static void sleep_while(_Atomic uint32_t *word, uint32_t seen) {
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
    (void)word, (void)seen;
    sched_yield();
#endif
}

static void wake_all(_Atomic uint32_t *word) {
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

static inline uint64_t pack_share(uint32_t region, uint64_t next, uint64_t end) {
    return (uint64_t)(region & 0xFFFFFF) << 40 | next << 20 | end;
}

/* How far `share` is ahead of `region`, in regions: negative where it is old. */
static inline int32_t ahead(uint64_t word, uint32_t region) {
    return (int32_t)(((uint32_t)(word >> 40) - region) << 8) >> 8;
}

enum { EMPTY = -1, OVER = -2 };

/* Takes a chunk from thread `owner`'s share: from its front, or from its back when it is another's. */
static int64_t take(llmc_thread *t, int owner) {
    _Atomic uint64_t *word = &t->team->shares[owner].word;
    uint64_t found = atomic_load(word);
    for (;;) {
        int32_t lead = ahead(found, t->region);
        if (lead > 0) return OVER;
        uint64_t next, end;
        if (lead < 0) {
            next = t->chunks * owner / t->count;
            end = t->chunks * (owner + 1) / t->count;
        } else {
            next = found >> 20 & 0xFFFFF;
            end = found & 0xFFFFF;
        }
        if (next == end) return EMPTY;
        int is_own = owner == t->id;
        uint64_t rest = is_own ? pack_share(t->region, next + 1, end) : pack_share(t->region, next, end - 1);
        if (atomic_compare_exchange_weak(word, &found, rest)) return (int64_t)(is_own ? next : end - 1);
    }
}

static inline int is_over(const llmc_thread *t, uint64_t done) {
    int32_t lead = (int32_t)((uint32_t)(done >> 32) - t->region);
    return lead > 0 || (lead == 0 && (uint32_t)done == (uint32_t)t->chunks);
}

static void count_done(llmc_thread *t) {
    llmc_team *team = t->team;
    uint64_t found = atomic_load(&team->done), next;
    do {
        int is_first = (uint32_t)(found >> 32) != t->region;
        next = is_first ? (uint64_t)t->region << 32 | 1 : found + 1;
    } while (!atomic_compare_exchange_weak(&team->done, &found, next));
    if (!is_over(t, next) || !atomic_load(&team->sleepers)) return;
    atomic_fetch_add(&team->wakings, 1);
    wake_all(&team->wakings);
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A chunk that another thread holds and has not written, or EMPTY. */
static int64_t take_again(llmc_thread *t) {
    for (int i = 1; i < t->count; i++) {
        int other = t->id + i < t->count ? t->id + i : t->id + i - t->count;
        uint64_t held = atomic_load(&t->team->shares[other].held);
        if ((uint32_t)(held >> 32) != t->region || !(uint32_t)held || (held & 1)) continue;
        t->holder = other;
        t->held = held;
        return (int64_t)((uint32_t)held >> 1) - 1;
    }
    return EMPTY;
}

/* Returns when the region is over, or with a chunk to do again. */
static int64_t wait_until_over(llmc_thread *t) {
    llmc_team *team = t->team;
    int64_t started = t->is_repeatable ? nanoseconds() : 0;
    for (int spin = 0; spin < SPINS_IN_REGION; spin++) {
        if (is_over(t, atomic_load(&team->done))) return OVER;
        if (t->is_repeatable && spin % SPINS_PER_LOOK == 0 && nanoseconds() - started > NANOSECONDS_TO_REPEAT) {
            int64_t chunk = take_again(t);
            if (chunk >= 0) return chunk;
        }
        pause_briefly();
    }
    int64_t chunk = t->is_repeatable ? take_again(t) : EMPTY;
    if (chunk >= 0) return chunk;
    atomic_fetch_add(&team->sleepers, 1);
    for (;;) {
        uint32_t seen = atomic_load(&team->wakings);
        if (is_over(t, atomic_load(&team->done))) break;
        sleep_while(&team->wakings, seen);
    }
    atomic_fetch_sub(&team->sleepers, 1);
    return OVER;
}

void llmc_enter(llmc_thread *t, int64_t chunks) {
    t->region++;
    t->taken = 0;
    t->chunks = chunks;
    t->is_holding = 0;
    t->is_repeatable = 0;
}

static int64_t hold(llmc_thread *t, int64_t chunk) {
    t->is_holding = 1;
    t->is_written = !t->is_repeatable;
    return chunk;
}

int llmc_may_write(llmc_thread *t) {
    if (t->count == 1 || !t->is_repeatable) return 1;
    uint64_t held = t->held;
    t->is_written = atomic_compare_exchange_strong(&t->team->shares[t->holder].held, &held, held | 1);
    return t->is_written;
}

int64_t llmc_next(llmc_thread *t) {
    if (t->count == 1) return t->taken < t->chunks ? t->taken++ : -1; /* nobody to agree with */
    if (t->is_holding && t->is_written) count_done(t);
    t->is_holding = 0;
    if (t->chunks <= 0) return -1;
    for (int i = 0; i < t->count; i++) {
        int owner = t->id + i < t->count ? t->id + i : t->id + i - t->count;
        int64_t chunk = take(t, owner);
        if (chunk == OVER) return -1;
        if (chunk < 0) continue;
        if (t->is_repeatable) {
            t->holder = t->id;
            t->held = (uint64_t)t->region << 32 | (uint64_t)(chunk + 1) << 1;
            atomic_store_explicit(&t->team->shares[t->id].held, t->held, memory_order_release);
        }
        return hold(t, chunk);
    }
    int64_t again = wait_until_over(t);
    return again < 0 ? -1 : hold(t, again);
}

/* --- jobs ------------------------------------------------------------------------------------------------------- */

static void *work(void *argument) {
    llmc_thread *t = argument;
    llmc_team *team = t->team;
    uint32_t last = 0;
    for (;;) {
        uint32_t job = atomic_load(&team->job);
        for (int spin = 0; spin < SPINS_BETWEEN_JOBS && (job == last || !(job & 1)); spin++) {
            if (atomic_load(&team->is_stopping)) return NULL;
            pause_briefly();
            job = atomic_load(&team->job);
        }
        if (job == last || !(job & 1)) {
            atomic_fetch_add(&team->idle, 1);
            while (((job = atomic_load(&team->job)) == last || !(job & 1)) && !atomic_load(&team->is_stopping))
                sleep_while(&team->job, job);
            atomic_fetch_sub(&team->idle, 1);
        }
        if (atomic_load(&team->is_stopping)) return NULL;
        last = job;
        atomic_fetch_add(&team->inside, 1);
        if (atomic_load(&team->job) == job) { /* it is still open, and cannot close before this thread leaves */
            t->region = team->first_region;
            team->function(t, team->argument);
        }
        atomic_fetch_sub(&team->inside, 1);
    }
}

void llmc_team_run(llmc_team *team, void (*function)(llmc_thread *, void *), void *argument) {
    llmc_thread *t = &team->threads[0];
    team->function = function;
    team->argument = argument;
    team->first_region = t->region;
    atomic_fetch_add(&team->job, 1);
    if (atomic_load(&team->idle)) wake_all(&team->job);
    function(t, argument);
    atomic_fetch_add(&team->job, 1);
    for (int spin = 0; atomic_load(&team->inside); spin++) {
        if (spin < SPINS_IN_REGION) pause_briefly();
        else usleep(20);
    }
}

static void *scratch_new(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

llmc_team *llmc_team_new(int count, size_t scratch_bytes) {
    if (count < 1) count = 1;
    if (count > LLMC_MAX_THREADS) count = LLMC_MAX_THREADS;
    llmc_team *team = aligned_alloc(64, (sizeof *team + 63) / 64 * 64);
    if (!team) return NULL;
    memset(team, 0, sizeof *team);
    for (int id = 0; id < count; id++) {
        llmc_thread *t = &team->threads[id];
        *t = (llmc_thread){.team = team, .id = id, .scratch = scratch_new(scratch_bytes), .scratch_bytes = scratch_bytes};
        if (!t->scratch) break;
        if (id > 0 && pthread_create(&team->handles[id], NULL, work, t)) {
            munmap(t->scratch, scratch_bytes);
            t->scratch = NULL;
            break;
        }
        team->count++;
    }
    for (int id = 0; id < team->count; id++) team->threads[id].count = team->count;
    if (team->count == 0) {
        free(team);
        return NULL;
    }
    return team;
}

void llmc_team_free(llmc_team *team) {
    atomic_store(&team->is_stopping, 1);
    atomic_fetch_add(&team->job, 2);
    wake_all(&team->job);
    for (int id = 1; id < team->count; id++) pthread_join(team->handles[id], NULL);
    for (int id = 0; id < team->count; id++) munmap(team->threads[id].scratch, team->threads[id].scratch_bytes);
    free(team);
}
