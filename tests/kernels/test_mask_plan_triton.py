"""Plans of masks: what the reference says holds for every pair, Triton says the same, attention by them is exact."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.attention import reference
from llmc.kernels.attention.fields import PlannedKeys
from llmc.kernels.attention.reference import GRANULE, LEVELS, mask_plan, visible_keys
from llmc.kernels.attention.triton_attention import attend_cached
from llmc.kernels.attention.triton_plan import mask_plan as triton_plan
from llmc.kernels.cache.reference import kv_full_append, kv_window_append
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE

WINDOWS = st.sampled_from([None, 1, 9, 40])
CHUNKS = st.sampled_from([None, 1, 24])


@st.composite
def asked(draw: st.DrawFn) -> dict[str, object]:
    """The arguments of a plan: rows of one length or another, padded on either side, with gaps, packed, unordered."""
    batch, tokens = draw(st.integers(1, 2)), draw(st.sampled_from([1, 5, 16, 33, 90]))
    keys = draw(st.sampled_from(["tokens", "tokens", "cache", "ring"]))
    position = torch.arange(tokens).repeat(batch, 1)
    lengths = torch.tensor([draw(st.sampled_from([0, 3, 70])) for _ in range(batch)])
    kind = draw(st.sampled_from(["whole", "left", "right", "gaps"]))
    if kind == "left":
        position[0] -= 4
    elif kind == "right":
        position[0, -4:] = -1
    elif kind == "gaps":
        is_real = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(tokens)) < 0.5
        position = torch.where(is_real, is_real.cumsum(1) - 1, -1)
    found: dict[str, object] = {"keys": keys, "window": draw(WINDOWS), "chunk": draw(CHUNKS)}
    if keys == "tokens":
        found |= {"mask": draw(st.sampled_from(["causal", "bidirectional"])), "by_keys": draw(st.booleans())}
        if draw(st.booleans()):
            found["key_position"] = torch.arange(50).repeat(batch, 1).roll(draw(st.integers(0, 20)), 1).to(DEVICE)
    else:
        position = torch.where(position >= 0, position + lengths[:, None], -1)
    if keys == "ring":
        found["lengths"] = lengths.to(DEVICE)
        found["window"] = found["window"] or 40
    return {"position": position.clamp(min=-1).to(DEVICE), **found}


@given(arguments=asked())
def test_triton_says_what_the_reference_says(arguments: dict) -> None:
    assert torch.equal(triton_plan(**arguments), mask_plan(**arguments))


def tiles(pairs: Tensor, size: int, beyond: bool) -> Tensor:
    """Pairs `[B, T, S]` by blocks of rows and granules of columns, last axis those of one; `beyond` are missing rows,
    and columns that are missing do not hold."""
    spare = [-pairs.shape[1] % size, -pairs.shape[2] % GRANULE]
    rows = torch.nn.functional.pad(pairs, (0, 0, 0, spare[0]), value=beyond)
    full = torch.nn.functional.pad(rows, (0, spare[1]), value=False)
    return full.unflatten(2, (-1, GRANULE)).unflatten(1, (-1, size)).transpose(2, 3).flatten(3)


@given(arguments=asked())
def test_what_is_seen_lies_inside_and_what_is_whole_needs_no_mask(arguments: dict) -> None:
    position, keys = arguments["position"], arguments["keys"]
    at, lengths, by_keys = arguments.get("key_position", position), arguments.get("lengths"), arguments.get("by_keys")
    if keys == "cache":
        order = torch.arange(180, device=DEVICE)
        at = torch.where(order <= position.amax(1, keepdim=True), order, -1)
    mask = {name: arguments[name] for name in ("window", "chunk")} | {"mask": arguments.get("mask", "causal")}
    seen = visible_keys(position=position, key_position=at, **mask)
    unmasked = seen | (position < 0)[:, :, None]
    if by_keys:  # queries beyond the last are padding as well
        spare = -position.shape[1] % GRANULE
        unmasked = torch.nn.functional.pad(unmasked | (at < 0)[:, None], (0, 0, 0, spare), value=True).transpose(1, 2)
        seen = torch.nn.functional.pad(seen, (0, 0, 0, spare), value=False).transpose(1, 2)
    plan = mask_plan(**arguments).long()
    sizes = [GRANULE * 2**level for level in range(LEVELS)] if plan.numel() else []
    parts = plan.split([-(-seen.shape[1] // size) for size in sizes], 1) if sizes else ()
    for size, part in zip(sizes, parts, strict=True):
        some, whole = tiles(seen, size, False).any(-1), tiles(unmasked, size, True).all(-1)
        order = torch.arange(some.shape[2], device=DEVICE)
        begin, end, start, stop, before = (x[..., None] for x in part.unbind(-1))
        assert not (some & ((order < begin) | (order >= end))).any()
        assert (whole | (order < start) | (order >= stop)).all()
        assert ((begin <= start) & (start <= stop) & (stop <= end)).all()
        if lengths is not None:
            ring = torch.arange(100, device=DEVICE).expand(len(lengths), 100)
            old = visible_keys(position=position, key_position=torch.where(ring < lengths[:, None], ring, -1), **mask)
            assert torch.equal(tiles(old.any(-1, keepdim=True), size, False).any(-1), before > 0)


@pytest.mark.parametrize("chunk", [None, 24])
@pytest.mark.parametrize("kind", ["cache", "ring"])
def test_attention_after_an_append_by_its_plan(kind: PlannedKeys, chunk: int | None) -> None:
    """Three pieces of a prompt, padded on either side and longer than the ring, against the reference."""
    make = torch.Generator().manual_seed(0)
    window = 20
    capacity = 200 if kind == "cache" else window + 16
    sizes = {"heads": 1, "key_dim": 16, "value_dim": 16}
    state = tuple(torch.zeros(2, 1, capacity, 16, device=DEVICE) for _ in range(2))
    lengths = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    append = kv_full_append if kind == "cache" else kv_window_append
    ring = {} if kind == "cache" else {"window": window}
    for tokens, spare in ((33, 5), (50, 0), (17, 2)):
        q, k, v = (torch.randn(2, tokens, 16, generator=make).to(DEVICE) for _ in range(3))
        position = torch.arange(tokens, device=DEVICE).repeat(2, 1)
        position[0] -= spare
        position[1, tokens - spare :] = -1
        position = torch.where(position >= 0, position + lengths[:, None], -1)
        call = {"position": position, "lengths": lengths, "is_static": True}
        state, keys, values, at = append(state=state, k=k, v=v, **sizes, **ring, **call)
        mask = {"window": window, "chunk": chunk}
        plan = triton_plan(position=position, lengths=lengths, keys=kind, **mask)
        given = {"q": q, "keys": keys, "values": values, "key_position": at, "position": position, "head_dim": 16}
        exact = reference.attend_cached(
            **{k: x.double() if k in ("q", "keys", "values") else x for k, x in given.items()}, **mask
        )
        with forced(
            "attention_forward", {"BLOCK_M": 32, "BLOCK_N": 32, "DESCRIBED": 0, "num_warps": 4, "num_stages": 2}
        ):
            assert_close("out", attend_cached(**given, **mask, plan=plan), exact)
        lengths = torch.maximum(lengths, position.amax(1) + 1)


def test_beams_that_share_keys_have_no_plan() -> None:
    position, at = torch.arange(3).repeat(4, 1), torch.arange(6).repeat(2, 1)
    given = {"position": position.to(DEVICE), "key_position": at.to(DEVICE), "mask": "bidirectional"}
    assert triton_plan(**given).shape == mask_plan(**given).shape == (4, 0, 5)
