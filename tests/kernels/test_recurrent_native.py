"""Scan, short convolution and token shift in C against their references in float64, over calls that continue."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import ctypes
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.conv.reference import short_conv
from llmc.kernels.pointwise.reference import ActivationKind
from llmc.kernels.scan.reference import DecayForm, DecayShape, Update, scan
from llmc.kernels.shift.reference import token_shift
from llmc.kernels.tolerance import TOLERANCE, assert_close, error_ratio

from .native import KERNELS
from .native_region import Output, Stream, address, run_region

DECAYS: tuple[DecayShape, ...] = ("none", "head", "state", "token_head", "token_channel")
UPDATES: tuple[Update, ...] = ("add", "delta", "erase_write")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ISAS = ("native", "avx2", "portable")
FEW = st.sampled_from([1, 2, 3, 5])
WIDTHS = st.sampled_from([1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 70, 130])


class Scan(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "key_heads", "key_dim", "value_dim")),
        ("position", ctypes.c_void_p),
        *((name, Stream) for name in ("v", "k", "q", "decay", "dt", "beta", "erase", "write")),
        ("skip", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("decay_per", "is_A_log", "update")),
        ("scale", ctypes.c_float),
        ("state", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


class Conv(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("x_stride", "batch", "tokens", "channels", "taps")),
        *((name, ctypes.c_void_p) for name in ("position", "weight", "bias", "activate", "tail")),
        ("type", ctypes.c_int),
    )


class Shift(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("x_stride", "batch", "tokens", "features")),
        ("position", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("type", ctypes.c_int),
    )


def positions(batch: int, tokens: int) -> Tensor:
    """Positions with padding anywhere. -> `[B, T]` int64"""
    is_token = torch.rand(batch, tokens) > 0.2
    return torch.where(is_token, is_token.cumsum(1) - 1, -1)


def strided(x: Tensor) -> tuple[Tensor, int]:
    """The same rows with something between them, and the floats from row to row."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
    wide[..., : x.shape[-1]] = x
    return wide, x.shape[-1] + 3


def scan_operands(
    batch: int,
    tokens: int,
    heads: int,
    groups: int,
    key_dim: int,
    value_dim: int,
    decay_per: DecayShape,
    update: Update,
) -> dict[str, Tensor]:
    """Random operands of one call; keys of length about one, so that the delta rules are stable."""
    keys = torch.randn(batch, tokens, groups, key_dim)
    keys = (keys / keys.norm(dim=-1, keepdim=True)).flatten(-2)
    made = {
        "v": torch.randn(batch, tokens, heads * value_dim),
        "k": keys,
        "q": torch.randn(batch, tokens, groups * key_dim),
        "dt": torch.rand(batch, tokens, heads) + 0.1,
        "beta": torch.rand(batch, tokens, heads),
        "erase": torch.randn(batch, tokens, heads * key_dim) / key_dim,
        "write": torch.randn(batch, tokens, heads * key_dim) / key_dim,
        "skip": torch.randn(heads),
    }
    shapes = {
        "head": (heads,),
        "state": (heads, key_dim),
        "token_head": (batch, tokens, heads),
        "token_channel": (batch, tokens, heads * key_dim),
    }
    if decay_per != "none":
        made["decay"] = -torch.rand(shapes[decay_per]) - 0.05
    if update != "delta":
        del made["beta"]
    if update != "erase_write":
        del made["erase"], made["write"]
    return made


def run_scan(
    isa: str,
    x: dict[str, Tensor],
    position: Tensor,
    state: Tensor | None,
    *,
    sizes: tuple[int, int, int, int],
    rule: tuple[DecayShape, DecayForm, Update],
    scale: float,
    threads: int,
) -> Tensor:
    heads, groups, key_dim, value_dim = sizes
    decay_per, decay_form, update = rule
    batch, tokens = position.shape
    out, kept = Output(batch, tokens, heads * value_dim), dict[str, Tensor]()
    argument = Scan(batch, tokens, heads, groups, key_dim, value_dim, position.data_ptr(), scale=scale, out=out.address)
    argument.decay_per, argument.update = DECAYS.index(decay_per), UPDATES.index(update)
    argument.is_A_log = decay_form == "A_log"
    argument.state, argument.skip = address(state), address(x.get("skip"))
    for name in ("v", "k", "q", "decay", "dt", "beta", "erase", "write"):
        if name in x and name == "decay" and decay_per in ("head", "state"):
            argument.decay = Stream(address(x[name]), 0)
        elif name in x:
            kept[name], stride = strided(x[name])
            setattr(argument, name, Stream(address(kept[name]), stride))
    run_region(isa, "scan", "llmc_run_scan", argument, threads=threads)
    return out.check()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("decay_per", DECAYS)
@given(
    batch=st.integers(1, 2),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    heads=FEW,
    groups=st.sampled_from([1, 2]),
    key_dim=WIDTHS,
    value_dim=st.just(1) | WIDTHS,
    form=st.sampled_from(["log", "A_log"]),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
    keeps=st.booleans(),
    without=st.sets(st.sampled_from(["dt", "skip"])),
)
def test_scan(
    isa: str,
    update: Update,
    decay_per: DecayShape,
    batch: int,
    lengths: list[int],
    heads: int,
    groups: int,
    key_dim: int,
    value_dim: int,
    form: Literal["log", "A_log"],
    seed: int,
    threads: int,
    keeps: bool,
    without: set[str],
) -> None:
    torch.manual_seed(seed)
    heads *= groups
    state = torch.randn(batch, heads, key_dim, value_dim) if keeps else None
    expected_state = None if state is None else state.double()
    for tokens in lengths:
        x = scan_operands(batch, tokens, heads, groups, key_dim, value_dim, decay_per, update)
        x = {name: value for name, value in x.items() if name not in without}
        position = positions(batch, tokens)
        rule = (decay_per, form, update)
        sizes = (heads, groups, key_dim, value_dim)
        out = run_scan(isa, x, position, state, sizes=sizes, rule=rule, scale=0.7, threads=threads)
        wide = {name: value.double() for name, value in x.items()}
        before = None if expected_state is None else expected_state.float()
        fields = {"position": position, "key_dim": key_dim, "value_dim": value_dim, "scale": 0.7}
        rules = {"decay_per": decay_per, "decay_form": form, "update": update}
        exact = _read(scan(**wide, **fields, **rules, **_with(expected_state)))  # type: ignore[call-overload,arg-type]  # pyright: ignore[reportArgumentType,reportCallIssue]
        plain = _read(scan(**x, **fields, **rules, **_with(before)))  # type: ignore[call-overload,arg-type]  # pyright: ignore[reportArgumentType,reportCallIssue]
        assert_close("out", out, exact, tolerance=5e-6 + 3 * error_ratio(plain, exact))
        if state is not None and expected_state is not None and before is not None:
            slack = 3 * error_ratio(before, expected_state)
            assert_close("state", state, expected_state, tolerance=5e-6 + slack)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("decay_per", ["none", "head", "token_head"])
@given(
    lengths=st.lists(st.sampled_from([8, 9, 31, 32, 33, 70]), min_size=1, max_size=2),
    heads=st.sampled_from([1, 3, 7]),
    groups=st.sampled_from([1, 2]),
    key_dim=st.sampled_from([64, 65, 70, 128]),
    value_dim=st.sampled_from([8, 9, 16, 33, 64, 130]),
    form=st.sampled_from(["log", "A_log"]),
    strong=st.booleans(),
    is_padded=st.booleans(),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
    keeps=st.booleans(),
    without=st.sets(st.sampled_from(["dt", "skip"])),
)
def test_chunks(
    isa: str,
    decay_per: DecayShape,
    lengths: list[int],
    heads: int,
    groups: int,
    key_dim: int,
    value_dim: int,
    form: Literal["log", "A_log"],
    strong: bool,
    is_padded: bool,
    seed: int,
    threads: int,
    keeps: bool,
    without: set[str],
) -> None:
    """Several tokens at once are what one after the other are, however fast they are forgotten."""
    torch.manual_seed(seed)
    heads, batch = heads * groups, 2
    state = torch.randn(batch, heads, key_dim, value_dim) if keeps else None
    for tokens in lengths:
        x = scan_operands(batch, tokens, heads, groups, key_dim, value_dim, decay_per, "add")
        x = {name: value for name, value in x.items() if name not in without}
        if strong and "decay" in x:
            x["decay"] = x["decay"] * (1 if form == "A_log" else 200)
            x["decay"].view(-1)[0] = 5.0 if form == "A_log" else -torch.inf
        position = positions(batch, tokens) if is_padded else torch.arange(tokens).expand(batch, tokens).contiguous()
        expected_state = None if state is None else state.double()
        rule: tuple[DecayShape, DecayForm, Update] = (decay_per, form, "add")
        sizes = (heads, groups, key_dim, value_dim)
        out = run_scan(isa, x, position, state, sizes=sizes, rule=rule, scale=0.7, threads=threads)
        wide = {name: value.double() for name, value in x.items()}
        fields = {"position": position, "key_dim": key_dim, "value_dim": value_dim, "scale": 0.7}
        rules = {"decay_per": decay_per, "decay_form": form}
        exact = _read(scan(**wide, **fields, **rules, **_with(expected_state)))  # type: ignore[call-overload,arg-type]  # pyright: ignore[reportArgumentType,reportCallIssue]
        assert_close("out", out, exact, tolerance=3e-6)
        if state is not None and expected_state is not None:
            assert_close("state", state, expected_state, tolerance=3e-6)


@pytest.mark.parametrize("isa", ISAS)
@given(
    rule=st.sampled_from([("token_channel", "add"), ("state", "add"), ("none", "delta"), ("head", "delta")])
    | st.tuples(st.sampled_from(["token_head", "token_channel"]), st.sampled_from(["delta", "erase_write"])),
    lengths=st.lists(st.sampled_from([16, 17, 31, 40]), min_size=1, max_size=2),
    heads=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2]),
    sizes=st.sampled_from([(65, 130), (130, 70), (66, 128), (257, 33)]),
    form=st.sampled_from(["log", "A_log"]),
    strong=st.booleans(),
    is_padded=st.booleans(),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
    keeps=st.booleans(),
    without=st.sets(st.sampled_from(["dt", "skip"])),
)
def test_chunks_of_large_states(
    isa: str,
    rule: tuple[DecayShape, Update],
    lengths: list[int],
    heads: int,
    groups: int,
    sizes: tuple[int, int],
    form: DecayForm,
    strong: bool,
    is_padded: bool,
    seed: int,
    threads: int,
    keeps: bool,
    without: set[str],
) -> None:
    """States that are erased, or whose channels forget at rates of their own, however fast."""
    torch.manual_seed(seed)
    heads, batch, (key_dim, value_dim), (decay_per, update) = heads * groups, 2, sizes, rule
    state = torch.randn(batch, heads, key_dim, value_dim) if keeps else None
    for tokens in lengths:
        x = scan_operands(batch, tokens, heads, groups, key_dim, value_dim, decay_per, update)
        x = {name: value for name, value in x.items() if name not in without}
        if strong and "decay" in x:
            x["decay"] = x["decay"] * (1 if form == "A_log" else 60)
            x["decay"].view(-1)[0] = 5.0 if form == "A_log" else -torch.inf
        position = positions(batch, tokens) if is_padded else torch.arange(tokens).expand(batch, tokens).contiguous()
        expected_state = None if state is None else state.double()
        shape = (heads, groups, key_dim, value_dim)
        out = run_scan(isa, x, position, state, sizes=shape, rule=(decay_per, form, update), scale=0.7, threads=threads)
        wide = {name: value.double() for name, value in x.items()}
        fields = {"position": position, "key_dim": key_dim, "value_dim": value_dim, "scale": 0.7}
        rules = {"decay_per": decay_per, "decay_form": form, "update": update}
        exact = _read(scan(**wide, **fields, **rules, **_with(expected_state)))  # type: ignore[call-overload,arg-type]  # pyright: ignore[reportArgumentType,reportCallIssue]
        assert_close("out", out, exact, tolerance=3e-6)
        if state is not None and expected_state is not None:
            assert_close("state", state, expected_state, tolerance=3e-6)


def _with(state: Tensor | None) -> dict[str, object]:
    return {} if state is None else {"state": (state,)}


def _read(found: object) -> Tensor:
    """What a scan gives, with or without its state."""
    out = found[0] if isinstance(found, tuple) else found  # pyright: ignore[reportUnknownVariableType]
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("isa", ISAS)
@given(
    batch=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    channels=WIDTHS,
    taps=st.integers(1, 6),
    activation=st.sampled_from(["identity", "silu", "gelu"]),
    has_bias=st.booleans(),
    keeps=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
)
def test_short_conv(
    isa: str,
    batch: int,
    lengths: list[int],
    channels: int,
    taps: int,
    activation: ActivationKind,
    has_bias: bool,
    keeps: bool,
    dtype: torch.dtype,
    seed: int,
    threads: int,
) -> None:
    torch.manual_seed(seed)
    weight, bias = torch.randn(channels, 1, taps), torch.randn(channels) if has_bias else None
    tail = torch.randn(batch, channels, taps - 1).to(dtype)
    for tokens in lengths:
        x, position, out = (
            torch.randn(batch, tokens, channels),
            positions(batch, tokens),
            Output(batch, tokens, channels),
        )
        state = (tail.double(),)
        wide, stride = strided(x)
        argument = Conv(address(wide), out.address, stride, batch, tokens, channels, taps)
        argument.position, argument.weight, argument.bias = position.data_ptr(), address(weight), address(bias)
        argument.tail, argument.type = address(tail) if keeps else None, DTYPES.index(dtype)
        _run_conv(isa, argument, activation, threads)
        operands = {"x": x.double(), "position": position, "weight": weight.double(), "activation": activation}
        if bias is not None:
            operands["bias"] = bias.double()
        found = short_conv(**operands, **({"state": state} if keeps else {}))  # type: ignore[call-overload]  # pyright: ignore
        assert_close("out", out.check(), found if isinstance(found, Tensor) else found[0])
        if keeps and taps > 1:
            assert_close("tail", tail.float(), state[0], tolerance=TOLERANCE[dtype])


def _run_conv(isa: str, argument: Conv, activation: str, threads: int) -> None:
    """The struct holds the address of an activation, which only C knows."""
    others = ("pointwise/native.c", "norm/native.c")
    function = f"""
#include "{KERNELS / "pointwise" / "native.h"}"
static void convolve_{activation}(llmc_thread *t, void *a) {{
    llmc_conv b = *(llmc_conv *)a;
    b.activate = llmc_activate_{activation};
    llmc_short_conv(t, &b);
}}
"""
    run_region(isa, "conv", f"convolve_{activation}", argument, others=others, threads=threads, before=function)


@pytest.mark.parametrize("isa", ISAS)
@given(
    batch=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    features=st.sampled_from([1, 7, 64, 256, 300, 513]),
    keeps=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_token_shift(
    isa: str, batch: int, lengths: list[int], features: int, keeps: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    last = torch.randn(batch, features).to(dtype)
    expected = last.clone()
    for tokens in lengths:
        x, position, out = (
            torch.randn(batch, tokens, features),
            positions(batch, tokens),
            Output(batch, tokens, features),
        )
        wide, stride = strided(x)
        argument = Shift(address(wide), out.address, stride, batch, tokens, features, position.data_ptr())
        argument.last, argument.type = address(last) if keeps else None, DTYPES.index(dtype)
        run_region(isa, "shift", "llmc_token_shift", argument)
        if keeps:
            found, (expected,) = token_shift(x=x, position=position, state=(expected,))
        else:
            found = token_shift(x=x, position=position)
        assert torch.equal(out.check(), found)
        if keeps:
            assert torch.equal(last, expected)
