"""Scans of 256k tokens, launched on tensors without data: as many launches, memory as tokens, grids that fit."""

# pyright: basic
from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from weakref import finalize

import pytest
import torch

pytest.importorskip("triton")

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmc.kernels.scan import (
    triton_chunked,
    triton_chunked_backward,
    triton_cut,
    triton_delta,
    triton_delta_backward,
    triton_prepared,
    triton_segments,
    triton_selective,
    triton_selective_backward,
)
from llmc.kernels.scan.operators import ChunkScan, DeltaScan, SelectiveScan

from .compiled_scan import CASES
from .narrow_numbers import may_overflow

MODULES = (
    triton_chunked, triton_chunked_backward, triton_delta, triton_delta_backward, triton_prepared, triton_segments,
    triton_selective, triton_selective_backward,
)  # fmt: skip
SHORT, LONG = 4096, 262144
GRID = (2**31 - 1, 65535, 65535)
"""Programs along each axis of a launch (CUDA's programming guide, compute capabilities)."""


@dataclass
class Launches:
    """Stands for `launchable`: notes grids and whole-number arguments, runs nothing; and what `Storages` finds."""

    grids: list[tuple[int, ...]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    """Bytes of each storage that is alive."""
    peak: int = 0
    """Bytes held at once."""

    def __call__(self, kernel: object) -> Launches:
        del kernel
        return self

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        self.grids.append(grid)
        return self.note

    def note(self, *given: object, **constants: object) -> None:
        for value in (*given, *constants.values()):
            if isinstance(value, int):
                self.sizes.append(value)


class Storages(TorchDispatchMode):
    """Notes the memory behind every tensor that is made, until it is freed."""

    def __init__(self, found: Launches) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        held = self.found.held
        for tensor in (x for x in tree_leaves(made) if isinstance(x, Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in held:
                held[storage._cdata] = storage.nbytes()
                finalize(storage, held.pop, storage._cdata)
        self.found.peak = max(self.found.peak, sum(held.values()))
        return made


def rows(batch: int, tokens: int, width: int) -> Tensor:
    return torch.empty(batch, tokens, width, dtype=torch.bfloat16, device="meta")


def chunks(batch: int, tokens: int) -> None:
    """Mamba-2 2.7B: 80 heads of 64 share keys of 128."""
    v, k, heads = rows(batch, tokens, 80 * 64), rows(batch, tokens, 128), 80
    position = torch.empty(batch, tokens, dtype=torch.int64, device="meta")
    rate = torch.empty(batch, heads, tokens, device="meta")
    given = ChunkScan(v, k, k.clone(), position, rate, rate.clone(), v.new_empty(heads), None, 128, 64, 1.0)
    triton_chunked._launch(given)
    triton_chunked_backward._launch(v.clone(), None, given)


def delta(batch: int, tokens: int) -> None:
    """Qwen3-Next: 32 heads of 128 by 128, two of which share a key."""
    v, k, beta = rows(batch, tokens, 32 * 128), rows(batch, tokens, 16 * 128), rows(batch, tokens, 32)
    position = torch.empty(batch, tokens, dtype=torch.int64, device="meta")
    log = torch.empty(batch, 32, tokens, device="meta")
    given = DeltaScan(v, k, k.clone(), position, log, None, beta, None, None, None, None, 128, 128, "delta", False, 1.0)
    starts = triton_delta._launch(given)[2]
    triton_delta_backward._launch(v.clone(), None, starts, given)


def erase_write(batch: int, tokens: int) -> None:
    """RWKV-7 2.9B: 40 heads of 64, each channel with its decay."""
    v, k, q, log, erase, write = (rows(batch, tokens, 40 * 64) for _ in range(6))
    position = torch.empty(batch, tokens, dtype=torch.int64, device="meta")
    given = DeltaScan(v, k, q, position, log, None, None, erase, write, None, None, 64, 64, "erase_write", True, 1.0)
    starts = triton_delta._launch(given)[2]
    triton_delta_backward._launch(v.clone(), None, starts, given)


def selective(batch: int, tokens: int) -> None:
    """Mamba 2.8B: 5120 channels of 16 states."""
    v, k = rows(batch, tokens, 5120), rows(batch, tokens, 16)
    position = torch.empty(batch, tokens, dtype=torch.int64, device="meta")
    decay = torch.empty(5120, 16, device="meta")
    skip = v.new_empty(5120)
    given = SelectiveScan(v, k, k.clone(), position, decay, v.clone(), skip, None, "state", "A_log", 1.0)
    triton_selective._launch(given)
    triton_selective_backward._launch(v.clone(), None, given)


def noted(monkeypatch: pytest.MonkeyPatch, run: object, batch: int, tokens: int) -> Launches:
    found = Launches()
    for module in MODULES:
        if hasattr(module, "launchable"):
            monkeypatch.setattr(module, "launchable", found)
    with Storages(found):
        run(batch, tokens)  # type: ignore[operator]
    return found


@pytest.mark.parametrize(
    ("run", "heads", "key_dim", "value_dim", "inputs"),
    [
        (delta, 32, 128, 128, 2 * (32 * 128 + 2 * 16 * 128 + 32) + 4 * 32 + 8),
        (erase_write, 40, 64, 64, 2 * 6 * 40 * 64 + 8),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_what_a_scan_with_its_gradients_holds(
    monkeypatch: pytest.MonkeyPatch, run: object, heads: int, key_dim: int, value_dim: int, inputs: int, batch: int
) -> None:
    """Beyond its inputs at most twice their bytes, all gradients and the output's among these, and the states before
    segments; the scratch of a span is within a constant, whatever the row."""
    found = noted(monkeypatch, run, batch, LONG)
    cut = triton_cut.cut(
        tokens=LONG, heads=batch * heads, key_dim=key_dim, value_dim=value_dim, is_solved=True
    )  # fmt: skip
    states = 4 * cut.segments * batch * heads * key_dim * value_dim
    given, made = inputs * LONG * batch, (inputs - 8 + 2 * heads * value_dim) * LONG * batch
    assert found.peak - given - states <= 2 * given
    assert found.peak - given - states - made <= 2**30 * (1.5 if run is delta else 1.0)


@pytest.mark.parametrize("run", [chunks, delta, erase_write, selective])
@pytest.mark.parametrize("batch", [1, 16])
def test_a_long_row_costs_what_its_tokens_do(monkeypatch: pytest.MonkeyPatch, run: object, batch: int) -> None:
    short, long = (noted(monkeypatch, run, batch, tokens) for tokens in (SHORT, LONG))
    spans = LONG * batch * 80 // triton_cut.HELD if run in (delta, erase_write) else 1
    assert 2 <= len(long.grids) <= spans * (len(short.grids) + 6), "segments add a walk, crossings and their passing"
    assert long.peak <= 1.05 * LONG / SHORT * short.peak
    for grid in long.grids:
        assert all(size <= limit for size, limit in zip(grid, GRID[: len(grid)], strict=True)), grid
    programs, before = sum(map(prod, long.grids)), sum(map(prod, short.grids))
    assert programs <= 1.05 * LONG / SHORT * before
    assert max(long.sizes) < 2**31


BOUNDS = {
    **dict.fromkeys(("tokens", "key_tokens", "count", "padded", "segment"), LONG),
    **dict.fromkeys(("segments", "chunks", "per_segment"), LONG // 64),
    **dict.fromkeys(("heads", "shared", "part"), 128), **dict.fromkeys(("key_dim", "value_dim"), 256), "batch": 16,
    "channels": 8192, "x": 2**24, "y": 16 * 128, "z": 16 * 128,
}  # fmt: skip
"""With 128 heads of 256 by 256 in 16 rows; a stride of tokens, which is every other argument, to 32768 elements."""


@pytest.mark.slow
def test_no_sum_of_whole_numbers_overflows() -> None:
    names = {name for case in CASES for name, kind in case.arguments.items() if kind.startswith("i32")}
    bounds = dict.fromkeys(names, 2**15) | BOUNDS
    found = may_overflow(CASES, bounds)
    assert not any(found.values()), found
    wide = may_overflow(CASES[:1], bounds | {"x": 2**31 - 1, "heads": 2**20})
    assert any(wide.values()), "a check that finds nothing at any size"
