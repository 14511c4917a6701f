"""Scans in C on generated operands, and their comparison with the reference in float64, over calls that continue."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import ctypes
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.scan.fields import DecayForm, DecayShape, Update
from llmc.kernels.scan.reference import scan

from .conditioned import assert_conditioned
from .native_region import Output, Stream, address, positions, run_region, strided

DECAYS: tuple[DecayShape, ...] = ("none", "head", "state", "token_head", "token_channel")
UPDATES: tuple[Update, ...] = ("add", "delta", "erase_write")
STREAMS = ("v", "k", "q", "decay", "dt", "beta", "erase", "write")
SCALE = 0.7


class ScanStruct(ctypes.Structure):
    """`llmc_scan`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "key_heads", "key_dim", "value_dim")),
        ("position", ctypes.c_void_p),
        *((name, Stream) for name in STREAMS),
        ("skip", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("decay_per", "is_A_log", "update")),
        ("scale", ctypes.c_float),
        ("state", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Calls of a scan that continue one state, if one is kept."""

    lengths: tuple[int, ...]
    """Tokens of each."""
    heads: int
    """Of each group."""
    groups: int
    key_dim: int
    value_dim: int
    decay_per: DecayShape = "none"
    decay_form: DecayForm = "log"
    update: Update = "add"
    batch: int = 2
    keeps: bool
    without: AbstractSet[str]
    """Operands that are absent."""
    is_padded: bool = True
    strength: float = 1.0
    """Of decays; beyond 1, of some nothing is left."""
    threads: int
    seed: int

    def fields(self) -> dict[str, object]:
        """As the reference takes them."""
        names = ("key_dim", "value_dim", "decay_per", "decay_form", "update")
        return {"scale": SCALE, **{name: getattr(self, name) for name in names}}


def calls(**others: st.SearchStrategy[object]) -> st.SearchStrategy[Calls]:
    """Calls of what is given, the rest as it comes."""
    return st.builds(
        Calls,
        **{
            "groups": st.sampled_from([1, 2]),
            "decay_form": st.sampled_from(["log", "A_log"]),
            "keeps": st.booleans(),
            "without": st.sets(st.sampled_from(["dt", "skip"])),
            "threads": st.integers(1, 3),
            "seed": st.integers(0, 99),
            **others,
        },
    )


def compare(isa: str, calls: Calls, *, tolerance: float) -> None:
    """Every call against the reference in float64, which goes on from the state as it was before."""
    torch.manual_seed(calls.seed)
    shape = (calls.batch, calls.heads * calls.groups, calls.key_dim, calls.value_dim)
    state = torch.randn(shape) if calls.keeps else None

    def reference(wide: dict[str, Any]) -> dict[str, Tensor]:
        if state is None:
            return {"out": scan(**wide)}
        out, (after,) = scan(**{**wide, "state": (wide["state"],)})
        return {"out": out, "state": after}

    for tokens in calls.lengths:
        x = _operands(calls, tokens)
        position = torch.arange(tokens).expand(calls.batch, tokens).contiguous()
        position = positions(calls.batch, tokens) if calls.is_padded else position
        given: dict[str, object] = {**x, "position": position, **calls.fields()}
        if state is not None:
            given["state"] = state.clone()
        found = {"out": _run(isa, calls, x, position, state)}
        if state is not None:
            found["state"] = state
        assert_conditioned(found, reference, given, dtype=torch.float32, tolerance=tolerance)


def _operands(calls: Calls, tokens: int) -> dict[str, Tensor]:
    """Random operands of one call; keys of length about one, so that the delta rules are stable."""
    batch, key_dim, groups, heads = calls.batch, calls.key_dim, calls.groups, calls.heads * calls.groups
    keys = torch.randn(batch, tokens, groups, key_dim)
    made = {
        "v": torch.randn(batch, tokens, heads * calls.value_dim),
        "k": (keys / keys.norm(dim=-1, keepdim=True)).flatten(-2),
        "q": torch.randn(batch, tokens, groups * key_dim),
        "dt": torch.rand(batch, tokens, heads) + 0.1,
        "skip": torch.randn(heads),
    }
    shapes = {
        "head": (heads,),
        "state": (heads, key_dim),
        "token_head": (batch, tokens, heads),
        "token_channel": (batch, tokens, heads * key_dim),
    }
    if calls.decay_per != "none":
        is_a_log = calls.decay_form == "A_log"
        decay = -torch.rand(shapes[calls.decay_per]) - 0.05
        if calls.strength > 1:
            decay = decay * (1 if is_a_log else calls.strength)
            decay.view(-1)[0] = 5.0 if is_a_log else -torch.inf
        made["decay"] = decay
    if calls.update == "delta":
        made["beta"] = torch.rand(batch, tokens, heads)
    if calls.update == "erase_write":
        made |= {name: torch.randn(batch, tokens, heads * key_dim) / key_dim for name in ("erase", "write")}
    return {name: one for name, one in made.items() if name not in calls.without}


def _run(isa: str, calls: Calls, x: dict[str, Tensor], position: Tensor, state: Tensor | None) -> Tensor:
    """What is read in C; the state is brought up to date."""
    batch, tokens = position.shape
    heads, kept = calls.heads * calls.groups, dict[str, Tensor]()
    out = Output(batch, tokens, heads * calls.value_dim)
    sizes = (batch, tokens, heads, calls.groups, calls.key_dim, calls.value_dim)
    argument = ScanStruct(*sizes, position.data_ptr(), scale=SCALE, out=out.address)
    argument.decay_per, argument.update = DECAYS.index(calls.decay_per), UPDATES.index(calls.update)
    argument.is_A_log = calls.decay_form == "A_log"
    argument.state, argument.skip = address(state), address(x.get("skip"))
    for name in STREAMS:
        if name in x and name == "decay" and calls.decay_per in ("head", "state"):
            argument.decay = Stream(address(x[name]), 0)
        elif name in x:
            kept[name], stride = strided(x[name])
            setattr(argument, name, Stream(address(kept[name]), stride))
    run_region(isa, "scan", "llmc_run_scan", argument, threads=calls.threads)
    return out.check()
