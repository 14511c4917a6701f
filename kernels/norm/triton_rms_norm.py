"""RMS norm in Triton, one row a program, held in registers: each tensor is read once and written once."""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from . import reference

WIDEST = 32768
"""Features that one program holds."""


def serves(request: Request) -> str | None:
    """None, or why a row cannot be held at once."""
    if request.dtype == "float64":
        return "sums are float32"
    width = request.fields.get("head_dim") or request.shapes["x"][-1]
    if not isinstance(width, int) or width > WIDEST:
        return f"a row of {width} features is wider than {WIDEST}"
    return None


@triton.jit
def _forward(
    p_x, p_weight, p_out, p_rstd, width, heads, eps, offset,
    HAS_WEIGHT: tl.constexpr, HAS_OFFSET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    o_x = tl.arange(0, BLOCK)
    m_x = o_x < width
    b_x = tl.load(p_x + i_row * width + o_x, mask=m_x, other=0.0)
    b_wide = b_x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(b_wide * b_wide, 0) / width + eps)
    b_out = b_wide * rstd
    if HAS_WEIGHT:
        b_weight = tl.load(p_weight + (i_row % heads) * width + o_x, mask=m_x, other=0.0)
        if HAS_OFFSET:
            b_out = b_out * (b_weight.to(tl.float32) + offset)
        else:
            b_out = b_out.to(b_x.dtype) * b_weight
    tl.store(p_rstd + i_row, rstd)
    tl.store(p_out + i_row * width + o_x, b_out.to(b_x.dtype), mask=m_x)


@triton.jit
def _backward(
    p_grad, p_x, p_weight, p_rstd, p_grad_x, p_grad_weight, width, heads, rows, offset,
    HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
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
        tl.store(p_grad_x + i_row * width + o_x, b_grad_x.to(p_grad_x.dtype.element_ty), mask=m_row)
    tl.store(p_grad_weight + (i_part * heads + i_head) * width + o_x, b_total, mask=m_x)


def _shape(x: Tensor, weight: Tensor | None, head_dim: int) -> tuple[int, int]:
    """Features of a row, and how many weights rows take in turn."""
    return head_dim, 1 if weight is None else weight.numel() // head_dim


def _launch(x: Tensor, weight: Tensor | None, eps: float, offset: float, head_dim: int) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    width, heads = _shape(x, weight, head_dim)
    out, rstd = torch.empty_like(x), x.new_empty(x.numel() // width, dtype=torch.float32)
    if x.numel():
        block = power_of_2(width)
        launchable(_forward)[(len(rstd),)](
            x, weight, out, rstd, width, heads, eps, offset, HAS_WEIGHT=weight is not None, HAS_OFFSET=offset != 0.0,
            BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return out, rstd


def _fake(x: Tensor, weight: Tensor | None, eps: float, offset: float, head_dim: int) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, x.new_empty(x.numel() // head_dim, dtype=torch.float32)


def _reference(x: Tensor, weight: Tensor | None, eps: float, offset: float, head_dim: int) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, head_dim).float()
    rstd = torch.rsqrt(rows.square().mean(-1) + eps)
    return reference.rms_norm(x=x, weight=weight, eps=eps, weight_offset=offset, head_dim=head_dim).contiguous(), rstd


def _launch_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, offset: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    width, heads = _shape(x, weight, head_dim)
    per_head = len(rstd) // heads
    rows = max(1, ceil_div(per_head, 256))
    parts = ceil_div(per_head, rows)
    grad_x = torch.empty_like(x)
    grad_weight = x.new_empty((parts, heads * width), dtype=torch.float32)
    if x.numel():
        block = power_of_2(width)
        launchable(_backward)[(parts, heads)](
            grad, x, weight, rstd, grad_x, grad_weight, width, heads, len(rstd), offset, HAS_WEIGHT=weight is not None,
            BLOCK=block, ROWS=rows, num_warps=_warps(block),
        )  # fmt: skip
    return grad_x, grad_weight.sum(0)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, offset: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    width, heads = _shape(x, weight, head_dim)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return grad_x, x.new_empty(heads * width, dtype=torch.float32)


def _reference_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, offset: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    width, heads = _shape(x, weight, head_dim)
    normal = (x.float().reshape(-1, width) * rstd[:, None]).view(-1, heads, width)
    inner = grad.float().reshape(normal.shape)
    grad_weight = (inner * normal).sum(0).flatten()
    if weight is not None:
        inner = inner * (weight.float().view(heads, width) + offset)
    grad_x = (inner - normal * (inner * normal).mean(-1, keepdim=True)) * rstd.view(-1, heads, 1)
    return grad_x.to(x.dtype).reshape(x.shape), grad_weight


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


_norm_backward = gpu_op("rms_norm_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_norm = gpu_op("rms_norm", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    x, weight, _, ctx.offset, ctx.head_dim = inputs
    ctx.save_for_backward(x, weight, output[1])


def _gradients(ctx, grad: Tensor, _grad_rstd: Tensor):
    x, weight, rstd = ctx.saved_tensors
    grad_x, grad_weight = _norm_backward(grad, x, weight, rstd, ctx.offset, ctx.head_dim)
    return grad_x, None if weight is None else grad_weight.to(weight.dtype).view(weight.shape), None, None, None


_norm.register_autograd(_gradients, setup_context=_keep)


def rms_norm(
    *, x: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0, head_dim: int | None = None
) -> Tensor:
    """Arguments and result are those of the reference."""
    return _norm(x, weight, eps, weight_offset, head_dim or x.shape[-1])[0]
