"""Activations, gates and the soft cap in Triton, each one launch with its gradient: read once, written once."""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate, slope, tanh
from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, is_interpreted, launchable
from ..gpu.sizes import ceil_div
from ..kernel import Request
from . import reference
from .reference import ActivationKind

BLOCK = 1024
"""Features of a program: 2 KiB of each operand, eight a thread."""


def serves(request: Request) -> str | None:
    """None, or why the kernel cannot run."""
    return "it computes in float32" if request.dtype == "float64" else None


@triton.jit
def _value(b_x, cap, KIND: tl.constexpr):
    """The activation; KIND softcap is `cap * tanh(x / cap)`."""
    return cap * tanh(b_x / cap) if KIND == "softcap" else activate(b_x, KIND)


@triton.jit
def _slope(b_x, cap, KIND: tl.constexpr):
    if KIND == "softcap":
        b_share = tanh(b_x / cap)
        b_slope = 1.0 - b_share * b_share
    else:
        b_slope = slope(b_x, KIND)
    return b_slope


@triton.jit
def _forward(
    p_x, p_up, p_out, width, stride, stride_up, cap, KIND: tl.constexpr, IS_GATED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i_row, o_x = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < width
    b_out = _value(tl.load(p_x + i_row * stride + o_x, mask=m_x, other=0.0).to(tl.float32), cap, KIND)
    if IS_GATED:
        b_out *= tl.load(p_up + i_row * stride_up + o_x, mask=m_x, other=0.0).to(tl.float32)
    tl.store(p_out + i_row * width + o_x, b_out.to(p_out.dtype.element_ty), mask=m_x)


@triton.jit
def _backward(
    p_grad, p_x, p_up, p_grad_x, p_grad_up, width, stride, stride_up, stride_grad, cap,
    KIND: tl.constexpr, IS_GATED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_row, o_x = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < width
    b_grad = tl.load(p_grad + i_row * width + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_x = tl.load(p_x + i_row * stride + o_x, mask=m_x, other=0.0).to(tl.float32)
    if IS_GATED:
        b_grad_up = b_grad * _value(b_x, cap, KIND)
        tl.store(p_grad_up + i_row * stride_grad + o_x, b_grad_up.to(p_grad_up.dtype.element_ty), mask=m_x)
        b_grad *= tl.load(p_up + i_row * stride_up + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_grad *= _slope(b_x, cap, KIND)
    tl.store(p_grad_x + i_row * stride_grad + o_x, b_grad.to(p_grad_x.dtype.element_ty), mask=m_x)


def _flat(x: Tensor) -> Tensor:
    """[..., F] -> [N, F], a view where that is possible, features side by side."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _halves(x: Tensor, up: Tensor | None, is_packed: bool) -> tuple[Tensor, Tensor]:
    """What is activated and what it gates, as rows; the former twice where nothing is gated."""
    flat = _flat(x)
    if is_packed:
        gate, other = flat.chunk(2, dim=-1)
        return gate, other
    return flat, flat if up is None else _flat(up)


def _launch(x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float) -> Tensor:
    out = _fake(x, up, kind, is_packed, cap)
    if out.numel():
        gate, other = _halves(x, up, is_packed)
        rows, width = gate.shape
        launchable(_forward)[(rows, ceil_div(width, BLOCK))](
            gate, other, out, width, gate.stride(0), other.stride(0), cap, KIND=kind,
            IS_GATED=is_packed or up is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return out


def _fake(x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2) if is_packed else x.shape)


def _reference(x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float) -> Tensor:
    if is_packed:
        x, up = x.chunk(2, dim=-1)
    out = reference.softcap(x=x, cap=cap) if kind == "softcap" else reference.activation(x=x, kind=kind)  # pyright: ignore[reportArgumentType]
    return out.clone() if up is None else out * up


def _launch_backward(
    grad: Tensor, x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float
) -> tuple[Tensor, Tensor]:
    grad_x, grad_up = _fake_backward(grad, x, up, kind, is_packed, cap)
    if grad.numel():
        grad = grad.contiguous()
        gate, other = _halves(x, up, is_packed)
        to_gate, to_up = _halves(grad_x, None if up is None else grad_up, is_packed)
        rows, width = gate.shape
        launchable(_backward)[(rows, ceil_div(width, BLOCK))](
            grad, gate, other, to_gate, to_up, width, gate.stride(0), other.stride(0), to_gate.stride(0), cap,
            KIND=kind, IS_GATED=is_packed or up is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return grad_x, grad_up


def _fake_backward(
    grad: Tensor, x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if up is None else up.shape)


def _reference_backward(
    grad: Tensor, x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("on a CPU the public functions call the reference, whose gradient is torch's")


_activate_backward = gpu_op("activate_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_activate = gpu_op("activate", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    x, up, ctx.kind, ctx.is_packed, ctx.cap = inputs
    ctx.save_for_backward(x, up)


def _gradients(ctx, grad: Tensor):
    x, up = ctx.saved_tensors
    grad_x, grad_up = _activate_backward(grad, x, up, ctx.kind, ctx.is_packed, ctx.cap)
    return grad_x, None if up is None else grad_up, None, None, None


register_gradients(_activate, _gradients, setup_context=_keep)


def _activated(x: Tensor, up: Tensor | None, kind: str, is_packed: bool, cap: float) -> Tensor:
    """The operator on a GPU, the reference itself on a CPU."""
    is_here = x.device.type == "cpu" and not is_interpreted()
    return (_reference if is_here else _activate)(x, up, kind, is_packed, cap)


def activation(*, x: Tensor, kind: ActivationKind) -> Tensor:
    """Arguments and result are those of the reference."""
    return x if kind == "identity" else _activated(x, None, kind, False, 1.0)


def gated_activation(*, gate: Tensor, up: Tensor, kind: ActivationKind) -> Tensor:
    """Arguments and result are those of the reference."""
    return _activated(gate, up, kind, False, 1.0)


def gated_activation_packed(*, x: Tensor, kind: ActivationKind) -> Tensor:
    """Arguments and result are those of the reference."""
    return _activated(x, None, kind, True, 1.0)


def softcap(*, x: Tensor, cap: float) -> Tensor:
    """Arguments and result are those of the reference."""
    return _activated(x, None, "softcap", False, cap)
