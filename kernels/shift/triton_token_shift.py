"""Token shift in Triton: each token reads the one before it in its row, padding passed over; backwards the one after.

A copy: the floor is x read and the output written once.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..continued import continued
from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.rows import token_order, token_rows
from ..gpu.sizes import ceil_div
from ..kernel import Request
from . import reference
from .fields import TokenShift, TokenShiftFrom

BLOCK_T = 16
BLOCK_M = 256


def serves(_request: Request) -> str | None:
    """None: a copy serves every dtype and width."""
    return None


@triton.jit
def _shift(
    p_x, p_order, p_count, p_last, p_out, p_kept, tokens, features, x_row,
    STEP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """The token STEP places before each, by the order of a row's tokens, else p_last; one program keeps the end."""
    i_b = tl.program_id(2).to(tl.int64)
    o_t, o_m = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T), tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_m, m_t = o_m < features, o_t < tokens
    count = tl.load(p_count + i_b)
    o_from = o_t - STEP
    m_from = (o_from >= 0) & (o_from < count) & (o_t < count)
    i_from = i_b * tokens + tl.load(p_order + i_b * tokens + o_from, mask=m_from, other=0)
    b_x = tl.load(p_x + i_from[:, None] * x_row + o_m[None, :], mask=m_from[:, None] & m_m[None, :], other=0.0)
    if p_last is not None:
        m_first = (o_t == 0) & (count > 0)
        p_before = p_last + i_b * features + o_m[None, :] + o_t[:, None] * 0
        b_x += tl.load(p_before, mask=m_first[:, None] & m_m[None, :], other=0.0).to(b_x.dtype)
    i_row = i_b * tokens + tl.load(p_order + i_b * tokens + o_t, mask=m_t, other=0)
    tl.store(p_out + i_row[:, None] * features + o_m[None, :], b_x, mask=m_t[:, None] & m_m[None, :])
    if p_kept is not None:  # noqa: SIM102 -- known when it is compiled, unlike the next
        if tl.program_id(1) == 0:
            i_end = tl.load(p_order + i_b * tokens + count - 1, mask=count > 0, other=0)
            p_end = p_x + (i_b * tokens + i_end) * x_row + o_m
            b_end = tl.load(p_end, mask=m_m & (count > 0), other=0.0).to(p_kept.dtype.element_ty)
            b_end += tl.load(p_last + i_b * features + o_m, mask=m_m & (count == 0), other=0.0)
            tl.store(p_kept + i_b * features + o_m, b_end, mask=m_m)


@triton.jit
def _step(p_x, p_position, p_last, p_out, features, x_row, BLOCK_M: tl.constexpr):
    """One token of one row, the last token in place."""
    i_b = tl.program_id(1).to(tl.int64)
    o_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_m = (o_m < features) & (tl.load(p_position + i_b) >= 0)
    b_last = tl.load(p_last + i_b * features + o_m, mask=m_m, other=0.0)
    b_x = tl.load(p_x + i_b * x_row + o_m, mask=m_m, other=0.0)
    tl.store(p_last + i_b * features + o_m, b_x.to(p_last.dtype.element_ty), mask=m_m)
    tl.store(p_out + i_b * features + o_m, b_last.to(p_out.dtype.element_ty), mask=o_m < features)


def _moved(x: Tensor, position: Tensor, last: Tensor | None, kept: Tensor | None, step: int) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel():
        (batch, tokens, features), (x, x_row) = x.shape, token_rows(x)
        order, count = token_order(position)
        launchable(_shift)[(ceil_div(features, BLOCK_M), ceil_div(tokens, BLOCK_T), batch)](
            x, order, count, None if last is None else last.contiguous(), out, kept, tokens, features, x_row, STEP=step,
            BLOCK_T=BLOCK_T, BLOCK_M=BLOCK_M, num_warps=4,
        )  # fmt: skip
    elif kept is not None and last is not None:
        kept.copy_(last)
    return out


def _launch(x: Tensor, position: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
    kept = x.new_empty(0) if last is None else torch.empty_like(last, memory_format=torch.contiguous_format)
    return _moved(x, position, last, None if last is None else kept, 1), kept


def _fake(x: Tensor, position: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """The second output is the new last token, without one nothing."""
    kept = x.new_empty(0) if last is None else torch.empty_like(last, memory_format=torch.contiguous_format)
    return torch.empty_like(x, memory_format=torch.contiguous_format), kept


def _reference(x: Tensor, position: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
    if last is None:
        return reference.token_shift(x=x, position=position).contiguous(), x.new_empty(0)
    kept = last.clone()
    out, _ = reference.token_shift(x=x, position=position, state=(kept,))
    return out.contiguous(), kept


def _launch_backward(grad: Tensor, position: Tensor) -> Tensor:
    return _moved(grad, position, None, None, -1)


def _fake_backward(grad: Tensor, position: Tensor) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _reference_backward(grad: Tensor, position: Tensor) -> Tensor:
    backwards = reference.token_shift(x=grad.flip(1), position=position.flip(1))
    return backwards.flip(1).contiguous()


def _launch_step(x: Tensor, position: Tensor, last: Tensor) -> Tensor:
    out = _fake_step(x, position, last)
    if out.numel():
        (x, x_row), held, features = token_rows(x), last.contiguous(), x.shape[-1]
        launchable(_step)[(ceil_div(features, BLOCK_M), x.shape[0])](
            x, position.contiguous(), held, out, features, x_row, BLOCK_M=BLOCK_M, num_warps=1
        )
        if held is not last:
            last.copy_(held)
    return out


def _fake_step(x: Tensor, position: Tensor, last: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _reference_step(x: Tensor, position: Tensor, last: Tensor) -> Tensor:
    return reference.token_shift(x=x, position=position, state=(last,))[0].contiguous()


_shifted_step = gpu_op(
    "token_shift_step", _launch_step, fake=_fake_step, reference=_reference_step, mutates_args=("last",)
)
_shifted_backward = gpu_op("token_shift_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_shifted = gpu_op("token_shift", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    _, position, last = inputs
    if last is not None:
        raise RuntimeError("gradients of a token shift start at a row's first token: no state is given")
    ctx.save_for_backward(position)


def _gradients(ctx, grad: Tensor, _grad_kept: Tensor):
    return _shifted_backward(grad, ctx.saved_tensors[0]), None, None


register_gradients(_shifted, _gradients, setup_context=_keep)


@continued(TokenShift, TokenShiftFrom)
def token_shift(given: TokenShift, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference. Gradients are made without a state."""
    if state is not None and given.x.shape[1] == 1:
        return _shifted_step(given.x, given.position, state), state
    return _shifted(given.x, given.position, state)
