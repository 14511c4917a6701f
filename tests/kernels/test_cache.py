"""States and their appends: chunks of a ragged batch give what the whole rows give, also after rollbacks."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import random
from typing import TypedDict, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.attention import reference, sdpa
from llmc.kernels.cache.fields import KvState
from llmc.kernels.cache.reference import kv_full_append, kv_window_append
from llmc.kernels.states import STATES
from llmc.kernels.states.kv_window import ROLLBACK_SLACK
from llmc.kernels.tolerance import assert_close

H, HKV, D, DV = 6, 3, 20, 12


class Sizes(TypedDict):
    """The sizes that both kinds ask for."""

    heads: int
    key_dim: int
    value_dim: int


class Append(TypedDict):
    """What both appends take beside the state and its sizes."""

    k: Tensor
    v: Tensor
    position: Tensor
    lengths: Tensor


SIZES = Sizes(heads=HKV, key_dim=D, value_dim=DV)
COUNTS = cast("dict[str, int]", SIZES)


class Rows:
    """A batch of token streams and a cache that they are fed to, with a check after every call."""

    def __init__(self, batch: int, capacity: int, window: int | None, is_static: bool = False) -> None:
        self.q, self.k, self.v = (torch.randn(batch, capacity, n * d) for n, d in ((H, D), (HKV, D), (HKV, DV)))
        self.window, self.is_static, self.capacity = window, is_static, capacity
        self.kind = STATES["kv_full" if window is None else "kv_window"]
        self.sizes = COUNTS if window is None else {**COUNTS, "window": window}
        keys, values = self.kind.allocate(self.sizes, batch, capacity, torch.float32, "cpu")
        self.state: KvState = (keys, values)
        self.lengths = torch.zeros(batch, dtype=torch.int64)
        self.reached = torch.zeros(batch, dtype=torch.int64)
        position = torch.arange(capacity).expand(batch, capacity)
        self.expected = reference.attention(
            q=self.q, k=self.k, v=self.v, position=position, head_dim=D, v_head_dim=DV, window=window
        )

    def step(self, counts: list[int], on_left: bool) -> None:
        """Feeds each row its next `counts` tokens, padded with NaN to the longest."""
        tokens = max(counts)
        batch = len(counts)
        position = torch.full((batch, tokens), -1)
        call = {n: torch.full((batch, tokens, x.shape[-1]), torch.nan) for n, x in self.streams().items()}
        for row, count in enumerate(counts):
            start, at = int(self.lengths[row]), tokens - count if on_left else 0
            position[row, at : at + count] = torch.arange(start, start + count)
            for name, stream in self.streams().items():
                call[name][row, at : at + count] = stream[row, start : start + count]
        is_token = position >= 0
        call = {name: x.masked_fill(~is_token[..., None], 7.0) for name, x in call.items()}
        append = Append(k=call["k"], v=call["v"], position=position, lengths=self.lengths)
        if self.window is None:
            returned, keys, values, key_position = kv_full_append(
                state=self.state, **append, **SIZES, is_static=self.is_static
            )
        else:
            returned, keys, values, key_position = kv_window_append(
                state=self.state, **append, **SIZES, window=self.window, is_static=self.is_static
            )
        assert returned[0] is self.state[0]
        assert keys.shape[2] == values.shape[2] == key_position.shape[1]
        for module in (reference, sdpa):
            out = module.attend_cached(
                q=call["q"],
                keys=keys,
                values=values,
                key_position=key_position,
                position=position,
                head_dim=D,
                v_head_dim=DV,
                window=self.window,
            )
            wanted = torch.zeros_like(out)
            for row, count in enumerate(counts):
                start = int(self.lengths[row])
                wanted[row, is_token[row]] = self.expected[row, start : start + count]
            assert_close(f"{module.__name__} at {self.lengths.tolist()} + {counts}", out, wanted)
        self.lengths = self.lengths + torch.tensor(counts)
        self.reached = torch.maximum(self.reached, self.lengths)

    def rollback(self, row: int, count: int) -> None:
        self.lengths[row] -= count

    def refusal(self, row: int, count: int) -> str | None:
        return self.kind.refuse_rollback(
            self.sizes, self.capacity, int(self.reached[row]), int(self.lengths[row]) - count
        )

    def streams(self) -> dict[str, Tensor]:
        return {"q": self.q, "k": self.k, "v": self.v}


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("window", [None, 3, 11, 200])
def test_chunks_of_equal_rows(window: int | None, is_static: bool) -> None:
    rows = Rows(2, 120, window, is_static)
    for count in (7, 1, 1, 1, 40, 1, 3, 1, 1, 60, 1, 1, 2):
        rows.step([count, count], on_left=False)
    assert rows.lengths.tolist() == [120, 120]


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("window", [None, 3, 11])
def test_decode_of_one_row(window: int | None, is_static: bool) -> None:
    rows = Rows(1, 50, window, is_static)
    rows.step([5], on_left=False)
    for _ in range(45):
        rows.step([1], on_left=False)


@settings(max_examples=20, deadline=None)
@given(
    window=st.sampled_from([None, 1, 3, 11]),
    seed=st.integers(0, 1000),
    on_left=st.booleans(),
    is_static=st.booleans(),
)
def test_ragged_chunks_and_rollbacks(window: int | None, seed: int, on_left: bool, is_static: bool) -> None:
    draw = random.Random(seed)
    rows = Rows(3, 150, window, is_static)
    for _ in range(14):
        longest = draw.choice([1, 1, 2, 5, 30])
        room = [150 - int(n) for n in rows.lengths]
        counts = [min(draw.randint(0, longest), r) for r in room]
        if max(counts) == 0:
            continue
        rows.step(counts, on_left)
        row = draw.randrange(3)
        count = min(draw.randint(0, ROLLBACK_SLACK), int(rows.lengths[row]))
        if rows.refusal(row, count) is None:
            rows.rollback(row, count)


def test_a_rollback_of_the_whole_slack_loses_nothing() -> None:
    rows = Rows(1, 150, 3)
    rows.step([100], on_left=False)
    assert rows.refusal(0, ROLLBACK_SLACK) is None
    reason = rows.refusal(0, ROLLBACK_SLACK + 1)
    assert reason is not None
    assert "a window of 3 tokens keeps 16 more" in reason
    assert "from 100 tokens back to 83 takes 17" in reason
    rows.rollback(0, ROLLBACK_SLACK)
    assert rows.refusal(0, 1) is not None, "the high-water mark counts, not the present length"
    for _ in range(20):
        rows.step([1], on_left=False)


def test_a_ring_that_never_wrapped_rolls_back_to_the_start() -> None:
    rows = Rows(1, 15, 10)
    rows.step([15], on_left=False)
    assert rows.refusal(0, 15) is None
    rows.rollback(0, 15)
    rows.step([15], on_left=False)


def test_full_keys_are_views_cut_at_the_longest_row() -> None:
    keys, values = STATES["kv_full"].allocate(COUNTS, 2, 30, torch.float32, "cpu")
    k, v = torch.randn(2, 4, HKV * D), torch.randn(2, 4, HKV * DV)
    position = torch.tensor([[-1, -1, 0, 1], [0, 1, 2, 3]])
    _, seen, _, key_position = kv_full_append(
        state=(keys, values), k=k, v=v, position=position, lengths=torch.zeros(2, dtype=torch.int64), **SIZES
    )
    assert seen.data_ptr() == keys.data_ptr()
    assert key_position.tolist() == [[0, 1, -1, -1], [0, 1, 2, 3]]
    assert torch.equal(keys[0, :, 0], k[0, 2].view(HKV, D))


@pytest.mark.parametrize("count", [1, 5])
def test_a_full_cache_says_so(count: int) -> None:
    for window, capacity in ((None, 20), (30, 20)):
        rows = Rows(2, 20, window)
        rows.step([18, 16], on_left=False)
        rows.expected = rows.expected.repeat(1, 2, 1)
        rows.q, rows.k, rows.v = (x.repeat(1, 2, 1) for x in (rows.q, rows.k, rows.v))
        with pytest.raises(ValueError, match=rf"holds {capacity} tokens a row, but {20 + count} are needed"):
            rows.step([2 + count, 2 + count], on_left=False)


def test_bytes_are_those_that_allocation_takes() -> None:
    for kind in STATES.values():
        sizes = {name: COUNTS.get(name, 5) for name in kind.size_names}
        for dtype in (torch.float32, torch.bfloat16):
            buffers = kind.allocate(sizes, 2, 100, dtype, "cpu")
            assert sum(b.numel() * b.element_size() for b in buffers) == kind.bytes(sizes, 2, 100, dtype.itemsize)
            assert [tuple(b.shape[1:]) for b in buffers] == [s.shape for s in kind.slots(sizes, 100)]
            assert all(bool((b == 0).all()) for b in buffers)


def test_a_window_takes_the_bytes_of_its_ring() -> None:
    kind, sizes = STATES["kv_window"], {**COUNTS, "window": 48}
    assert kind.bytes(sizes, 1, 100_000, 2) == HKV * (D + DV) * (48 + ROLLBACK_SLACK) * 2
    assert kind.bytes(sizes, 1, 10, 2) == STATES["kv_full"].bytes(COUNTS, 1, 10, 2)
