"""Experts in C against their references in float64, over generated shapes: plain weights, and packed ones."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
from __future__ import annotations

import ctypes
import math
from typing import Any, Literal, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.moe.fields import Experts as ExpertsRecord
from llmc.kernels.moe.fields import Packing
from llmc.kernels.moe.packed_reference import inner_units, outputs
from llmc.kernels.moe.reference import experts
from llmc.kernels.tolerance import assert_close

from .conditioned import assert_conditioned
from .native import KERNELS
from .native_linear import FORMATS, SOURCES, Layer, mean_magnitude, pack, unpack
from .native_region import Output, run_region

ISAS = ("native", "avx2", "portable")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PACKINGS: tuple[Packing, ...] = ("separate", "halves", "interleaved")
EXPERTS_CALL = (*(f"linear/native/{path.name}" for path in SOURCES[1:]), "pointwise/native.c", "norm/native.c")
PACKED = ("int8", "int4_32", "int4_128", "ternary")
ROUNDED = 1e-2
WIDTHS = st.sampled_from([1, 3, 7, 16, 17, 31, 32, 33, 40, 64, 70, 130])


class Experts(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weights", "picks", "out")),
        *((name, ctypes.c_int64) for name in ("x_stride", "rows", "top_k", "num_experts", "width", "inner")),
        *((name, ctypes.c_void_p) for name in ("gate", "up", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("gate_bias", "up_bias", "gate_up_bias", "down_bias")),
        *((n, ctypes.c_int) for n in ("in_format", "down_format", "is_in_out", "packing", "weighs_input")),
        ("activate", ctypes.c_void_p),
        ("limit", ctypes.c_float),
        ("up_offset", ctypes.c_float),
        *((n, ctypes.c_void_p) for n in ("hidden", "order", "starts", "x_rounded", "hidden_rounded", "panels")),
        ("first_panel", ctypes.c_void_p),
    )


EXPERTS = f"""
#include "{KERNELS / "pointwise" / "native.h"}"
static void run_silu(llmc_thread *t, void *argument) {{
    llmc_experts a = *(llmc_experts *)argument;
    a.activate = llmc_activate_silu;
    llmc_run_experts(t, &a);
}}
"""


def expert_weights(
    count: int, width: int, inner: int, packing: Packing, layout: str, gated: bool, dtype: torch.dtype, has_bias: bool
) -> dict[str, Tensor]:
    """Random stacked weights and biases under the names of the reference."""
    matrices = {"up_proj": (inner, width), "down_proj": (width, inner)}
    if gated and packing == "separate":
        matrices["gate_proj"] = (inner, width)
    elif gated:
        matrices = {"gate_up_proj": (2 * inner, width), "down_proj": (width, inner)}
    made: dict[str, Tensor] = {}
    for name, (out, size) in matrices.items():
        weight = (torch.randn(count, out, size) / size**0.5).to(dtype)
        made[name] = weight if layout == "out_in" else weight.transpose(1, 2).contiguous()
        if has_bias:
            made[f"{name}_bias"] = torch.randn(count, out)
    return made


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@given(
    rows=st.sampled_from([1, 2, 3, 9, 13, 40, 200]),
    count=st.integers(1, 9),
    width=WIDTHS,
    inner=WIDTHS,
    packing=st.sampled_from(PACKINGS),
    gated=st.booleans(),
    has_bias=st.booleans(),
    limit=st.sampled_from([None, 0.5]),
    weighs=st.sampled_from(["output", "input"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
)
def test_experts(
    isa: str,
    layout: Literal["out_in", "in_out"],
    rows: int,
    count: int,
    width: int,
    inner: int,
    packing: Packing,
    gated: bool,
    has_bias: bool,
    limit: float | None,
    weighs: Literal["output", "input"],
    dtype: torch.dtype,
    seed: int,
    threads: int,
) -> None:
    torch.manual_seed(seed)
    packing = packing if gated else "separate"
    top_k = int(torch.randint(1, count + 1, ()))
    x, weights = torch.randn(rows, width + 5), torch.rand(rows, top_k)
    picks = torch.stack([torch.randperm(count)[:top_k] for _ in range(rows)])
    stored = expert_weights(count, width, inner, packing, layout, gated, dtype, has_bias)
    operands: dict[str, object] = {"x": x, "weights": weights, "experts": picks, **stored}
    fields = {"packing": packing, "layout": layout, "limit": limit, "up_offset": 0.3, "weighs": weighs}
    formats = (str(DTYPES.index(dtype)),) * 2
    out, _ = run_experts(isa, operands | fields, (count, width, inner), formats, threads)
    computed = torch.bfloat16 if rounds_plain(isa, formats[0], picks) else torch.float32
    read = operands | {"x": x[:, :width]}
    assert_conditioned({"out": out}, lambda wide: {"out": experts(**wide, **fields)}, read, dtype=computed)  # type: ignore[arg-type]


def rounds_plain(isa: str, format: str, picks: Tensor) -> bool:
    """Whether some rows of a plain matrix are rounded to bfloat16, as processors with that product do in tiles."""
    return isa == "native" and format == str(DTYPES.index(torch.bfloat16)) and int(picks.flatten().bincount().max()) > 8


@pytest.mark.parametrize("isa", ISAS)
@given(
    rows=st.sampled_from([1, 2, 5, 8, 9, 13, 40, 200]),
    count=st.integers(1, 9),
    width=WIDTHS,
    inner=WIDTHS,
    packing=st.sampled_from(PACKINGS),
    gated=st.booleans(),
    has_bias=st.booleans(),
    weighs=st.sampled_from(["output", "input"]),
    formats=st.sampled_from([*((one, one) for one in PACKED), ("0", "int8"), ("int4_32", "1"), ("int8", "int4_128")]),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
)
def test_packed_experts(
    isa: str,
    rows: int,
    count: int,
    width: int,
    inner: int,
    packing: Packing,
    gated: bool,
    has_bias: bool,
    weighs: Literal["output", "input"],
    formats: tuple[str, str],
    seed: int,
    threads: int,
) -> None:
    """Both products are exact but for float32: inner units of rounded tokens, outputs of what those were rounded to."""
    torch.manual_seed(seed)
    packing = packing if gated else "separate"
    top_k = int(torch.randint(1, count + 1, ()))
    x, weights = torch.randn(rows, width + 5), torch.rand(rows, top_k)
    picks = torch.stack([torch.randperm(count)[:top_k] for _ in range(rows)])
    weight = expert_weights(count, width, inner, packing, "out_in", gated, torch.float32, has_bias)
    stored, kept = dict(weight), {name: value.double() for name, value in weight.items()}
    for name in weight.keys() & {"gate_proj", "up_proj", "gate_up_proj", "down_proj"}:
        is_pair, format = name == "gate_up_proj" and packing == "halves", formats[name == "down_proj"]
        stored[name], kept[name] = packed_stack(isa, format, weight[name], is_pair=is_pair)
    fields = {"packing": packing, "limit": 0.9, "up_offset": 0.3, "weighs": weighs}
    operands: dict[str, object] = {"x": x, "weights": weights, "experts": picks, **stored}
    out, hidden = run_experts(isa, operands | fields, (count, width, inner), formats, threads)
    order = picks.flatten().argsort(stable=True)
    by_token = torch.empty_like(hidden)
    by_token[order] = hidden
    exact = {"x": x[:, :width].double(), "weights": weights.double(), "experts": picks, **kept, **fields}
    wide = ExpertsRecord(**cast("dict[str, Any]", exact))
    names = ["" if format.isdigit() else format.removesuffix("_32") for format in formats]
    assert_close("hidden", by_token, inner_units(wide, names[0]), tolerance=5e-6)
    tolerance = ROUNDED if rounds_plain(isa, formats[1], picks) else 5e-6
    assert_close("out", out, outputs(wide, by_token.double(), names[1]), tolerance=tolerance)


def packed_stack(isa: str, format: str, weight: Tensor, *, is_pair: bool) -> tuple[Tensor, Tensor]:
    """A stack `[E, N, K]` as the kernel reads it, and what it multiplies with, in float64. format: a number: plain."""
    if format.isdigit():
        plain = weight.to(DTYPES[int(format)])
        return plain, plain.double()
    packed: list[Tensor] = []
    kept: list[Tensor] = []
    for one in weight.numpy():
        scale = mean_magnitude(isa, one) if format == "ternary" else 0.0
        memory = pack(isa, format, one, is_gated=is_pair, scale=scale)
        N = one.shape[0] // (1 + is_pair)
        layer = Layer(weight=memory, bias=None, N=N, K=one.shape[1], format=format, is_gated=is_pair)
        packed.append(torch.from_numpy(memory))
        kept.append(torch.from_numpy(unpack(isa, layer)).double())
    return torch.stack(packed), torch.stack(kept)


def run_experts(
    isa: str, operands: dict[str, object], sizes: tuple[int, int, int], formats: tuple[str, str], threads: int
) -> tuple[Tensor, Tensor]:
    """What the kernel gives, and the inner units of the picks, expert by expert. sizes: experts, width and inner; x has
    rows of more numbers than the width. formats: of gate and up, and of down; numbers are plain ones."""
    tensors = {name: value for name, value in operands.items() if isinstance(value, Tensor)}
    x, weights, picks = (tensors.pop(name) for name in ("x", "weights", "experts"))
    (count, width, inner), (rows, top_k) = sizes, picks.shape
    out, hidden = Output(rows, width), Output(rows * top_k, inner)
    argument = Experts(x.data_ptr(), weights.data_ptr(), picks.data_ptr(), out.address)
    argument.x_stride, argument.rows, argument.top_k, argument.num_experts = x.stride(0), rows, top_k, count
    argument.width, argument.inner = width, inner
    numbers = [int(one) if one.isdigit() else FORMATS.index(one) for one in formats]
    argument.in_format, argument.down_format = numbers
    argument.is_in_out, argument.packing = operands.get("layout") == "in_out", PACKINGS.index(operands["packing"])
    limit = cast("float | None", operands["limit"])
    argument.weighs_input, argument.limit = operands["weighs"] == "input", math.inf if limit is None else limit
    argument.up_offset = operands["up_offset"]
    for name, value in tensors.items():
        setattr(argument, name.replace("_proj", ""), value.data_ptr())
    order = torch.full((rows * top_k,), -9, dtype=torch.int32)
    starts = torch.full((2 * count + 1,), -9, dtype=torch.int32)
    argument.hidden, argument.order, argument.starts = hidden.address, order.data_ptr(), starts.data_ptr()
    rounded = {size: -(-size // 128) * 40 for size in (width, inner)}
    most = max(
        size if format.isdigit() else rounded[size] for format, size in zip(formats, (width, inner), strict=True)
    )
    room = {
        "x_rounded": Output(rows, rounded[width]),
        "hidden_rounded": Output(rows * top_k, rounded[inner]),
        "panels": Output(rows * 2 * top_k, most),
    }
    first_panel = torch.full((count,), -9, dtype=torch.int32)
    argument.first_panel = first_panel.data_ptr()
    for name, memory in room.items():
        setattr(argument, name, memory.address)
    run_region(
        isa,
        "moe/native",
        "run_silu",
        argument,
        header="experts.h",
        before=EXPERTS,
        others=EXPERTS_CALL,
        threads=threads,
    )
    for memory in room.values():
        memory.check()
    return out.check(), hidden.check()
