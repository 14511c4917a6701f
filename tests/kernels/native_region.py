"""One call of a kernel in C by a team of threads: a function of a thread and a struct, on torch tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .native import KERNELS, library

ISAS = ("native", "avx2", "portable")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""In the order of `LLMC_MODEL_TYPE`."""
GUARD = 64
"""Elements around every output that must stay NaN."""


class Stream(ctypes.Structure):
    """`llmc_stream`: values and the floats of a row."""

    _fields_ = (("at", ctypes.c_void_p), ("stride", ctypes.c_int64))


def address(x: Tensor | None) -> int | None:
    """Where the elements of a contiguous tensor are; None for None."""
    if x is None:
        return None
    assert x.is_contiguous()
    return x.data_ptr()


def positions(batch: int, tokens: int) -> Tensor:
    """Positions with padding anywhere. -> `[B, T]` int64"""
    is_token = torch.rand(batch, tokens) > 0.2
    return torch.where(is_token, is_token.cumsum(1) - 1, -1)


def strided(x: Tensor) -> tuple[Tensor, int]:
    """The same rows with something between them, and the floats from row to row."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
    wide[..., : x.shape[-1]] = x
    return wide, x.shape[-1] + 3


class Output:
    """Memory for a result, poisoned with NaN, between guards."""

    def __init__(self, *shape: int) -> None:
        count = 1
        for size in shape:
            count *= size
        self._memory = torch.full((count + 2 * GUARD,), torch.nan)
        self.tensor = self._memory[GUARD : GUARD + count].view(shape)

    @property
    def address(self) -> int:
        return self.tensor.data_ptr()

    def check(self) -> Tensor:
        """The result; fails where something was written beside it."""
        assert self._memory[:GUARD].isnan().all()
        assert self._memory[GUARD + self.tensor.numel() :].isnan().all()
        return self.tensor


def run_region(
    isa: str,
    folder: str,
    function: str,
    argument: ctypes.Structure,
    *,
    header: str = "native.h",
    before: str = "",
    others: tuple[str, ...] = (),
    threads: int = 2,
    times: int = 1,
    scratch_bytes: int = 8 << 20,
) -> None:
    """`function(thread, &argument)` of `kernels/<folder>/<header>` on every thread, `times` in one run.

    `others` are more C files under `kernels/`, `before` is C that the function may be defined in.
    """
    path = KERNELS / folder / header
    sources = [KERNELS / "native" / "team.c", path.with_suffix(".c"), *(KERNELS / other for other in others)]
    driver = f"""#include "{path}"
{before}
static int times;
static void work(llmc_thread *t, void *a) {{ for (int i = 0; i < times; i++) {function}(t, a); }}
void run(llmc_team *team, void *a, int count) {{ times = count; llmc_team_run(team, work, a); }}
"""
    module = library(isa, tuple(sources), driver)
    module.llmc_team_new.restype = ctypes.c_void_p
    module.llmc_team_new.argtypes = (ctypes.c_int, ctypes.c_size_t)
    module.llmc_team_free.argtypes = (ctypes.c_void_p,)
    module.run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    team = module.llmc_team_new(threads, scratch_bytes)
    module.run(team, ctypes.addressof(argument), times)
    module.llmc_team_free(team)
