"""Sampling in C against its definition, token by token, and its draws against probabilities in float64."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import ctypes
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.sampling import reference
from llmc.runtime.native.abi import SamplingStruct
from llmc.runtime.native.draw import WORKSPACE_FLOATS

from .native import KERNELS, library

ISAS = ("native", "avx2", "portable")
SOURCES = (KERNELS / "sampling" / "native.c",)
MANY = f'''#include "{KERNELS / "sampling" / "native.h"}"
void draw_many(const llmc_sampling *s, const float *logits, int64_t vocab, int64_t draws, int64_t *counts) {{
    float changed[1024];
    while (draws--) {{
        for (int64_t i = 0; i < vocab; i++) changed[i] = logits[i];
        counts[llmc_sample(s, 0, changed, vocab)]++;
    }}
}}
'''
FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
OFF = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "top_k": 0}


def settings(**given: float) -> dict[str, float]:
    """Every setting off but for the given ones."""
    return {**OFF, "presence_penalty": 0.0, "frequency_penalty": 0.0, **given}


class Row:
    """One row whose tokens the C function draws, step after step."""

    def __init__(self, isa: str, setting: dict[str, float], vocab: int, seed: int, seen: Tensor | None = None) -> None:
        self.library = library(isa, SOURCES, MANY)
        self.call = self.library.llmc_sample
        self.call.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
        self.call.restype = ctypes.c_int64
        self.seed, self.step = torch.tensor([seed]), torch.tensor([0])
        self.workspace = torch.full((vocab * WORKSPACE_FLOATS + 16,), math.nan)
        self.struct = SamplingStruct(
            **{name: setting[name] for name in FLOATS},
            top_k=int(setting["top_k"]),
            seeds=self.seed.data_ptr(),
            steps=self.step.data_ptr(),
            workspace=self.workspace.data_ptr(),
        )
        if seen is not None:
            self.ids = torch.cat([seen.nonzero()[:, 0], torch.zeros(2, dtype=torch.int64)])
            self.generated = (seen[self.ids] - 1).clamp(min=0).long()
            self.count = torch.tensor([len(self.ids) - 2])
            self.struct.seen, self.struct.generated = self.ids.data_ptr(), self.generated.data_ptr()
            self.struct.seen_count, self.struct.room = self.count.data_ptr(), len(self.ids)

    def next(self, logits: Tensor) -> int:
        changed = logits.clone()
        token = self.call(ctypes.addressof(self.struct), 0, changed.data_ptr(), len(logits))
        assert self.workspace[-16:].isnan().all()
        return int(token)

    def draw(self, logits: Tensor, draws: int) -> Tensor:
        """How often each token is drawn."""
        counts = torch.zeros(len(logits), dtype=torch.int64)
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (logits, counts)]
        sizes = [ctypes.c_int64(size) for size in (len(logits), draws)]
        self.library.draw_many(ctypes.byref(self.struct), pointers[0], *sizes, pointers[1])
        return counts

    def marks(self, vocab: int) -> Tensor:
        """What it has seen, as the definition keeps it."""
        kept = int(self.count)
        found = torch.zeros(vocab, dtype=torch.int32)
        found[self.ids[:kept]] = self.generated[:kept].int() + 1
        return found


@pytest.mark.parametrize("isa", ISAS)
@given(
    size=st.sampled_from([1, 2, 40, 150, 255, 256, 257, 1000]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    has_ties=st.booleans(),
    has_seen=st.booleans(),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 7, 90, 1000]),
    top_p=st.sampled_from([1.0, 0.01, 0.3, 0.75, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    penalties=st.sampled_from([(1.0, 0.0, 0.0), (1.3, 0.5, 0.25), (0.7, 0.0, 0.1)]),
    seed=st.integers(0, 2**16),
)
def test_picks_what_the_definition_picks(
    isa: str,
    size: int,
    spread: float,
    has_ties: bool,
    has_seen: bool,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalties: tuple[float, float, float],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(2, size) * spread
    logits = logits.round() if has_ties else logits
    logits[1, torch.rand(size) < 0.3] = -math.inf
    logits[1, 0] = 0.0
    repetition, presence, frequency = penalties
    setting = settings(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition,
        presence_penalty=presence, frequency_penalty=frequency,
    )  # fmt: skip
    seen = torch.randint(-2, 4, (size,)).clamp(min=0).int() if has_seen else None
    key = int(torch.randint(2**62, (1,)))
    row = Row(isa, setting, size, key, seen)
    seen = None if seen is None else seen[None].clone()
    tensors = {name: torch.tensor([setting[name]], dtype=torch.float32) for name in FLOATS}
    for step in range(2):
        expected = reference.sample(
            logits=logits[step][None],
            **tensors,
            top_k=torch.tensor([top_k], dtype=torch.int32),
            seed=torch.tensor([key]),
            step=torch.tensor([step]),
            seen=seen,
        )
        assert row.next(logits[step]) == int(expected)
    assert int(row.step) == 2
    if seen is not None:
        assert torch.equal(row.marks(size), seen[0])


@pytest.mark.parametrize("isa", ISAS)
def test_rows_without_a_finite_largest_logit_have_no_token(isa: str) -> None:
    for temperature in (0.0, 1.0):
        row = Row(isa, settings(temperature=temperature, top_p=0.9), 300, 1)
        for value, at in ((math.nan, 299), (math.inf, 0), (math.nan, 3)):
            logits = torch.randn(300)
            logits[at] = value
            assert row.next(logits) == -1
        assert row.next(torch.full((300,), -math.inf)) == -1
        assert int(row.step) == 0
        alone = torch.full((300,), -math.inf)
        alone[298] = -3e38
        assert row.next(alone) == 298


def exact_probabilities(logits: Tensor, setting: dict[str, float]) -> Tensor:
    """What is left of softmax in float64, by sorting."""
    probabilities = (logits.double() / setting["temperature"]).softmax(-1)
    order = probabilities.argsort(descending=True, stable=True)
    kept = probabilities[order]
    if setting["top_k"]:
        kept[int(setting["top_k"]) :] = 0
    kept = kept / kept.sum()
    kept[kept.cumsum(-1) - kept >= setting["top_p"]] = 0
    kept[kept < setting["min_p"] * kept[0]] = 0
    return torch.zeros_like(kept).scatter_(0, order, kept / kept.sum())


@given(
    size=st.sampled_from([7, 60, 300]),
    temperature=st.sampled_from([0.6, 1.0, 2.5]),
    top_k=st.sampled_from([0, 5, 33]),
    top_p=st.sampled_from([1.0, 0.5, 0.9]),
    min_p=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 2**16),
)
def test_draws_follow_the_probabilities(
    size: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    """Pearson's chi-square of 20 000 draws, over tokens that expect at least 5; a filtered token is never drawn."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2
    setting = settings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    row = Row("native", setting, size, seed)
    draws = 20_000
    counts = row.draw(logits, draws).double()
    expected = exact_probabilities(logits, setting) * draws
    assert counts[expected == 0].sum() == 0
    is_rare = expected < 5
    observed = torch.cat([counts[~is_rare], counts[is_rare].sum()[None]])
    wanted = torch.cat([expected[~is_rare], expected[is_rare].sum()[None]])
    observed, wanted = observed[wanted >= 5], wanted[wanted >= 5]
    freedom = len(wanted) - 1
    square = float(((observed - wanted) ** 2 / wanted).sum())
    assert square <= freedom + 6 * math.sqrt(2 * freedom) + 12, f"chi-square {square:.1f} of {freedom} degrees"


def test_masses_are_near_the_exponential() -> None:
    scores = -torch.cat([torch.logspace(-6, math.log10(29), 4000), torch.linspace(0, 20, 4000)])
    found = reference.masses(scores).double() / 2.0**40
    exact = scores.double().exp()
    bound = 2e-7 * (1 - scores.double()) * exact + 2.0**-40
    assert ((found - exact).abs() <= bound).all()
    assert (reference.masses(-torch.linspace(0, 29, 9999)).diff() <= 0).all()
    assert reference.masses(torch.tensor([0.0, -29.0, -1e30, -math.inf])).tolist() == [2**40, 0, 0, 0]


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**40))
def test_words_of_integers_are_those_of_tensors(seed: int, step: int) -> None:
    words = reference.random_words(torch.tensor([seed]), torch.tensor([step]))
    assert words.tolist() == [reference.random_word(seed, step)]
    assert reference.random_word(0, 0) == 0x6627E8D5
