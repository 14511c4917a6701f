"""Routers, experts and latent attention in C against their references in float64, over generated shapes."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
from __future__ import annotations

import ctypes
import math
from typing import Literal, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.latent_attention.reference import latent_attend_cached
from llmc.kernels.moe.packed_reference import inner_units, outputs
from llmc.kernels.moe.reference import GroupScore, Packing, ScoreKind, experts, router
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .native import KERNELS
from .native_linear import FORMATS, SOURCES, Layer, Matrix, mean_magnitude, pack, unpack
from .native_region import Output, Stream, address, run_region

ISAS = ("native", "avx2", "portable")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCORES: tuple[ScoreKind, ...] = ("softmax", "sigmoid", "sqrtsoftplus")
PACKINGS: tuple[Packing, ...] = ("separate", "halves", "interleaved")
LINEAR = ("linear/native/plain.c",)
EXPERTS_CALL = (*(f"linear/native/{path.name}" for path in SOURCES[1:]), "pointwise/native.c", "norm/native.c")
PACKED = ("int8", "int4_32", "int4_128", "ternary")
WIDTHS = st.sampled_from([1, 3, 7, 16, 17, 31, 32, 33, 40, 64, 70, 130])


class Routing(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_experts", "top_k", "num_groups", "top_groups")),
        *((name, ctypes.c_int) for name in ("score", "is_over_chosen", "normalises", "sums_two")),
        ("scale", ctypes.c_float),
        ("correction", ctypes.c_void_p),
    )


class RouterCall(ctypes.Structure):
    """The operands of both functions of a router."""

    _fields_ = (
        ("m", Matrix),
        ("rule", Routing),
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("logits", "weights", "experts", "spare")),
    )


ROUTE = """
typedef struct {
    llmc_matrix m;
    llmc_routing rule;
    const float *x;
    int64_t x_stride, rows;
    float *logits, *weights;
    int64_t *experts;
    float *spare;
} router_call;
static void route_all(llmc_thread *t, void *argument) {
    router_call *a = argument;
    int64_t n = a->rule.num_experts, k = a->rule.top_k, spare = 2 * n + a->rule.num_groups;
    llmc_router_logits(t, &a->m, a->x, a->x_stride, a->logits, a->rows);
    LLMC_FOR(t, r, a->rows)
        llmc_route(a->weights + r * k, a->experts + r * k, a->logits + r * n, a->spare + r * spare, &a->rule);
}
"""


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


class Latent(ctypes.Structure):
    _fields_ = (
        *((n, ctypes.c_int64) for n in ("batch", "tokens", "heads", "rank", "nope_dim", "rope_dim", "value_dim")),
        *((name, Stream) for name in ("q_nope", "q_rope", "latent", "k_rope")),
        *((name, ctypes.c_void_p) for name in ("kv_up", "latents", "k_ropes")),
        ("slots", ctypes.c_int64),
        ("type", ctypes.c_int),
        ("position", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("absorbed", "context", "out")),
    )


@pytest.mark.parametrize("isa", ISAS)
@given(
    rows=st.sampled_from([1, 2, 5, 8, 9, 20]),
    groups=st.sampled_from([1, 2, 4]),
    in_group=st.integers(1, 9),
    width=WIDTHS,
    score=st.sampled_from(SCORES),
    is_over_chosen=st.booleans(),
    normalise=st.booleans(),
    group_score=st.sampled_from(["max", "top2_sum"]),
    corrects=st.booleans(),
    ties=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_router(
    isa: str,
    rows: int,
    groups: int,
    in_group: int,
    width: int,
    score: ScoreKind,
    is_over_chosen: bool,
    normalise: bool,
    group_score: GroupScore,
    corrects: bool,
    ties: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Picks are compared as numbers: what the reference does with scores of the kernel's own logits, ties included."""
    torch.manual_seed(seed)
    count, top_groups = groups * in_group, max(1, groups // 2)
    top_k = int(torch.randint(1, top_groups * in_group + 1, ()))
    x, weight, bias = torch.randn(rows, width + 3), torch.randn(count, width).to(dtype), torch.randn(count)
    ties = ties and score != "sqrtsoftplus"  # torch rounds it otherwise in the lanes that a vector leaves over
    if ties:
        weight, bias = weight[:1].expand(count, width).contiguous(), torch.zeros(count)
    correction = torch.rand(count) if corrects else None
    logits, weights = Output(rows, count), Output(rows, top_k)
    picks, spare = torch.full((rows, top_k), -7), torch.full((rows, 2 * count + groups), torch.nan)
    rule = Routing(count, top_k, groups, top_groups, SCORES.index(score), is_over_chosen, normalise)
    rule.sums_two, rule.scale, rule.correction = group_score == "top2_sum", 1.7, address(correction)
    matrix = Matrix(weight.data_ptr(), address(bias), count, width, DTYPES.index(dtype), 0, 0)
    call = RouterCall(matrix, rule, x.data_ptr(), width + 3, rows, logits.address, weights.address, address(picks))
    call.spare = address(spare)
    run_region(isa, "moe/native", "route_all", call, header="router.h", before=ROUTE, others=LINEAR)
    operands = {"x": x[:, :width].double(), "weight": weight.double(), "bias": bias.double()}
    assert_close("logits", logits.check(), router(**operands, top_k=top_k)[2])
    identity = {"x": logits.tensor, "weight": torch.eye(count)}
    expected, picked, _ = router(
        **identity,
        correction=correction,
        top_k=top_k,
        score=score,
        score_over="chosen" if is_over_chosen else "all",
        normalise=normalise,
        scale=1.7,
        num_groups=groups,
        top_groups=top_groups,
        group_score=group_score,
    )
    if ties:
        assert torch.equal(picks, picked)
    assert_close("weights", weights.check(), expected)


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
    rows=st.sampled_from([1, 2, 3, 5, 9, 30]),
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
    wide = {name: value.double() for name, value in stored.items()}
    expected = experts(
        x=x[:, :width].double(),
        weights=weights.double(),
        experts=picks,
        packing=packing,
        layout=layout,
        limit=limit,
        up_offset=0.3,
        weighs=weighs,
        **wide,
    )
    assert_close("out", out, expected)


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
    wide = {"x": x[:, :width].double(), "weights": weights.double(), "experts": picks, **kept, **fields}
    names = ["" if format.isdigit() else format.removesuffix("_32") for format in formats]
    assert_close("hidden", by_token, inner_units(wide, names[0]), tolerance=5e-6)
    assert_close("out", out, outputs(wide, by_token.double(), names[1]), tolerance=5e-6)


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
    floats = {
        name: -(-size // 128) * 40 for name, size in {"x": width, "hidden": inner, "most": max(width, inner)}.items()
    }
    room = {
        "x_rounded": Output(rows, floats["x"]),
        "hidden_rounded": Output(rows * top_k, floats["hidden"]),
        "panels": Output(rows * ((3 * top_k + 1) // 2), floats["most"]),
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


@pytest.mark.parametrize("isa", ISAS)
@given(
    batch=st.integers(1, 3),
    lengths=st.lists(st.sampled_from([1, 2, 9, 70]), min_size=1, max_size=3),
    heads=st.sampled_from([1, 3, 4, 6]),
    rank=WIDTHS,
    nope_dim=st.sampled_from([1, 5, 16, 20]),
    rope_dim=st.sampled_from([2, 6, 16]),
    value_dim=st.sampled_from([1, 7, 16, 20]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
)
def test_latent_attention(
    isa: str,
    batch: int,
    lengths: list[int],
    heads: int,
    rank: int,
    nope_dim: int,
    rope_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    seed: int,
    threads: int,
) -> None:
    """Several calls fill one cache, padding anywhere; the reference reads the cache that the kernel wrote."""
    torch.manual_seed(seed)
    slots = sum(lengths) + 2
    latents, ropes = (torch.zeros(batch, 1, slots, size, dtype=dtype) for size in (rank, rope_dim))
    up = (torch.randn(heads * (nope_dim + value_dim), rank) / rank**0.5).to(dtype)
    held = torch.zeros(batch, 1, dtype=torch.int64)
    for tokens in lengths:
        is_token = torch.rand(batch, tokens) > 0.2
        position = torch.where(is_token, held + is_token.cumsum(1) - 1, -1)
        held = held + is_token.sum(1, keepdim=True)
        sizes = {"q_nope": heads * nope_dim, "q_rope": heads * rope_dim, "latent": rank, "k_rope": rope_dim}
        x = {name: torch.randn(batch, tokens, size) for name, size in sizes.items()}
        out = Output(batch, tokens, heads * value_dim)
        work = [torch.full((batch, tokens, heads * rank), torch.nan) for _ in range(2)]
        argument = Latent(batch, tokens, heads, rank, nope_dim, rope_dim, value_dim)
        for name, value in x.items():
            setattr(argument, name, Stream(value.data_ptr(), value.shape[-1]))
        argument.kv_up, argument.latents, argument.k_ropes = up.data_ptr(), latents.data_ptr(), ropes.data_ptr()
        argument.slots, argument.type, argument.position = slots, DTYPES.index(dtype), position.data_ptr()
        argument.scale, argument.out = 0.4, out.address
        argument.absorbed, argument.context = (one.data_ptr() for one in work)
        run_region(isa, "latent_attention", "llmc_latent_attend", argument, others=LINEAR, threads=threads)
        for row in range(batch):
            written = latents[row, 0, position[row][is_token[row]]].float()
            assert_close("latents", written, x["latent"][row][is_token[row]], tolerance=TOLERANCE[dtype])
        order = torch.arange(slots)
        expected = latent_attend_cached(
            q_nope=x["q_nope"].double(),
            q_rope=x["q_rope"].double(),
            latents=latents.double(),
            k_ropes=ropes.double(),
            key_position=torch.where(order < held, order, -1),
            kv_up=up.double(),
            position=position,
            nope_head_dim=nope_dim,
            rope_head_dim=rope_dim,
            v_head_dim=value_dim,
            scale=0.4,
        )
        assert_close("out", out.check(), expected)
