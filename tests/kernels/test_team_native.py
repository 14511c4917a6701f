"""Threads that stop in the middle of a chunk: the others do it again, go on, and the results are the same."""

from __future__ import annotations

import numpy as np
import pytest

from .native import KERNELS, library, pointer
from .native_linear import Layer, chain

STUCK = """
#include "team.h"
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
enum { REGIONS = 50, CHUNKS = 24 };
static atomic_int reached, has_stuck, was_freed;
static int64_t results[REGIONS * CHUNKS], written[REGIONS * CHUNKS];
static void work(llmc_thread *t, void *argument) {
    int who = *(int *)argument;
    for (int region = 0; region < REGIONS; region++) {
        LLMC_FOR_AGAIN(t, chunk, CHUNKS, 1) {
            int64_t before = region ? results[(region - 1) * CHUNKS + (chunk + 7) % CHUNKS] : 1;
            if (t->id == who && region > 2 && !atomic_exchange(&has_stuck, 1)) {
                for (int i = 0; i < 20000 && atomic_load(&reached) < REGIONS; i++) usleep(500);
                was_freed = atomic_load(&reached) == REGIONS;
            } else usleep(20);
            if (!llmc_may_write(t)) continue;
            results[region * CHUNKS + chunk] = (before * 3 + chunk) & 0xFFFF;
            written[region * CHUNKS + chunk]++;
        }
        if (t->id != who && reached < region + 1) reached = region + 1;
    }
}
int run(int threads, int who, int64_t *out) {
    llmc_team *team = llmc_team_new(threads, 4096);
    has_stuck = 0;
    for (int tries = 0; tries < 100 && !has_stuck; tries++) { /* it may come too late to hold a chunk */
        reached = was_freed = 0;
        memset(written, 0, sizeof written);
        llmc_team_run(team, work, &who);
    }
    llmc_team_free(team);
    for (int i = 0; i < REGIONS * CHUNKS; i++) if (written[i] != 1) return -1;
    memcpy(out, results + (REGIONS - 1) * CHUNKS, CHUNKS * sizeof *out);
    return was_freed;
}
"""


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("who", [0, 1])
def test_a_thread_that_is_stuck_in_a_chunk_stops_nobody(threads: int, who: int) -> None:
    module = library("native", (KERNELS / "native" / "team.c",), STUCK)
    found, expected = np.zeros(24, np.int64), np.ones(24, np.int64)
    assert module.run(threads, who, pointer(found)) == 1, "not freed by the others, or a chunk was not written once"
    for _ in range(50):
        expected = (np.roll(expected, -7) * 3 + np.arange(24)) & 0xFFFF
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("count", [1, 3])
def test_layers_are_the_same_when_their_threads_are_interrupted(count: int) -> None:
    size, generator = 256, np.random.default_rng(0)
    weight = (generator.standard_normal((size, size)) / size**0.5).astype(np.float32)
    layer = Layer(weight=weight, bias=None, N=size, K=size, format="fp32")
    rows = generator.standard_normal((count, size)).astype(np.float32)
    expected = chain(layer, rows, threads=1, times=1, is_interrupted=False)
    assert np.isfinite(expected).all()
    for threads in (2, 3):
        found = chain(layer, rows, threads=threads, times=20, is_interrupted=True)
        assert np.array_equal(found, expected)
