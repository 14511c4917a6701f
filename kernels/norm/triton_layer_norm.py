"""Layer norm and its kin in Triton: with the sum before it, over groups, and to unit length; one rounding each.

All are `(x - mean) / sqrt(sum(x^2) / divisor + eps) * weight + bias` in float32: without the mean it is the RMS group
norm, and with divisor 1 too the L2 norm. Rows are held in registers; each tensor is read once and written once.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div
from ..kernel import Request
from .row_blocks import block_of, parts_of, rows_of
from .triton_rms_norm import WIDEST


def serves(request: Request) -> str | None:
    """None, or why a row cannot be held at once."""
    if request.dtype == "float64":
        return "sums are float32"
    width = (request.shapes.get("x") or request.shapes["delta"])[-1]
    groups, head_dim = request.fields.get("num_groups"), request.fields.get("head_dim")
    if isinstance(groups, int) and isinstance(width, int):
        width = width // groups
    width = head_dim if isinstance(head_dim, int) else width
    if not isinstance(width, int) or width > WIDEST:
        return f"a row of {width} features is wider than {WIDEST}"
    return None


@triton.jit
def _forward(
    p_x, p_delta, p_weight, p_bias, p_out, p_sum, p_mean, p_rstd, rows, width, per_token, heads, stride, stride_delta,
    divisor, eps, HAS_DELTA: tl.constexpr, CENTRE: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows, of which each token has `per_token`; `heads` weights take turns."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i_token, i_head = i_row // per_token, i_row % per_token
    o_x = tl.arange(0, BLOCK)
    m_row = i_row < rows
    m_x = m_row[:, None] & (o_x < width)[None, :]
    o_out = i_row[:, None] * width + o_x[None, :]
    b_x = tl.load(p_x + (i_token * stride + i_head * width)[:, None] + o_x[None, :], mask=m_x, other=0.0)
    if HAS_DELTA:
        o_delta = (i_token * stride_delta + i_head * width)[:, None] + o_x[None, :]
        b_delta = tl.load(p_delta + o_delta, mask=m_x, other=0.0)
        b_x = (b_x.to(tl.float32) + b_delta.to(tl.float32)).to(b_x.dtype)
        tl.store(p_sum + o_out, b_x, mask=m_x)
    b_out = b_x.to(tl.float32)
    if CENTRE:
        b_mean = tl.sum(b_out, 1) / width
        tl.store(p_mean + i_row, b_mean, mask=m_row)
        b_out = tl.where(m_x, b_out - b_mean[:, None], 0.0)
    b_rstd = tl.rsqrt(tl.sum(b_out * b_out, 1) / divisor + eps)
    tl.store(p_rstd + i_row, b_rstd, mask=m_row)
    b_out = b_out * b_rstd[:, None]
    o_weight = ((i_row % heads) * width)[:, None] + o_x[None, :]
    if HAS_WEIGHT:
        b_out = b_out * tl.load(p_weight + o_weight, mask=m_x, other=0.0).to(tl.float32)
    if HAS_BIAS:
        b_out = b_out + tl.load(p_bias + o_weight, mask=m_x, other=0.0).to(tl.float32)
    tl.store(p_out + o_out, b_out.to(b_x.dtype), mask=m_x)


@triton.jit
def _backward(
    p_grad, p_grad_sum, p_x, p_weight, p_mean, p_rstd, p_grad_x, p_grad_weight, p_grad_bias, width, heads, rows,
    divisor, HAS_SUM: tl.constexpr, CENTRE: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head: their gradients, and what they add to those of weight and bias, a row of each."""
    i_part, i_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_x = tl.arange(0, BLOCK)
    m_x = o_x < width
    b_weight = tl.full((BLOCK,), 1.0, tl.float32)
    if HAS_WEIGHT:
        b_weight = tl.load(p_weight + i_head * width + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_grad_weight = tl.zeros((BLOCK,), tl.float32)
    b_grad_bias = tl.zeros((BLOCK,), tl.float32)
    for i in range(ROWS):
        i_row = (i_part * ROWS + i) * heads + i_head
        m_row = m_x & (i_row < rows)
        b_x = tl.load(p_x + i_row * width + o_x, mask=m_row, other=0.0).to(tl.float32)
        b_grad = tl.load(p_grad + i_row * width + o_x, mask=m_row, other=0.0).to(tl.float32)
        rstd = tl.load(p_rstd + i_row, mask=i_row < rows, other=0.0)
        if CENTRE:
            mean = tl.load(p_mean + i_row, mask=i_row < rows, other=0.0)
            b_x = tl.where(m_row, b_x - mean, 0.0)
        b_hat = b_x * rstd
        b_grad_weight += b_grad * b_hat
        b_grad_bias += b_grad
        b_inner = b_grad * b_weight
        b_grad_x = b_inner - b_hat * (tl.sum(b_inner * b_hat, 0) / divisor)
        if CENTRE:
            b_grad_x -= tl.sum(b_inner, 0) / width
        b_grad_x *= rstd
        if HAS_SUM:
            b_grad_x += tl.load(p_grad_sum + i_row * width + o_x, mask=m_row, other=0.0).to(tl.float32)
        tl.store(p_grad_x + i_row * width + o_x, b_grad_x.to(p_grad_x.dtype.element_ty), mask=m_row)
    o_part = (i_part * heads + i_head) * width + o_x
    tl.store(p_grad_weight + o_part, b_grad_weight, mask=m_x)
    tl.store(p_grad_bias + o_part, b_grad_bias, mask=m_x)


def _heads(weight: Tensor | None, bias: Tensor | None, width: int) -> int:
    """How many weights rows take in turn."""
    given = bias if weight is None else weight
    return 1 if given is None else given.numel() // width


def _launch(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, width: int, centre: bool,
    divisor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    out, total, mean, rstd = _fake(x, delta, weight, bias, eps, width, centre, divisor)
    rows = rstd.numel()
    if rows:
        flat = rows_of(x)
        flat_delta = flat if delta is None else rows_of(delta)
        held, block, warps = block_of(width, rows)
        launchable(_forward)[(ceil_div(rows, held),)](
            flat, flat_delta, weight, bias, out, total, mean, rstd, rows, width, x.shape[-1] // width,
            _heads(weight, bias, width), flat.stride(0), flat_delta.stride(0), divisor, eps,
            HAS_DELTA=delta is not None, CENTRE=centre, HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None,
            ROWS=held, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return out, total, mean, rstd


def _fake(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, width: int, centre: bool,
    divisor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows = x.numel() // width
    return (
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
        torch.empty((0,) if delta is None else x.shape, dtype=x.dtype, device=x.device),
        torch.empty(rows if centre else 0, dtype=torch.float32, device=x.device),
        torch.empty(rows, dtype=torch.float32, device=x.device),
    )


def _reference(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, width: int, centre: bool,
    divisor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    total = x if delta is None else x + delta
    heads = _heads(weight, bias, width)
    rows = total.float().reshape(-1, heads, width)
    mean = rows.mean(-1, keepdim=True) if centre else rows.new_zeros(())
    rows = rows - mean
    rstd = torch.rsqrt(rows.square().sum(-1, keepdim=True) / divisor + eps)
    rows = rows * rstd
    rows = rows if weight is None else rows * weight.float().view(heads, width)
    rows = rows if bias is None else rows + bias.float().view(heads, width)
    kept = x.new_empty(0) if delta is None else total.contiguous()
    flat_mean = mean.flatten() if centre else x.new_empty(0, dtype=torch.float32)
    return rows.to(x.dtype).reshape(x.shape), kept, flat_mean, rstd.flatten()


def _launch_backward(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, heads: int,
    width: int, divisor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, grad = x.contiguous(), grad.contiguous()
    grad_sum = None if grad_sum is None else grad_sum.contiguous()
    rows, parts = parts_of(rstd.numel() // heads)
    grad_x = torch.empty_like(x)
    grad_weight = x.new_empty((parts, heads * width), dtype=torch.float32)
    grad_bias = torch.empty_like(grad_weight)
    if x.numel():
        _, block, warps = block_of(width, 1)
        launchable(_backward)[(parts, heads)](
            grad, grad_sum, x, weight, mean, rstd, grad_x, grad_weight, grad_bias, width, heads, rstd.numel(), divisor,
            HAS_SUM=grad_sum is not None, CENTRE=mean.numel() > 0, HAS_WEIGHT=weight is not None, BLOCK=block,
            ROWS=rows, num_warps=warps,
        )  # fmt: skip
    return grad_x, grad_weight.sum(0), grad_bias.sum(0)


def _fake_backward(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, heads: int,
    width: int, divisor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    part = x.new_empty(heads * width, dtype=torch.float32)
    return x.new_empty(x.shape), part, torch.empty_like(part)


def _reference_backward(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, heads: int,
    width: int, divisor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows, factor = x.float().reshape(-1, heads, width), rstd.view(-1, heads, 1)
    normal = (rows - mean.view(-1, heads, 1) if mean.numel() else rows) * factor
    inner = grad.float().reshape(normal.shape)
    grad_weight, grad_bias = (inner * normal).sum(0).flatten(), inner.sum(0).flatten()
    inner = inner if weight is None else inner * weight.float().view(heads, width)
    found = inner - normal * ((inner * normal).sum(-1, keepdim=True) / divisor)
    found = (found - inner.mean(-1, keepdim=True) if mean.numel() else found) * factor
    found = found.reshape(x.shape)
    return (found if grad_sum is None else found + grad_sum).to(x.dtype), grad_weight, grad_bias


_norm_backward = gpu_op("layer_norm_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_norm = gpu_op("layer_norm", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    x, delta, weight, bias, _, ctx.width, _, ctx.divisor = inputs
    ctx.has_delta, ctx.heads = delta is not None, _heads(weight, bias, ctx.width)
    ctx.weight_shape = None if weight is None else weight.shape
    ctx.bias_like = None if bias is None else (bias.shape, bias.dtype)
    ctx.save_for_backward(output[1] if ctx.has_delta else x, weight, output[2], output[3])


def _gradients(ctx, grad: Tensor, grad_sum: Tensor, _grad_mean: Tensor, _grad_rstd: Tensor):
    x, weight, mean, rstd = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = _norm_backward(
        grad, grad_sum if ctx.has_delta else None, x, weight, mean, rstd, ctx.heads, ctx.width, ctx.divisor
    )
    grad_weight = None if weight is None else grad_weight.to(weight.dtype).view(ctx.weight_shape)
    grad_bias = None if ctx.bias_like is None else grad_bias.view(ctx.bias_like[0]).to(ctx.bias_like[1])
    return grad_x, grad_x if ctx.has_delta else None, grad_weight, grad_bias, None, None, None, None


register_gradients(_norm, _gradients, setup_context=_keep)


def layer_norm(
    *, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float, head_dim: int | None = None
) -> Tensor:
    """Arguments and result are those of the reference."""
    width = head_dim or x.shape[-1]
    return _norm(x, None, weight, bias, eps, width, True, float(width))[0]


def add_layer_norm(
    *, delta: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float
) -> tuple[Tensor, Tensor]:
    """Arguments and results are those of the reference."""
    width = residual.shape[-1]
    out, total, _, _ = _norm(residual, delta, weight, bias, eps, width, True, float(width))
    return out, total


def group_norm(
    *,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    num_groups: int,
    eps: float,
    centre: bool = True,
) -> Tensor:
    """Arguments and result are those of the reference."""
    width = x.shape[-1] // num_groups
    return _norm(x, None, weight, bias, eps, width, centre, float(width))[0]


def l2_norm(*, x: Tensor, eps: float = 1e-12, head_dim: int | None = None) -> Tensor:
    """Arguments and result are those of the reference."""
    return _norm(x, None, None, None, eps, head_dim or x.shape[-1], False, 1.0)[0]
