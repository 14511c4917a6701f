/* A team of threads that all run one function and share the work of each parallel region in it, chunk by chunk.
 *
 * Every thread calls the same functions with the same arguments. A region's chunks are cut into one contiguous share
 * per thread; a thread takes chunks from the front of its own share, then from the back of others'. A region is over
 * when all its chunks are done, whoever did them: no thread waits for another to arrive, only for work to finish. A
 * thread that comes late finds the region over and goes on, so nothing that a later region reads may live in memory
 * of one thread, and whoever holds a chunk may rely on the inputs of its region.
 *
 *     LLMC_FOR(t, chunk, chunks) { ... }        every chunk once; after the loop all chunks are done
 *
 * Where a chunk is first computed into memory of its thread, another may do it again when that thread was scheduled
 * away, and whoever is first writes it:
 *
 *     LLMC_FOR_AGAIN(t, chunk, chunks, may) { ... if (llmc_may_write(t)) ... }
 *
 * A thread that is not allowed to write has lost its inputs, and what it computed of them: the region may be over.
 */
#ifndef LLMC_TEAM_H
#define LLMC_TEAM_H

#include <stddef.h>
#include <stdint.h>

#define LLMC_MAX_THREADS 256
#define LLMC_MAX_CHUNKS ((1 << 20) - 1)

typedef struct llmc_team llmc_team;

typedef struct {
    llmc_team *team;
    int id;             /* 0 is the caller of llmc_team_run */
    int count;          /* threads in the team */
    void *scratch;      /* this thread's own, 64-byte aligned, free to use inside a chunk */
    size_t scratch_bytes;
    uint32_t region;    /* the number of the region this thread is in */
    int64_t chunks;     /* of the region */
    int64_t taken;      /* chunks of the region, where this thread is alone */
    int is_holding;     /* whether a chunk was taken and is not yet counted as done */
    int is_repeatable;  /* whether chunks of the region may be done again */
    int is_written;     /* whether this thread may write the chunk that it took last */
    int holder;         /* the thread that first took it */
    uint64_t held;      /* and how that thread says so */
} llmc_thread;

/* Begins a region of `chunks` chunks, at most LLMC_MAX_CHUNKS. */
void llmc_enter(llmc_thread *t, int64_t chunks);

/* The next chunk for this thread, or -1 when all chunks of the region are done. */
int64_t llmc_next(llmc_thread *t);

#define LLMC_FOR(t, chunk, chunks) \
    llmc_enter(t, chunks);         \
    for (int64_t chunk; (chunk = llmc_next(t)) >= 0;)

/* As LLMC_FOR, where `may` is true of a region whose chunks ask before they write; else asking is always granted. */
#define LLMC_FOR_AGAIN(t, chunk, chunks, may) \
    llmc_enter(t, chunks);                    \
    (t)->is_repeatable = (may);               \
    for (int64_t chunk; (chunk = llmc_next(t)) >= 0;)

/* Whether this thread is the one to write the results of the chunk that it was given last. To be asked once a chunk. */
int llmc_may_write(llmc_thread *t);

/* A team of `count` threads, the caller among them. NULL where memory or threads are lacking. */
llmc_team *llmc_team_new(int count, size_t scratch_bytes);
void llmc_team_free(llmc_team *team);

/* Runs `function(thread, argument)` on every thread of the team that is free in time; returns when it is done. One
 * caller at a time. */
void llmc_team_run(llmc_team *team, void (*function)(llmc_thread *, void *), void *argument);

#endif
