"""Linear kernels in C as functions of NumPy arrays: a team of threads, guarded buffers, and one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from .native import KERNELS, library, pointer

FORMATS = ("fp32", "bf16", "fp16", "int8", "int4_32", "int4_128", "ternary")
ACTIVATIONS = ("identity", "silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "tanh")
GUARD = 64
"""Elements around every output that must stay NaN."""
SOURCES = (KERNELS / "native" / "team.c", *sorted((KERNELS / "linear" / "native").glob("*.c")))
DRIVER = """
#include "linear.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
typedef struct {
    const llmc_matrix *m;
    const float *x;
    float *y;
    int64_t rows;
    void *workspace;
    llmc_best *best;
    int times;
} job;
static void work(llmc_thread *t, void *argument) {
    const job *j = argument;
    for (int i = 0; i < j->times; i++) {
        if (j->best) llmc_linear_argmax(t, j->m, j->x, j->y, j->best);
        else llmc_linear(t, j->m, j->x, j->y, j->rows, j->workspace, i > 0);
    }
}
llmc_best run(llmc_team *team, int threads, job *j) {
    llmc_team_run(team, work, j);
    return j->best ? llmc_best_of(j->m, j->best, threads) : (llmc_best){0, 0};
}

/* y = the layer of itself, CHAINED times, while a signal stops one thread or another for a while */
enum { CHAINED = 60, MOST = 8 };
static pthread_t known[MOST];
static atomic_int is_known[MOST], is_over;
static void pause_long(int signal) { (void)signal; usleep(300); }
static void chained(llmc_thread *t, void *argument) {
    const job *j = argument;
    known[t->id] = pthread_self();
    atomic_store(&is_known[t->id], 1);
    int64_t size = j->rows * j->m->N;
    for (int i = 0; i < CHAINED; i++)
        llmc_linear(t, j->m, j->y + i % 2 * size, j->y + (i + 1) % 2 * size, j->rows, j->workspace, 0);
    atomic_store(&is_known[t->id], 0);
}
static void *interrupt(void *nothing) {
    for (unsigned i = 0; !atomic_load(&is_over); i = i * 1664525u + 1013904223u) {
        int id = (int)(i >> 20) % MOST;
        if (atomic_load(&is_known[id])) pthread_kill(known[id], SIGUSR1);
        usleep(50);
    }
    return nothing;
}
void chain(llmc_team *team, job *j, int is_interrupted) {
    struct sigaction action = {.sa_handler = pause_long, .sa_flags = SA_RESTART}, old;
    size_t bytes = (size_t)(j->rows * j->m->N) * sizeof *j->y;
    pthread_t other;
    sigaction(SIGUSR1, &action, &old);
    atomic_store(&is_over, 0);
    if (is_interrupted) pthread_create(&other, 0, interrupt, 0);
    for (int i = 0; i < j->times; i++) {
        memcpy(j->y, j->x, bytes);
        llmc_team_run(team, chained, j);
    }
    atomic_store(&is_over, 1);
    if (is_interrupted) pthread_join(other, 0);
    sigaction(SIGUSR1, &old, 0);
}
"""


class Matrix(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("N", ctypes.c_int64),
        ("K", ctypes.c_int64),
        ("format", ctypes.c_int),
        ("activation", ctypes.c_int),
        ("is_gated", ctypes.c_int),
        ("parts", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("step", ctypes.c_int64),
    )


class Job(ctypes.Structure):
    _fields_ = (
        ("m", ctypes.POINTER(Matrix)),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("best", ctypes.c_void_p),
        ("times", ctypes.c_int),
    )


class Best(ctypes.Structure):
    _fields_ = (("value", ctypes.c_float), ("index", ctypes.c_int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One linear layer: `weight` is what the kernel reads, `N` the width of y."""

    weight: NDArray[np.generic]
    bias: NDArray[np.float32] | None
    N: int
    K: int
    format: str
    activation: str = "identity"
    is_gated: bool = False
    parts: tuple[NDArray[np.generic], ...] = ()
    """Where the rows lie, if not one after the other in `weight`."""
    ends: NDArray[np.int64] | None = None

    def matrix(self) -> Matrix:
        pointers = (ctypes.c_void_p * len(self.parts))(*map(pointer, self.parts)) if self.parts else None
        found = Matrix(
            pointer(self.parts[0] if self.parts else self.weight),
            pointer(self.bias),
            self.N,
            self.K,
            FORMATS.index(self.format),
            ACTIVATIONS.index(self.activation),
            self.is_gated,
            None if pointers is None else ctypes.addressof(pointers),
            pointer(self.ends),
        )
        found.kept = pointers  # type: ignore[attr-defined]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The shape of a layer, what it does beside its product, and how it is run."""

    N: int
    K: int
    rows: int = 1
    seed: int = 0
    threads: int = 2
    has_bias: bool = False
    is_gated: bool = False
    activation: str = "identity"

    @property
    def features(self) -> int:
        """Rows of the weight."""
        return self.N * (1 + self.is_gated)

    def layer(self, weight: NDArray[np.generic], bias: NDArray[np.float32] | None, format: str) -> Layer:
        return Layer(
            weight=weight,
            bias=bias,
            N=self.N,
            K=self.K,
            format=format,
            activation=self.activation,
            is_gated=self.is_gated,
        )


def cases(widths: Sequence[int]) -> st.SearchStrategy[Case]:
    """Any combination; a batch of no rows, small ones and large ones."""
    return st.builds(
        Case,
        N=st.sampled_from(widths),
        K=st.sampled_from(widths),
        rows=st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 25, 64]),
        seed=st.integers(0, 99),
        threads=st.integers(1, 3),
        has_bias=st.booleans(),
        is_gated=st.booleans(),
        activation=st.sampled_from(ACTIVATIONS),
    )


def build(isa: str) -> ctypes.CDLL:
    """The kernels for one instruction set."""
    module = library(isa, SOURCES, DRIVER)
    module.llmc_team_new.restype = ctypes.c_void_p
    module.llmc_team_new.argtypes = (ctypes.c_int, ctypes.c_size_t)
    module.llmc_team_free.argtypes = (ctypes.c_void_p,)
    module.llmc_linear_workspace.restype = ctypes.c_size_t
    module.llmc_linear_workspace.argtypes = (ctypes.c_int64, ctypes.c_int64)
    module.llmc_linear_scratch.restype = ctypes.c_size_t
    module.llmc_linear_scratch.argtypes = (ctypes.c_int64,)
    module.chain.restype = None
    module.chain.argtypes = (ctypes.c_void_p, ctypes.POINTER(Job), ctypes.c_int)
    module.run.restype = Best
    module.run.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Job))
    return module


def aligned(size: int) -> NDArray[np.uint8]:
    """Uninitialised memory at a multiple of 64 bytes; poisoned with NaN."""
    memory = np.full(size + 128, 0xFF, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def run(isa: str, layer: Layer, x: NDArray[np.float32], *, threads: int = 2, times: int = 1) -> NDArray[np.float32]:
    """y `[rows, N]`; fails where the kernel wrote outside y. `times` above 1 repeats with the prepared input."""
    module = build(isa)
    rows = len(x)
    memory = np.full(rows * layer.N + 2 * GUARD, np.nan, np.float32)
    y = memory[GUARD : GUARD + rows * layer.N]
    matrix, workspace = layer.matrix(), aligned(module.llmc_linear_workspace(rows, layer.K))
    team = module.llmc_team_new(threads, module.llmc_linear_scratch(layer.K))
    job = Job(ctypes.pointer(matrix), pointer(x), pointer(y), rows, pointer(workspace), None, times)
    module.run(team, threads, ctypes.byref(job))
    module.llmc_team_free(team)
    assert np.isnan(memory[:GUARD]).all()
    assert np.isnan(memory[GUARD + y.size :]).all()
    return y.reshape(rows, layer.N)


def chain(
    layer: Layer, x: NDArray[np.float32], *, threads: int, times: int, is_interrupted: bool
) -> NDArray[np.float32]:
    """The layer of itself 60 times, from x `[rows, N]` on, K being N; `times` times, of which the last is given."""
    module, y = build("native"), np.full((2, *x.shape), np.nan, np.float32)
    matrix, workspace = layer.matrix(), aligned(module.llmc_linear_workspace(len(x), layer.K))
    team = module.llmc_team_new(threads, module.llmc_linear_scratch(layer.K))
    job = Job(ctypes.pointer(matrix), pointer(x), pointer(y), len(x), pointer(workspace), None, times)
    module.chain(team, ctypes.byref(job), int(is_interrupted))
    module.llmc_team_free(team)
    return y[0]


def argmax(isa: str, layer: Layer, x: NDArray[np.float32], *, threads: int = 2) -> tuple[int, NDArray[np.float32]]:
    """The number of the largest output of one row, and all outputs; twice, with and without y."""
    module = build(isa)
    y, best, matrix = np.full(layer.N, np.nan, np.float32), aligned(1024 * 8), layer.matrix()
    team = module.llmc_team_new(threads, module.llmc_linear_scratch(layer.K))
    found: list[int] = []
    for out in (y, None):
        job = Job(ctypes.pointer(matrix), pointer(x), pointer(out), 1, None, pointer(best), 1)
        found.append(module.run(team, threads, ctypes.byref(job)).index)
    module.llmc_team_free(team)
    assert found[0] == found[1]
    return found[0], y


def pack(
    isa: str, format: str, weight: NDArray[np.float32], *, is_gated: bool = False, scale: float = 0.0
) -> NDArray[np.uint8]:
    """The packed form of `[N, K]` float32, or of the pair `[2N, K]`."""
    module = build(isa)
    rows, K = weight.shape
    N, number = rows // (1 + is_gated), ctypes.c_int(FORMATS.index(format))
    module.llmc_pack_bytes.restype = module.llmc_pack_groups.restype = ctypes.c_int64
    size = module.llmc_pack_bytes(number, ctypes.c_int64(N), ctypes.c_int64(K), ctypes.c_int(is_gated))
    groups = module.llmc_pack_groups(ctypes.c_int64(N), ctypes.c_int(is_gated))
    memory = aligned(size + 64)
    for first, end in ((0, groups // 2), (groups // 2, groups)):
        module.llmc_pack(
            number,
            pointer(weight),
            ctypes.c_int(0),
            ctypes.c_int64(N),
            ctypes.c_int64(K),
            ctypes.c_int(is_gated),
            ctypes.c_float(scale),
            ctypes.c_int64(first),
            ctypes.c_int64(end),
            pointer(memory),
        )
    assert (memory[size:] == 0xFF).all()
    return memory[:size]


def pack_whole(
    isa: str, format: str, q: NDArray[np.int8], scale: NDArray[np.float32], *, is_gated: bool = False
) -> NDArray[np.uint8]:
    """The packed form of whole numbers `[N, K]` with scales `[N]` or `[1]` (pairs: `[2N]`)."""
    module = build(isa)
    rows, K = q.shape
    sizes = ctypes.c_int64(rows // (1 + is_gated)), ctypes.c_int64(K), ctypes.c_int(is_gated)
    number = ctypes.c_int(FORMATS.index(format))
    module.llmc_pack_bytes.restype = module.llmc_pack_groups.restype = ctypes.c_int64
    memory = aligned(module.llmc_pack_bytes(number, *sizes))
    groups = ctypes.c_int64(module.llmc_pack_groups(sizes[0], sizes[2]))
    by_row = ctypes.c_int(len(scale) > 1)
    module.llmc_pack_whole(
        number, pointer(q), pointer(scale), by_row, *sizes, ctypes.c_int64(0), groups, pointer(memory)
    )
    return memory


def unpack(isa: str, layer: Layer) -> NDArray[np.float32]:
    """The weight of a packed layer as the kernels multiply with it."""
    out = np.full((layer.N * (1 + layer.is_gated), layer.K), np.nan, np.float32)
    sizes = ctypes.c_int64(layer.N), ctypes.c_int64(layer.K), ctypes.c_int(layer.is_gated)
    build(isa).llmc_unpack(ctypes.c_int(FORMATS.index(layer.format)), pointer(layer.weight), *sizes, pointer(out))
    return out


def mean_magnitude(isa: str, weight: NDArray[np.float32]) -> float:
    module = build(isa)
    module.llmc_mean_magnitude.restype = ctypes.c_float
    return module.llmc_mean_magnitude(pointer(weight), ctypes.c_int(0), ctypes.c_int64(weight.size))
