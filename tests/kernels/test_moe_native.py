"""Routers and latent attention in C against their references in float64, over generated shapes."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmc.kernels.latent_attention.reference import latent_attend_cached
from llmc.kernels.moe.reference import GroupScore, ScoreKind, router
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .native_linear import Matrix
from .native_region import Output, Stream, address, run_region

ISAS = ("native", "avx2", "portable")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCORES: tuple[ScoreKind, ...] = ("softmax", "sigmoid", "sqrtsoftplus")
LINEAR = ("linear/native/plain.c",)
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
