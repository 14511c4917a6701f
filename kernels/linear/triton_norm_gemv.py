"""A projection of one token with the RMS norm before it, and the sum before that, in one Triton launch.

Every program reads the token anyway, so that it sums its squares in passing: `sum(w * g * x) / rms(x)`. The normalised
token is never rounded, and never in memory. Floor: weight bytes / bandwidth, as without the norm; what it adds are two
to three loads of a token's bytes by each program, from the first-level cache but for its first reader.
More tokens take the norm's own launch, and `triton_gemv` or torch's product after it.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div
from ..gpu.tuning import Tunable
from ..kernel import Request
from ..norm.triton_rms_norm import WIDEST, add_rms_norm, rms_norm
from ..pointwise.reference import ActivationKind
from . import reference, triton_gemv
from .triton_gemv import ONE_ROW, tuning_key


def serves(request: Request) -> str | None:
    """None, or why the kernel cannot run."""
    if request.dtype == "float64":
        return "sums are float32"
    width = request.shapes["weight"][1]
    if not isinstance(width, int) or width > WIDEST:
        return f"a row of {width} features is wider than {WIDEST}"
    return None


@triton.jit
def _one_row(
    p_x, p_delta, p_norm, p_weight, p_bias, p_out, p_sum, size_in, size_out, stride, eps, offset,
    HAS_DELTA: tl.constexpr, HAS_NORM: tl.constexpr, HAS_BIAS: tl.constexpr, KIND: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of the only token; the first program also writes the sum."""
    IS_GATED: tl.constexpr = KIND != ""
    i_tile = tl.program_id(0)
    o_out, o_in = i_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT), tl.arange(0, BLOCK_IN)
    m_out = o_out < size_out
    p_row = p_weight + (o_out.to(tl.int64) * stride)[:, None] + o_in[None, :]
    p_up = p_row + size_out.to(tl.int64) * stride
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    b_ups = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    b_squares = tl.zeros((BLOCK_IN,), tl.float32)
    for start in range(0, size_in, BLOCK_IN):
        m_in = start + o_in < size_in
        m_weight = m_out[:, None] & m_in[None, :]
        b_token = tl.load(p_x + start + o_in, mask=m_in, other=0.0, eviction_policy="evict_last")
        b_weight = tl.load(p_row + start, mask=m_weight, other=0.0, eviction_policy="evict_first")
        if HAS_DELTA:
            b_delta = tl.load(p_delta + start + o_in, mask=m_in, other=0.0, eviction_policy="evict_last")
            b_token = (b_token.to(tl.float32) + b_delta.to(tl.float32)).to(b_token.dtype)
            tl.store(p_sum + start + o_in, b_token, mask=start + o_in < tl.where(i_tile == 0, size_in, 0))
        b_x = b_token.to(tl.float32)
        b_squares += b_x * b_x
        if HAS_NORM:
            b_norm = tl.load(p_norm + start + o_in, mask=m_in, other=0.0, eviction_policy="evict_last")
            b_x *= b_norm.to(tl.float32) + offset
        b_sums += b_weight.to(tl.float32) * b_x[None, :]
        if IS_GATED:
            b_weight = tl.load(p_up + start, mask=m_weight, other=0.0, eviction_policy="evict_first")
            b_ups += b_weight.to(tl.float32) * b_x[None, :]
    rstd = tl.rsqrt(tl.sum(b_squares, 0) / size_in + eps)
    b_out = tl.sum(b_sums, 1) * rstd
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_out, mask=m_out, other=0.0).to(tl.float32)
    if IS_GATED:
        b_up = tl.sum(b_ups, 1) * rstd
        if HAS_BIAS:
            b_up += tl.load(p_bias + size_out + o_out, mask=m_out, other=0.0).to(tl.float32)
        b_out = activate(b_out, KIND) * b_up
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_out)


NORMED_ROW = Tunable(name="gemv_normed_row", rule=ONE_ROW.rule, space=ONE_ROW.space)
TUNABLES = (NORMED_ROW,)


def _launch(
    x: Tensor, delta: Tensor | None, norm: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float,
    offset: float, kind: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out, total = _fake(x, delta, norm, weight, bias, eps, offset, kind)
    size_in, size_out = x.shape[-1], out.shape[-1]
    config = NORMED_ROW.config(tuning_key(size_in, size_out, x.dtype, is_gated=kind != ""))
    launchable(_one_row)[(ceil_div(size_out, config["BLOCK_OUT"]),)](
        x.contiguous(), None if delta is None else delta.contiguous(), norm, weight, bias, out, total, size_in,
        size_out, weight.stride(0), eps, offset, HAS_DELTA=delta is not None, HAS_NORM=norm is not None,
        HAS_BIAS=bias is not None, KIND=kind, **config,
    )  # fmt: skip
    return out, total


def _fake(
    x: Tensor, delta: Tensor | None, norm: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float,
    offset: float, kind: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out = x.new_empty((*x.shape[:-1], weight.shape[0] // 2 if kind else weight.shape[0]))
    return out, x.new_empty((0,) if delta is None else x.shape)


def _reference(
    x: Tensor, delta: Tensor | None, norm: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float,
    offset: float, kind: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    total = x if delta is None else x + delta
    out = reference.rms_norm_linear(
        x=total, weight=weight, bias=bias, norm_weight=norm, eps=eps, weight_offset=offset,
        kind=kind or None,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return out, x.new_empty(0) if delta is None else total.contiguous()


_product = gpu_op("rms_norm_linear", _launch, fake=_fake, reference=_reference)


def _is_one_row(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes it, by shapes alone; in float32 torch's product is as good."""
    return x.numel() == x.shape[-1] and weight.stride(-1) == 1 and x.dtype.itemsize == 2


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None, kind: ActivationKind | None) -> Tensor:
    if kind is None:
        return triton_gemv.linear(x=x, weight=weight, bias=bias)
    return triton_gemv.gated_linear(x=x, weight=weight, bias=bias, kind=kind)


def rms_norm_linear(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    eps: float,
    weight_offset: float = 0.0,
    kind: ActivationKind | None = None,
) -> Tensor:
    """Arguments and result are those of the reference. Has no gradient."""
    if _is_one_row(x, weight):
        return _product(x, None, norm_weight, weight, bias, eps, weight_offset, kind or "")[0]
    normal = rms_norm(x=x, weight=norm_weight, eps=eps, weight_offset=weight_offset)
    return _projected(normal, weight, bias, kind)


def add_rms_norm_linear(
    *,
    delta: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    eps: float,
    weight_offset: float = 0.0,
    kind: ActivationKind | None = None,
) -> tuple[Tensor, Tensor]:
    """Arguments and results are those of the reference. Has no gradient."""
    if _is_one_row(residual, weight):
        return _product(residual, delta, norm_weight, weight, bias, eps, weight_offset, kind or "")
    normal, total = add_rms_norm(
        delta=delta, residual=residual, weight=norm_weight, eps=eps, weight_offset=weight_offset
    )
    return _projected(normal, weight, bias, kind), total
