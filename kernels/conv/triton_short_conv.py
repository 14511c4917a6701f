"""Short convolution in Triton: taps, bias and activation in one kernel, padding passed over; one token in place.

The floor is x read and the output written once (a token's neighbours are in the cache), at decode the tail read and
written too; the kernels are bound by it. Tokens are taken by their order among the tokens of the row, so that padding
may be anywhere. Gradients: slopes times the output's gradient, with the weights', then the convolution backwards.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..continued import continued
from ..gpu.activations import activate, slope
from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.rows import token_order, token_rows
from ..gpu.sizes import ceil_div
from ..kernel import Request
from ..pointwise.reference import ActivationKind
from . import reference
from .fields import ShortConv, ShortConvFrom

WIDEST = 8
"""Taps: a loop over them is unrolled."""
BLOCK_T = 16
BLOCK_C = 128


def serves(request: Request) -> str | None:
    """None, or why the taps are not unrolled."""
    if request.dtype == "float64":
        return "sums are float32"
    taps = request.shapes["weight"][-1]
    if not isinstance(taps, int) or taps > WIDEST:
        return f"{taps} taps are more than {WIDEST}"
    return None


@triton.jit
def _tap(
    p_x, p_order, p_tail, i_b, o_t, count, o_c, m_c, tokens, channels, x_row, TAPS: tl.constexpr, TAP: tl.constexpr
):  # fmt: skip
    """What tap TAP of each token sees, `[T, C]` float32: a token before it in its row, the kept tail, or zeros."""
    o_seen = o_t - (TAPS - 1) + TAP
    m_seen = (o_seen >= 0) & (o_seen < count)
    i_row = i_b * tokens + tl.load(p_order + i_b * tokens + o_seen, mask=m_seen, other=0)
    b_x = tl.load(p_x + i_row[:, None] * x_row + o_c[None, :], mask=m_seen[:, None] & m_c[None, :], other=0.0)
    b_x = b_x.to(tl.float32)
    if p_tail is not None:
        p_kept = p_tail + (i_b * channels + o_c[None, :]) * (TAPS - 1) + TAPS - 1 + o_seen[:, None]
        b_x += tl.load(p_kept, mask=(o_seen < 0)[:, None] & m_c[None, :], other=0.0).to(tl.float32)
    return b_x


@triton.jit
def _summed(
    p_x, p_order, p_tail, p_weight, p_bias, i_b, o_t, count, o_c, m_c, tokens, channels, x_row,
    TAPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b_sum = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    if p_bias is not None:
        b_sum += tl.load(p_bias + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    for i in tl.static_range(TAPS):
        b_weight = tl.load(p_weight + o_c * TAPS + i, mask=m_c, other=0.0).to(tl.float32)
        b_sum += b_weight[None, :] * _tap(p_x, p_order, p_tail, i_b, o_t, count, o_c, m_c, tokens, channels, x_row,
                                          TAPS, i)  # fmt: skip
    return b_sum


@triton.jit
def _forward(
    p_x, p_order, p_count, p_tail, p_weight, p_bias, p_out, p_kept, tokens, channels, x_row,
    TAPS: tl.constexpr, KIND: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK_T tokens of a row in their order, then its padding; the first program of a row keeps the new tail."""
    i_b = tl.program_id(2).to(tl.int64)
    o_t, o_c = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T), tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c, m_t = o_c < channels, o_t < tokens
    count = tl.load(p_count + i_b)
    b_sum = _summed(p_x, p_order, p_tail, p_weight, p_bias, i_b, o_t, count, o_c, m_c, tokens, channels, x_row, TAPS,
                    BLOCK_T, BLOCK_C)  # fmt: skip
    b_out = tl.where((o_t < count)[:, None], activate(b_sum, KIND), 0.0).to(p_out.dtype.element_ty)
    i_row = i_b * tokens + tl.load(p_order + i_b * tokens + o_t, mask=m_t, other=0)
    tl.store(p_out + i_row[:, None] * channels + o_c[None, :], b_out, mask=m_t[:, None] & m_c[None, :])
    if p_kept is not None:  # noqa: SIM102 -- known when it is compiled, unlike the next
        if tl.program_id(1) == 0:
            for i in tl.static_range(TAPS - 1):
                o_last = count + tl.arange(0, 1)
                b_last = _tap(p_x, p_order, p_tail, i_b, o_last, count, o_c, m_c, tokens, channels, x_row, TAPS, i)
                p_to = p_kept + (i_b * channels + o_c[None, :]) * (TAPS - 1) + i
                tl.store(p_to, b_last.to(p_kept.dtype.element_ty), mask=m_c[None, :])


@triton.jit
def _step(
    p_x, p_position, p_weight, p_bias, p_tail, p_out, channels, x_row,
    TAPS: tl.constexpr, KIND: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One token of one row. A thread has all taps of its channels, so that the tail moves in place."""
    i_b = tl.program_id(1).to(tl.int64)
    o_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    keep = tl.load(p_position + i_b) >= 0
    p_kept = p_tail + (i_b * channels + o_c) * (TAPS - 1)
    b_x = tl.load(p_x + i_b * x_row + o_c, mask=m_c & keep, other=0.0)
    b_sum = b_x.to(tl.float32) * tl.load(p_weight + o_c * TAPS + TAPS - 1, mask=m_c, other=0.0).to(tl.float32)
    if p_bias is not None:
        b_sum += tl.load(p_bias + o_c, mask=m_c, other=0.0).to(tl.float32)
    for i in tl.static_range(TAPS - 1):  # pyright: ignore[reportGeneralTypeIssues]
        b_old = tl.load(p_kept + i, mask=m_c, other=0.0)
        b_sum += b_old.to(tl.float32) * tl.load(p_weight + o_c * TAPS + i, mask=m_c, other=0.0).to(tl.float32)
        if i > 0:
            tl.store(p_kept + i - 1, b_old, mask=m_c & keep)
    if TAPS > 1:
        tl.store(p_kept + TAPS - 2, b_x.to(p_tail.dtype.element_ty), mask=m_c & keep)
    b_out = tl.where(keep, activate(b_sum, KIND), 0.0)
    tl.store(p_out + i_b * channels + o_c, b_out.to(p_out.dtype.element_ty), mask=m_c)


@triton.jit
def _slopes(
    p_grad, p_x, p_order, p_count, p_weight, p_bias, p_inner, p_grad_weight, p_grad_bias, tokens, channels, x_row,
    TAPS: tl.constexpr, KIND: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of the sums, `[B, T, C]` in the order of tokens, and what BLOCK_T of them add to the parameters'."""
    i_b = tl.program_id(2).to(tl.int64)
    o_t, o_c = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T), tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    count = tl.load(p_count + i_b)
    m_t = o_t < count
    b_sum = _summed(p_x, p_order, None, p_weight, p_bias, i_b, o_t, count, o_c, m_c, tokens, channels, x_row, TAPS,
                    BLOCK_T, BLOCK_C)  # fmt: skip
    i_row = i_b * tokens + tl.load(p_order + i_b * tokens + o_t, mask=m_t, other=0)
    m_tc = m_t[:, None] & m_c[None, :]
    b_inner = tl.load(p_grad + i_row[:, None] * channels + o_c[None, :], mask=m_tc, other=0.0).to(tl.float32)
    b_inner = tl.where(m_tc, b_inner * slope(b_sum, KIND), 0.0)
    p_to = p_inner + (i_b * tokens + o_t[:, None]) * channels + o_c[None, :]
    tl.store(p_to, b_inner.to(p_inner.dtype.element_ty), mask=(o_t < tokens)[:, None] & m_c[None, :])
    i_part = i_b * tl.num_programs(1) + tl.program_id(1)
    tl.store(p_grad_bias + i_part * channels + o_c, tl.sum(b_inner, 0), mask=m_c)
    for i in tl.static_range(TAPS):
        b_x = _tap(p_x, p_order, None, i_b, o_t, count, o_c, m_c, tokens, channels, x_row, TAPS, i)
        tl.store(p_grad_weight + (i_part * channels + o_c) * TAPS + i, tl.sum(b_inner * b_x, 0), mask=m_c)


@triton.jit
def _transposed(
    p_inner, p_order, p_count, p_weight, p_grad_x, tokens, channels,
    TAPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(2).to(tl.int64)
    o_t, o_c = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T), tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c, m_t = o_c < channels, o_t < tokens
    count = tl.load(p_count + i_b)
    b_sum = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for i in tl.static_range(TAPS):
        o_later = o_t + TAPS - 1 - i
        p_from = p_inner + (i_b * tokens + o_later[:, None]) * channels + o_c[None, :]
        b_inner = tl.load(p_from, mask=(o_later < count)[:, None] & m_c[None, :], other=0.0).to(tl.float32)
        b_sum += b_inner * tl.load(p_weight + o_c * TAPS + i, mask=m_c, other=0.0).to(tl.float32)[None, :]
    b_sum = tl.where((o_t < count)[:, None], b_sum, 0.0)
    i_row = i_b * tokens + tl.load(p_order + i_b * tokens + o_t, mask=m_t, other=0)
    p_to = p_grad_x + i_row[:, None] * channels + o_c[None, :]
    tl.store(p_to, b_sum.to(p_grad_x.dtype.element_ty), mask=m_t[:, None] & m_c[None, :])


def _launch(
    x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    out, kept = _fake(x, position, weight, bias, tail, activation)
    if not out.numel():
        return out, kept if tail is None else kept.copy_(tail)
    batch, tokens, channels = x.shape
    x, x_row = token_rows(x)
    order, count = token_order(position)
    grid = (ceil_div(channels, BLOCK_C), ceil_div(tokens, BLOCK_T), batch)
    launchable(_forward)[grid](
        x, order, count, None if tail is None else tail.contiguous(), weight.contiguous(), bias, out,
        None if tail is None else kept, tokens, channels, x_row, TAPS=weight.shape[-1], KIND=activation,
        BLOCK_T=BLOCK_T, BLOCK_C=BLOCK_C, num_warps=4,
    )  # fmt: skip
    return out, kept


def _fake(
    x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    """The second output is the new tail, without a tail nothing."""
    kept = x.new_empty(0) if tail is None else torch.empty_like(tail, memory_format=torch.contiguous_format)
    return torch.empty_like(x, memory_format=torch.contiguous_format), kept


def _reference(
    x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, activation: ActivationKind
) -> tuple[Tensor, Tensor]:
    if tail is None:
        out = reference.short_conv(x=x, position=position, weight=weight, bias=bias, activation=activation)
        return out.contiguous(), x.new_empty(0)
    kept = tail.clone()
    out, _ = reference.short_conv(
        x=x, position=position, weight=weight, bias=bias, activation=activation, state=(kept,)
    )
    return out.contiguous(), kept


def _launch_backward(
    grad: Tensor, x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, _, _ = _fake_backward(grad, x, position, weight, bias, activation)
    batch, tokens, channels = x.shape
    taps, parts = weight.shape[-1], batch * ceil_div(tokens, BLOCK_T)
    grad_weight = x.new_empty((parts, channels, 1, taps), dtype=torch.float32)
    grad_bias = x.new_empty((parts, channels), dtype=torch.float32)
    if x.numel():
        x, x_row = token_rows(x)
        order, count = token_order(position)
        inner, weight = torch.empty_like(grad_x), weight.contiguous()
        grid = (ceil_div(channels, BLOCK_C), ceil_div(tokens, BLOCK_T), batch)
        launchable(_slopes)[grid](
            grad.contiguous(), x, order, count, weight, bias, inner, grad_weight, grad_bias, tokens, channels, x_row,
            TAPS=taps, KIND=activation, BLOCK_T=BLOCK_T, BLOCK_C=BLOCK_C, num_warps=4,
        )  # fmt: skip
        launchable(_transposed)[grid](
            inner, order, count, weight, grad_x, tokens, channels, TAPS=taps, BLOCK_T=BLOCK_T, BLOCK_C=BLOCK_C,
            num_warps=4,
        )  # fmt: skip
    return grad_x, grad_weight.sum(0), grad_bias.sum(0)


def _fake_backward(
    grad: Tensor, x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return grad_x, weight.new_empty(weight.shape, dtype=torch.float32), x.new_empty(x.shape[-1], dtype=torch.float32)


def _reference_backward(
    grad: Tensor, x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, activation: ActivationKind
) -> tuple[Tensor, Tensor, Tensor]:
    start = torch.zeros_like(weight[:, 0, 0]) if bias is None else bias
    leaves = (x.float(), weight.float(), start.float())

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return reference.short_conv(x=x, position=position, weight=weight, bias=bias, activation=activation)

    grad_x, grad_weight, grad_bias = torch.func.vjp(run, *leaves)[1](grad.float())
    return grad_x.to(x.dtype).contiguous(), grad_weight.contiguous(), grad_bias.contiguous()


def _launch_step(
    x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor, activation: str
) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel():
        x, x_row = token_rows(x)
        held, channels = tail.contiguous(), x.shape[-1]
        launchable(_step)[(ceil_div(channels, BLOCK_C), x.shape[0])](
            x, position.contiguous(), weight.contiguous(), bias, held, out, channels, x_row, TAPS=weight.shape[-1],
            KIND=activation, BLOCK_C=BLOCK_C, num_warps=1,
        )  # fmt: skip
        if held is not tail:
            tail.copy_(held)
    return out


def _fake_step(
    x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor, activation: str
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _reference_step(
    x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor, activation: ActivationKind
) -> Tensor:
    out, _ = reference.short_conv(
        x=x, position=position, weight=weight, bias=bias, activation=activation, state=(tail,)
    )
    return out.contiguous()


_conv_step = gpu_op("short_conv_step", _launch_step, fake=_fake_step, reference=_reference_step, mutates_args=("tail",))
_conv_backward = gpu_op("short_conv_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_conv = gpu_op("short_conv", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    x, position, weight, bias, tail, ctx.activation = inputs
    if tail is not None:
        raise RuntimeError("gradients of a short convolution start at a row's first token: no state is given")
    ctx.save_for_backward(x, position, weight, bias)


def _gradients(ctx, grad: Tensor, _grad_tail: Tensor):
    x, position, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = _conv_backward(grad, x, position, weight, bias, ctx.activation)
    return grad_x, None, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype), None, None


register_gradients(_conv, _gradients, setup_context=_keep)


@continued(ShortConv, ShortConvFrom)
def short_conv(given: ShortConv, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference. Gradients are made without a state."""
    x, position, weight, bias, activation = given.x, given.position, given.weight, given.bias, given.activation
    if state is not None and x.shape[1] == 1:
        return _conv_step(x, position, weight, bias, state, activation), state
    return _conv(x, position, weight, bias, state, activation)
