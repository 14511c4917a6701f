"""Scans in C against their reference in float64: token by token, and in chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.kernels.scan.fields import DecayShape, Update

from .native_region import ISAS
from .native_scan import DECAYS, UPDATES, Calls, calls, compare

WIDTHS = st.sampled_from([1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 70, 130])


def lengths(tokens: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(tokens, min_size=1, max_size=2).map(tuple)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("decay_per", DECAYS)
@given(
    made=calls(
        batch=st.integers(1, 2),
        lengths=lengths(st.integers(1, 9)),
        heads=st.sampled_from([1, 2, 3, 5]),
        key_dim=WIDTHS,
        value_dim=st.just(1) | WIDTHS,
    )
)
def test_steps(isa: str, update: Update, decay_per: DecayShape, made: Calls) -> None:
    compare(isa, replace(made, update=update, decay_per=decay_per), tolerance=5e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("decay_per", ["none", "head", "token_head"])
@given(
    made=calls(
        lengths=lengths(st.sampled_from([8, 9, 31, 32, 33, 70])),
        heads=st.sampled_from([1, 3, 7]),
        key_dim=st.sampled_from([64, 65, 70, 128]),
        value_dim=st.sampled_from([8, 9, 16, 33, 64, 130]),
        strength=st.sampled_from([1.0, 200.0]),
        is_padded=st.booleans(),
    )
)
def test_chunks(isa: str, decay_per: DecayShape, made: Calls) -> None:
    """Several tokens at once are what one after the other are, however fast they are forgotten."""
    compare(isa, replace(made, decay_per=decay_per), tolerance=3e-6)


@pytest.mark.parametrize("isa", ISAS)
@given(
    rule=st.sampled_from([("token_channel", "add"), ("state", "add"), ("none", "delta"), ("head", "delta")])
    | st.tuples(st.sampled_from(["token_head", "token_channel"]), st.sampled_from(["delta", "erase_write"])),
    sizes=st.sampled_from([(65, 130), (130, 70), (66, 128), (257, 33)]),
    made=calls(
        lengths=lengths(st.sampled_from([16, 17, 31, 40])),
        heads=st.sampled_from([1, 3]),
        key_dim=st.just(0),
        value_dim=st.just(0),
        strength=st.sampled_from([1.0, 60.0]),
        is_padded=st.booleans(),
    ),
)
def test_chunks_of_large_states(isa: str, rule: tuple[DecayShape, Update], sizes: tuple[int, int], made: Calls) -> None:
    """States that are erased, or whose channels forget at rates of their own, however fast."""
    (decay_per, update), (key_dim, value_dim) = rule, sizes
    made = replace(made, decay_per=decay_per, update=update, key_dim=key_dim, value_dim=value_dim)
    compare(isa, made, tolerance=3e-6)
