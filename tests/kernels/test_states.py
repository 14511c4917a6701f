"""One contract for every kind of state: appending in ragged pieces, taking back, starting anew, and its bytes."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import pytest
import torch
from torch import Tensor

from llmc.compiler.ops.declaration import StateSpec
from llmc.compiler.plan import state_bytes
from llmc.kernels.attention.reference import attend_cached
from llmc.kernels.cache.reference import cross_kv_append, cross_kv_read, kv_full_append, kv_window_append
from llmc.kernels.conv.reference import short_conv
from llmc.kernels.latent_attention.reference import kv_latent_append, latent_attend_cached
from llmc.kernels.scan.reference import scan
from llmc.kernels.shift.reference import token_shift
from llmc.kernels.states import STATES
from llmc.kernels.states.protocol import StateKind
from llmc.kernels.tolerance import assert_close
from llmc.runtime.cache import Cache

BATCH, CAPACITY = 3, 40
Streams = Mapping[str, Tensor]
States = tuple[Tensor, ...]
Advance = Callable[[States, Streams, Tensor, Tensor], tuple[Tensor, States]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A kind at small sizes: what flows in, and one call `(state, streams, position, lengths) -> (out, state)`."""

    kind: str
    sizes: Mapping[str, int]
    widths: Mapping[str, int]
    advance: Advance
    path: str = "node"


KV = {"heads": 2, "key_dim": 5, "value_dim": 3}


def _full(state: States, x: Streams, position: Tensor, lengths: Tensor) -> tuple[Tensor, States]:
    new, keys, values, at = kv_full_append(
        state=(state[0], state[1]), k=x["k"], v=x["v"], position=position, lengths=lengths, heads=2, key_dim=5,
        value_dim=3,
    )  # fmt: skip
    out = attend_cached(
        q=x["q"], keys=keys, values=values, key_position=at, position=position, head_dim=5, v_head_dim=3
    )
    return out, new


def _window(state: States, x: Streams, position: Tensor, lengths: Tensor) -> tuple[Tensor, States]:
    new, keys, values, at = kv_window_append(
        state=(state[0], state[1]),
        k=x["k"],
        v=x["v"],
        position=position,
        lengths=lengths,
        heads=2,
        key_dim=5,
        value_dim=3,
        window=4,
    )
    out = attend_cached(
        q=x["q"], keys=keys, values=values, key_position=at, position=position, head_dim=5, v_head_dim=3, window=4
    )
    return out, new


def _latent(state: States, x: Streams, position: Tensor, lengths: Tensor) -> tuple[Tensor, States]:
    new, latents, k_ropes, at = kv_latent_append(
        state=(state[0], state[1]), latent=x["latent"], k_rope=x["k_rope"], position=position, lengths=lengths,
        rank=7, rope_dim=2,
    )  # fmt: skip
    out = latent_attend_cached(
        q_nope=x["q_nope"], q_rope=x["q_rope"], latents=latents, k_ropes=k_ropes, key_position=at, position=position,
        kv_up=torch.linspace(-1, 1, 2 * 8 * 7).view(16, 7), nope_head_dim=5, rope_head_dim=2, v_head_dim=3,
    )  # fmt: skip
    return out, new


MEMORY = torch.Generator().manual_seed(5)
MEMORY_K, MEMORY_V = torch.randn(BATCH, 9, 10, generator=MEMORY), torch.randn(BATCH, 9, 6, generator=MEMORY)
MEMORY_POSITION = torch.tensor([[*range(9)], [-1, -1, *range(7)], [0, 1, *[-1] * 7]])


def _cross(state: States, x: Streams, position: Tensor, _: Tensor) -> tuple[Tensor, States]:
    """The first call finds nothing and keeps what is given once; later ones only read it."""
    held = (state[0], state[1], state[2])
    if held[2].shape[1] != MEMORY_POSITION.shape[1]:
        held = cross_kv_append(
            state=held, k=MEMORY_K, v=MEMORY_V, position=MEMORY_POSITION, heads=2, key_dim=5, value_dim=3
        )
    new, keys, values, at = cross_kv_read(state=held)
    out = attend_cached(
        q=x["q"], keys=keys, values=values, key_position=at, position=position, head_dim=5, v_head_dim=3,
        mask="bidirectional",
    )  # fmt: skip
    return out, new


def _conv(state: States, x: Streams, position: Tensor, _: Tensor) -> tuple[Tensor, States]:
    weight = torch.linspace(-1, 1, 24).view(6, 1, 4)
    return short_conv(x=x["x"], position=position, weight=weight, bias=weight[:, 0, 1], state=(state[0],))


def _shift(state: States, x: Streams, position: Tensor, _: Tensor) -> tuple[Tensor, States]:
    return token_shift(x=x["x"], position=position, state=(state[0],))


def _matrix(state: States, x: Streams, position: Tensor, _: Tensor) -> tuple[Tensor, States]:
    return scan(
        v=x["v"], k=x["k"], q=x["q"], decay=-x["decay"].abs(), beta=x["beta"].sigmoid(), position=position, key_dim=5,
        value_dim=3, decay_per="token_head", update="delta", state=(state[0],),
    )  # fmt: skip


SAMPLES = (
    Sample(kind="kv_full", sizes=KV, widths={"q": 20, "k": 10, "v": 6}, advance=_full),
    Sample(kind="kv_window", sizes={**KV, "window": 4}, widths={"q": 20, "k": 10, "v": 6}, advance=_window),
    Sample(
        kind="kv_latent",
        sizes={"rank": 7, "rope_dim": 2},
        widths={"q_nope": 10, "q_rope": 4, "latent": 7, "k_rope": 2},
        advance=_latent,
    ),
    Sample(kind="cross_kv", sizes=KV, widths={"q": 20}, advance=_cross),
    Sample(kind="conv", sizes={"channels": 6, "kernel": 4}, widths={"x": 6}, advance=_conv),
    Sample(kind="token_shift", sizes={"features": 6}, widths={"x": 6}, advance=_shift),
    Sample(kind="matrix", sizes=KV, widths={"q": 5, "k": 5, "v": 6, "decay": 2, "beta": 2}, advance=_matrix),
)
each_kind = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.kind)


class Rows:
    """A batch of streams, the cache they are fed to, and what each whole row gives."""

    def __init__(self, sample: Sample, snapshots: int = 0) -> None:
        self.sample = sample
        spec = StateSpec(kind=sample.kind, sizes=sample.sizes)
        self.cache = Cache(
            {sample.path: spec}, batch_size=BATCH, max_seq_len=CAPACITY, dtype=torch.float32,
            device=torch.device("cpu"), snapshots=snapshots,
        )  # fmt: skip
        self.streams = {name: torch.randn(BATCH, CAPACITY, width) for name, width in sample.widths.items()}
        position = torch.arange(CAPACITY).expand(BATCH, CAPACITY)
        fresh = STATES[sample.kind].allocate(sample.sizes, BATCH, CAPACITY, torch.float32, "cpu")
        self.whole, _ = sample.advance(fresh, self.streams, position, torch.zeros(BATCH, dtype=torch.int64))

    def feed(self, counts: tuple[int, ...], on_left: bool = False, streams: Streams | None = None) -> None:
        """The next `counts` tokens of each row, the rest padding; each row's output equals the whole row's there."""
        width, lengths = max(counts), self.cache.lengths
        position = torch.full((BATCH, width), -1)
        given = {name: torch.full((BATCH, width, x.shape[-1]), 7.0) for name, x in self.streams.items()}
        places: list[slice] = []
        for row, count in enumerate(counts):
            start, at = int(lengths[row]), width - count if on_left else 0
            places.append(slice(at, at + count))
            position[row, at : at + count] = torch.arange(start, start + count)
            for name, stream in (streams or self.streams).items():
                given[name][row, at : at + count] = stream[row, start : start + count]
        self.cache.reserve(torch.tensor(counts))
        state = self.cache.states[self.sample.path]
        out, after = self.sample.advance(state, given, position, lengths)
        is_held = STATES[self.sample.kind].axis == "stream" or int(lengths.max()) > 0
        if is_held or any(buffer.numel() for buffer in state):
            assert all(new is old for new, old in zip(after, state, strict=True)), "a state is updated in place"
        self.cache.states[self.sample.path] = after
        for row, count in enumerate(counts):
            start = int(lengths[row])
            if streams is None and count:
                name = f"{self.sample.kind} row {row} from {start}"
                assert_close(name, out[row, places[row]], self.whole[row, start : start + count])
        self.cache.advance(torch.tensor(counts))


def test_every_kind_is_sampled() -> None:
    assert {sample.kind for sample in SAMPLES} == set(STATES)


@each_kind
def test_append_in_ragged_pieces(sample: Sample) -> None:
    rows = Rows(sample)
    for step, counts in enumerate([(3, 0, 5), (1, 1, 1), (0, 9, 2), (7, 1, 1), (1, 0, 1), (0, 0, 1), (12, 13, 11)]):
        rows.feed(counts, on_left=step % 2 == 0)


@each_kind
def test_one_by_one_and_at_once(sample: Sample) -> None:
    rows = Rows(sample)
    rows.feed((20, 20, 20))
    for _ in range(20):
        rows.feed((1, 1, 1))


@each_kind
def test_rollback_of_calls(sample: Sample) -> None:
    """Other tokens in calls of their own, taken back, leave no trace."""
    rows = Rows(sample, snapshots=2)
    rows.feed((6, 9, 2))
    other = {name: -x for name, x in rows.streams.items()}
    for taken in (1, 2, 1, 0, 2):
        for _ in range(taken):
            rows.feed((1, 1, 1), streams=other)
        rows.cache.rollback(taken)
        rows.feed((2, 1, 3), on_left=True)
    rows.feed((4, 4, 4), streams=other)
    rows.cache.rollback(4)
    rows.feed((5, 5, 5))


@each_kind
def test_reset_is_a_fresh_cache(sample: Sample) -> None:
    rows = Rows(sample, snapshots=1)
    rows.feed((11, 3, 30))
    rows.cache.reset()
    assert rows.cache.lengths.tolist() == [0, 0, 0]
    rows.feed((3, 12, 1))
    rows.feed((9, 1, 4))


@each_kind
def test_rollback_to_nothing(sample: Sample) -> None:
    rows = Rows(sample)
    rows.feed((8, 8, 8), streams={name: -x for name, x in rows.streams.items()})
    rows.cache.rollback(8)
    rows.feed((3, 12, 1))


@each_kind
@pytest.mark.parametrize(("dtype", "itemsize"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_those_of_the_plan(sample: Sample, dtype: torch.dtype, itemsize: int) -> None:
    kind, spec = STATES[sample.kind], StateSpec(kind=sample.kind, sizes=sample.sizes)
    assert set(kind.size_names) == set(sample.sizes)
    for batch, capacity in ((1, 1), (2, 33), (5, 7)):
        buffers = kind.allocate(sample.sizes, batch, capacity, dtype, "cpu")
        assert sum(buffer.nbytes for buffer in buffers) == state_bytes(spec, batch, capacity, itemsize)
        for buffer, slot in zip(buffers, kind.slots(sample.sizes, capacity), strict=True):
            assert buffer.shape == (batch, *slot.shape)
            assert buffer.dtype == {"model": dtype, "float32": torch.float32, "int64": torch.int64}[slot.dtype]
            assert buffer.numel() == batch * prod(slot.shape)


@pytest.mark.parametrize("kind", STATES.values(), ids=STATES)
def test_kinds_say_their_laws(kind: StateKind) -> None:
    assert kind.doc
    assert kind.rollback in ("truncate", "snapshot", "none", "follow")
    assert kind.prefix_share in ("page", "last_window", "chunk", "checkpoint", "static", "follow", "no")
