"""RMS norm in Triton, and the sum before it: rows held in registers, each tensor read once and written once."""

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
from . import reference
from .row_blocks import block_of, parts_of, rows_of

WIDEST = 32768
"""Features that one program holds."""


def serves(request: Request) -> str | None:
    """None, or why a row cannot be held at once."""
    if request.dtype == "float64":
        return "sums are float32"
    features = (request.shapes.get("x") or request.shapes["delta"])[-1]
    width = request.fields.get("head_dim") or features
    if not isinstance(width, int) or width > WIDEST:
        return f"a row of {width} features is wider than {WIDEST}"
    return None


@triton.jit
def _forward(
    p_x, p_delta, p_weight, p_out, p_sum, p_rstd, rows, width, per_token, heads, stride, stride_delta, eps, offset,
    HAS_DELTA: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_OFFSET: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows, of which each token has `per_token`; `heads` weights take turns."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i_token, i_head = i_row // per_token, i_row % per_token
    o_x = tl.arange(0, BLOCK)
    m_x = (i_row < rows)[:, None] & (o_x < width)[None, :]
    o_out = i_row[:, None] * width + o_x[None, :]
    b_x = tl.load(p_x + (i_token * stride + i_head * width)[:, None] + o_x[None, :], mask=m_x, other=0.0)
    if HAS_DELTA:
        o_delta = (i_token * stride_delta + i_head * width)[:, None] + o_x[None, :]
        b_delta = tl.load(p_delta + o_delta, mask=m_x, other=0.0)
        b_x = (b_x.to(tl.float32) + b_delta.to(tl.float32)).to(b_x.dtype)
        tl.store(p_sum + o_out, b_x, mask=m_x)
    b_wide = b_x.to(tl.float32)
    b_rstd = tl.rsqrt(tl.sum(b_wide * b_wide, 1) / width + eps)
    b_out = b_wide * b_rstd[:, None]
    if HAS_WEIGHT:
        o_weight = ((i_row % heads) * width)[:, None] + o_x[None, :]
        b_weight = tl.load(p_weight + o_weight, mask=m_x, other=0.0)
        if HAS_OFFSET:
            b_out = b_out * (b_weight.to(tl.float32) + offset)
        else:
            b_out = b_out.to(b_x.dtype) * b_weight
    tl.store(p_rstd + i_row, b_rstd, mask=i_row < rows)
    tl.store(p_out + o_out, b_out.to(b_x.dtype), mask=m_x)


@triton.jit
def _backward(
    p_grad, p_grad_sum, p_x, p_weight, p_rstd, p_grad_x, p_grad_weight, width, heads, rows, offset,
    HAS_SUM: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head: their gradients, and what they add to the weight's, a row of `p_grad_weight`."""
    i_part, i_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_x = tl.arange(0, BLOCK)
    m_x = o_x < width
    b_weight = tl.full((BLOCK,), 1.0, tl.float32)
    if HAS_WEIGHT:
        b_weight = tl.load(p_weight + i_head * width + o_x, mask=m_x, other=0.0).to(tl.float32) + offset
    b_total = tl.zeros((BLOCK,), tl.float32)
    for i in range(ROWS):
        i_row = (i_part * ROWS + i) * heads + i_head
        m_row = m_x & (i_row < rows)
        b_x = tl.load(p_x + i_row * width + o_x, mask=m_row, other=0.0).to(tl.float32)
        b_grad = tl.load(p_grad + i_row * width + o_x, mask=m_row, other=0.0).to(tl.float32)
        rstd = tl.load(p_rstd + i_row, mask=i_row < rows, other=0.0)
        b_hat = b_x * rstd
        b_total += b_grad * b_hat
        b_inner = b_grad * b_weight
        b_grad_x = (b_inner - b_hat * (tl.sum(b_inner * b_hat, 0) / width)) * rstd
        if HAS_SUM:
            b_grad_x += tl.load(p_grad_sum + i_row * width + o_x, mask=m_row, other=0.0).to(tl.float32)
        tl.store(p_grad_x + i_row * width + o_x, b_grad_x.to(p_grad_x.dtype.element_ty), mask=m_row)
    tl.store(p_grad_weight + (i_part * heads + i_head) * width + o_x, b_total, mask=m_x)


def _heads(weight: Tensor | None, width: int) -> int:
    """How many weights rows take in turn."""
    return 1 if weight is None else weight.numel() // width


def _run(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, eps: float, offset: float, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm, the sum and the rows' factors."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = out if delta is None else torch.empty_like(out)
    rows, per_token = x.numel() // width, x.shape[-1] // width
    rstd = x.new_empty(rows, dtype=torch.float32)
    if rows:
        flat = rows_of(x)
        flat_delta = flat if delta is None else rows_of(delta)
        held, block, warps = block_of(width, rows)
        launchable(_forward)[(ceil_div(rows, held),)](
            flat, flat_delta, weight, out, total, rstd, rows, width, per_token, _heads(weight, width), flat.stride(0),
            flat_delta.stride(0), eps, offset, HAS_DELTA=delta is not None, HAS_WEIGHT=weight is not None,
            HAS_OFFSET=offset != 0.0, ROWS=held, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return out, total, rstd


def _launch(x: Tensor, weight: Tensor | None, eps: float, offset: float, head_dim: int) -> tuple[Tensor, Tensor]:
    out, _, rstd = _run(x, None, weight, eps, offset, head_dim)
    return out, rstd


def _fake(x: Tensor, weight: Tensor | None, eps: float, offset: float, head_dim: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.numel() // head_dim, dtype=torch.float32)


def _reference(x: Tensor, weight: Tensor | None, eps: float, offset: float, head_dim: int) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, head_dim).float()
    rstd = torch.rsqrt(rows.square().mean(-1) + eps)
    return reference.rms_norm(x=x, weight=weight, eps=eps, weight_offset=offset, head_dim=head_dim).contiguous(), rstd


def _launch_add(
    delta: Tensor, residual: Tensor, weight: Tensor | None, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _run(residual, delta, weight, eps, offset, residual.shape[-1])


def _fake_add(
    delta: Tensor, residual: Tensor, weight: Tensor | None, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, rstd = _fake(residual, weight, eps, offset, residual.shape[-1])
    return out, torch.empty_like(out), rstd


def _reference_add(
    delta: Tensor, residual: Tensor, weight: Tensor | None, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    total = (residual + delta).contiguous()
    out, rstd = _reference(total, weight, eps, offset, total.shape[-1])
    return out, total, rstd


def _launch_backward(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor | None, rstd: Tensor, offset: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    grad_sum = None if grad_sum is None else grad_sum.contiguous()
    heads = _heads(weight, head_dim)
    rows, parts = parts_of(rstd.numel() // heads)
    grad_x = torch.empty_like(x)
    grad_weight = x.new_empty((parts, heads * head_dim), dtype=torch.float32)
    if x.numel():
        _, block, warps = block_of(head_dim, 1)
        launchable(_backward)[(parts, heads)](
            grad, grad_sum, x, weight, rstd, grad_x, grad_weight, head_dim, heads, rstd.numel(), offset,
            HAS_SUM=grad_sum is not None, HAS_WEIGHT=weight is not None, BLOCK=block, ROWS=rows, num_warps=warps,
        )  # fmt: skip
    return grad_x, grad_weight.sum(0)


def _fake_backward(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor | None, rstd: Tensor, offset: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(_heads(weight, head_dim) * head_dim, dtype=torch.float32)


def _reference_backward(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor | None, rstd: Tensor, offset: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    heads = _heads(weight, head_dim)
    normal = (x.float().reshape(-1, head_dim) * rstd[:, None]).view(-1, heads, head_dim)
    inner = grad.float().reshape(normal.shape)
    grad_weight = (inner * normal).sum(0).flatten()
    if weight is not None:
        inner = inner * (weight.float().view(heads, head_dim) + offset)
    grad_x = (inner - normal * (inner * normal).mean(-1, keepdim=True)) * rstd.view(-1, heads, 1)
    grad_x = grad_x.reshape(x.shape)
    return (grad_x if grad_sum is None else grad_x + grad_sum).to(x.dtype), grad_weight


_norm_backward = gpu_op("rms_norm_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_norm = gpu_op("rms_norm", _launch, fake=_fake, reference=_reference)
_add_norm = gpu_op("add_rms_norm", _launch_add, fake=_fake_add, reference=_reference_add)


def _keep(ctx, inputs, output) -> None:
    x, weight, _, ctx.offset, ctx.head_dim = inputs
    ctx.save_for_backward(x, weight, output[1])


def _keep_add(ctx, inputs, output) -> None:
    _, _, weight, _, ctx.offset = inputs
    ctx.head_dim = output[1].shape[-1]
    ctx.save_for_backward(output[1], weight, output[2])


def _both(ctx, grad: Tensor, grad_sum: Tensor | None) -> tuple[Tensor, Tensor | None]:
    x, weight, rstd = ctx.saved_tensors
    grad_x, grad_weight = _norm_backward(grad, grad_sum, x, weight, rstd, ctx.offset, ctx.head_dim)
    return grad_x, None if weight is None else grad_weight.to(weight.dtype).view(weight.shape)


def _gradients(ctx, grad: Tensor, _grad_rstd: Tensor):
    return *_both(ctx, grad, None), None, None, None


def _gradients_add(ctx, grad: Tensor, grad_sum: Tensor, _grad_rstd: Tensor):
    grad_x, grad_weight = _both(ctx, grad, grad_sum)
    return grad_x, grad_x, grad_weight, None, None


register_gradients(_norm, _gradients, setup_context=_keep)
register_gradients(_add_norm, _gradients_add, setup_context=_keep_add)


def rms_norm(
    *, x: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0, head_dim: int | None = None
) -> Tensor:
    """Arguments and result are those of the reference."""
    return _norm(x, weight, eps, weight_offset, head_dim or x.shape[-1])[0]


def add_rms_norm(
    *, delta: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Arguments and results are those of the reference."""
    out, total, _ = _add_norm(delta, residual, weight, eps, weight_offset)
    return out, total
