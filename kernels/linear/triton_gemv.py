"""Matrix-vector products of decoding in Triton: one token, or up to eight, with bias and a gated activation.

Floor: weight bytes / bandwidth, as every weight is read once. One token is multiplied lane by lane, summed over lanes
once at the end, so that the loop holds loads and multiply-adds only; the bytes in flight come from many small programs
(8 KiB of weights each and step, eight or more programs a multiprocessor: 64 KiB, where 40 hide the latency of an H200).
Two to eight tokens go through tensor cores as 16, of which the rest is padding. Beyond that cuBLAS is as good.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from ..pointwise.reference import ActivationKind
from . import reference

MOST_ROWS = 8
"""Tokens beyond which torch's product serves."""
PADDED_ROWS = 16
"""Rows of a tensor core's smallest product."""


def serves(request: Request) -> str | None:
    """None, or why torch's own product is to be preferred."""
    if request.phase != "decode":
        return "cuBLAS is better at many rows"
    x = request.shapes["x"]
    if len(x) != 3 or x[1] != 1:
        return f"it takes one token a row of the batch, not {x[1] if len(x) == 3 else list(x)}: cuBLAS is better there"
    if request.dtype not in ("bfloat16", "float16"):
        return f"it is for 16-bit weights, not {request.dtype}"
    return None


@triton.jit
def _one_row(
    p_x, p_weight, p_bias, p_out, size_in, size_out, stride,
    HAS_BIAS: tl.constexpr, KIND: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of the only token. With KIND the rows of gates are followed by those of what they gate."""
    IS_GATED: tl.constexpr = KIND != ""
    o_out, o_in = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT), tl.arange(0, BLOCK_IN)
    m_out = o_out < size_out
    p_row = p_weight + (o_out.to(tl.int64) * stride)[:, None] + o_in[None, :]
    p_up = p_row + size_out.to(tl.int64) * stride
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    b_ups = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(0, size_in, BLOCK_IN):
        m_in = start + o_in < size_in
        m_weight = m_out[:, None] & m_in[None, :]
        b_x = tl.load(p_x + start + o_in, mask=m_in, other=0.0, eviction_policy="evict_last").to(tl.float32)[None, :]
        b_weight = tl.load(p_row + start, mask=m_weight, other=0.0, eviction_policy="evict_first")
        b_sums += b_weight.to(tl.float32) * b_x
        if IS_GATED:
            b_weight = tl.load(p_up + start, mask=m_weight, other=0.0, eviction_policy="evict_first")
            b_ups += b_weight.to(tl.float32) * b_x
    b_out = tl.sum(b_sums, 1)
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_out, mask=m_out, other=0.0).to(tl.float32)
    if IS_GATED:
        b_up = tl.sum(b_ups, 1)
        if HAS_BIAS:
            b_up += tl.load(p_bias + size_out + o_out, mask=m_out, other=0.0).to(tl.float32)
        b_out = activate(b_out, KIND) * b_up
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
def _few_rows(
    p_x, p_weight, p_bias, p_out, rows, size_in, size_out, stride_x, stride,
    HAS_BIAS: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of all tokens, of which there are at most ROWS."""
    IS_GATED: tl.constexpr = KIND != ""
    i_row, o_in = tl.arange(0, ROWS), tl.arange(0, BLOCK_IN)
    o_out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    m_row, m_out = i_row < rows, o_out < size_out
    p_tokens = p_x + (i_row.to(tl.int64) * stride_x)[:, None] + o_in[None, :]
    p_row = p_weight + (o_out.to(tl.int64) * stride)[None, :] + o_in[:, None]
    p_up = p_row + size_out.to(tl.int64) * stride
    b_sums = tl.zeros((ROWS, BLOCK_OUT), tl.float32)
    b_ups = tl.zeros((ROWS, BLOCK_OUT), tl.float32)
    for start in range(0, size_in, BLOCK_IN):
        m_in = start + o_in < size_in
        m_weight = m_in[:, None] & m_out[None, :]
        b_x = tl.load(p_tokens + start, mask=m_row[:, None] & m_in[None, :], other=0.0)
        b_weight = tl.load(p_row + start, mask=m_weight, other=0.0, eviction_policy="evict_first")
        b_sums = tl.dot(b_x, b_weight, b_sums, input_precision="ieee")
        if IS_GATED:
            b_weight = tl.load(p_up + start, mask=m_weight, other=0.0, eviction_policy="evict_first")
            b_ups = tl.dot(b_x, b_weight, b_ups, input_precision="ieee")
    if HAS_BIAS:
        b_sums += tl.load(p_bias + o_out, mask=m_out, other=0.0).to(tl.float32)[None, :]
    if IS_GATED:
        if HAS_BIAS:
            b_ups += tl.load(p_bias + size_out + o_out, mask=m_out, other=0.0).to(tl.float32)[None, :]
        b_sums = activate(b_sums, KIND) * b_ups
    p_tile = p_out + i_row.to(tl.int64)[:, None] * size_out + o_out[None, :]
    tl.store(p_tile, b_sums.to(p_out.dtype.element_ty), mask=m_row[:, None] & m_out[None, :])


def _one_row_rule(key: Key) -> Config:
    """Outputs a program: fewer where the matrix has few rows, so that all multiprocessors have eight programs."""
    size_out, size_in = int(key["size_out"]), int(key["size_in"])
    outputs = 4 if size_out >= 4096 else 2 if size_out >= 1024 else 1
    outputs = max(1, outputs // 2) if key["is_gated"] else outputs
    return {"BLOCK_OUT": outputs, "BLOCK_IN": min(1024, max(128, size_in)), "num_warps": 4}


def _one_row_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_OUT": outputs, "BLOCK_IN": size_in, "num_warps": warps}
        for outputs in (1, 2, 4, 8)
        for size_in in (512, 1024, 2048)
        for warps in (2, 4, 8)
        if outputs * size_in <= 64 * 32 * warps and size_in <= max(512, int(key["size_in"]))
    )


def _few_rows_rule(key: Key) -> Config:
    """Tiles of 16 outputs and 256 inputs, 8 KiB, three in flight; wider ones where there are programs enough."""
    outputs = 32 if int(key["size_out"]) >= 16384 else 16
    return {"BLOCK_OUT": outputs, "BLOCK_IN": 256, "num_warps": 4, "num_stages": 3 if key["is_gated"] else 4}


def _few_rows_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_OUT": outputs, "BLOCK_IN": size_in, "num_warps": warps, "num_stages": stages}
        for outputs in (16, 32, 64)
        for size_in in (128, 256)
        for warps in (2, 4)
        for stages in (3, 4, 5)
        if outputs * size_in * stages * (4 if key["is_gated"] else 2) <= 160 * 1024
    )


ONE_ROW = Tunable(name="gemv_one_row", rule=_one_row_rule, space=_one_row_space)
FEW_ROWS = Tunable(name="gemv_few_rows", rule=_few_rows_rule, space=_few_rows_space)
TUNABLES = (ONE_ROW, FEW_ROWS)


def tuning_key(size_in: int, size_out: int, dtype: torch.dtype, *, is_gated: bool) -> Key:
    """Sizes in powers of two; a float32 matrix has tiles of its own."""
    return {
        "size_in": power_of_2(size_in),
        "size_out": power_of_2(size_out),
        "dtype": str(dtype).removeprefix("torch."),
        "is_gated": int(is_gated),
    }


def _launch(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    out = _fake(x, weight, bias, kind)
    size_in, size_out = x.shape[-1], out.shape[-1]
    flat = x.reshape(-1, size_in)
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    key = tuning_key(size_in, size_out, x.dtype, is_gated=kind != "")
    if flat.shape[0] == 1:
        config = ONE_ROW.config(key)
        launchable(_one_row)[(ceil_div(size_out, config["BLOCK_OUT"]),)](
            flat, weight, bias, out, size_in, size_out, weight.stride(0), HAS_BIAS=bias is not None, KIND=kind, **config
        )
    elif flat.shape[0]:
        config = FEW_ROWS.config(key)
        launchable(_few_rows)[(ceil_div(size_out, config["BLOCK_OUT"]),)](
            flat, weight, bias, out, flat.shape[0], size_in, size_out, flat.stride(0), weight.stride(0),
            HAS_BIAS=bias is not None, KIND=kind, ROWS=PADDED_ROWS, **config,
        )  # fmt: skip
    return out


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2 if kind else weight.shape[0]))


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    if not kind:
        return reference.linear(x=x, weight=weight, bias=bias)
    return reference.gated_linear(x=x, weight=weight, bias=bias, kind=kind)  # pyright: ignore[reportArgumentType]


_product = gpu_op("few_rows_linear", _launch, fake=_fake, reference=_reference)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels run here: few tokens by their shape, and inputs of a weight's row side by side."""
    return x.numel() <= MOST_ROWS * x.shape[-1] and weight.stride(-1) == 1


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Arguments and result are those of the reference, which serves more tokens than MOST_ROWS. Has no gradient."""
    return _product(x, weight, bias, "") if takes(x, weight) else reference.linear(x=x, weight=weight, bias=bias)


def gated_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: ActivationKind) -> Tensor:
    """Arguments and result are those of the reference, which serves more tokens than MOST_ROWS. Has no gradient."""
    if takes(x, weight):
        return _product(x, weight, bias, kind)
    return reference.gated_linear(x=x, weight=weight, bias=bias, kind=kind)
