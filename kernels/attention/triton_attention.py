"""Attention in Triton as an operator of torch: which nodes it serves, and its arguments, which are the reference's."""

# pyright: basic
from __future__ import annotations

import math

import torch
from torch import Tensor

from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op
from ..kernel import Request
from ..record import called_with
from . import reference
from .dropout import draw_seed, dropped
from .fields import AttendCached, Attention
from .shared_rows import shares_keys
from .triton_backward import launch_backward
from .triton_bias_gradient import launch_bias_gradients
from .triton_prefill import launch_forward
from .triton_settings import WIDEST, Operands, Settings


def serves(request: Request) -> str | None:
    """None, or the part of the node that the kernels of many queries leave to others."""
    if request.phase == "decode" and request.op == "attend_cached":
        return "one query a row is for the kernels of decoding"
    if request.dtype == "float64":
        return "sums are float32"
    head_dim = request.fields.get("head_dim")
    for name, size in (("head_dim", head_dim), ("v_head_dim", request.fields.get("v_head_dim") or head_dim)):
        if not isinstance(size, int) or size > WIDEST:
            return f"{name} {size} is more than {WIDEST}"
    return None


def _fake(x: Operands, settings: Settings) -> tuple[Tensor, Tensor]:
    batch, queries, heads = x.q.shape[0], x.q.shape[1], x.q.shape[2] // settings.head_dim
    out = x.q.new_empty((batch, queries, heads * settings.v_head_dim))
    return out, x.q.new_empty((batch, heads, queries), dtype=torch.float32)


def _reference(x: Operands, settings: Settings) -> tuple[Tensor, Tensor]:
    q, k, v, position, key_position, bias, distance_bias, sink, seed = x[:9]
    seen = {"position": position, "key_position": key_position}
    biases = {"bias": bias, "distance_bias": distance_bias}
    given = AttendCached(q=q, keys=k, values=v, **seen, **biases, sink=sink, **settings.fields())
    weights = reference.attention_weights.of(given)
    if seed is not None:
        weights = dropped(weights=weights, seed=seed, dropout=settings.dropout)
    out = reference.weighted_values(weights=weights, values=v).to(q.dtype)
    scores = reference.attention_scores.of(given)
    visible = reference.visible_keys(**seen, mask=given.mask, window=given.window, chunk=given.chunk)[:, None]
    scores = scores.masked_fill(~visible, -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink.float()[:, None, None].expand(*scores.shape[:-1], 1)), dim=-1)
    lse = scores.logsumexp(-1).masked_fill((position < 0)[:, None], -torch.inf)
    return out.contiguous(), lse / math.log(2.0)


def _fake_backward(
    grad: Tensor, x: Operands, out: Tensor, lse: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = ((x.shape[0], x.shape[2], x.shape[1], x.shape[3]) for x in (x.k, x.v))
    of_k, of_v = (x.q.new_empty(shape).transpose(1, 2) for shape in shapes)
    return x.q.new_empty(x.q.shape), of_k, of_v, torch.empty_like(lse)


def _reference_backward(
    grad: Tensor, x: Operands, out: Tensor, lse: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def again(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _reference(x._replace(q=q, k=k, v=v), settings)[0]

    # not autograd: it is left out within an operator
    of_q, of_k, of_v = torch.func.vjp(again, x.q.detach(), x.k.detach(), x.v.detach())[1](grad)
    of_k, of_v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (of_k, of_v))
    by_head = (out.float() * grad.float()).view(*x.q.shape[:2], -1, settings.v_head_dim)
    return of_q.contiguous(), of_k, of_v, by_head.sum(-1).transpose(1, 2).contiguous()


def _fake_biases(
    grad: Tensor, x: Operands, lse: Tensor, delta: Tensor, settings: Settings, of_bias: bool, of_distance: bool
) -> tuple[Tensor, Tensor]:
    wanted = ((x.bias, of_bias), (x.distance_bias, of_distance))
    first, second = (
        x.q.new_empty(0) if one is None or not is_wanted else one.new_empty(one.shape) for one, is_wanted in wanted
    )
    return first, second


def _reference_biases(
    grad: Tensor, x: Operands, lse: Tensor, delta: Tensor, settings: Settings, of_bias: bool, of_distance: bool
) -> tuple[Tensor, Tensor]:
    wanted = {"bias": x.bias if of_bias else None, "distance_bias": x.distance_bias if of_distance else None}
    leaves = {name: one.detach() for name, one in wanted.items() if one is not None}

    def again(leaves: dict[str, Tensor]) -> Tensor:
        return _reference(x._replace(**leaves), settings)[0]

    (found,) = torch.func.vjp(again, leaves)[1](grad) if leaves else ({},)
    first, second = (found[name].contiguous() if name in found else x.q.new_empty(0) for name in wanted)
    return first, second


_attention_biases = gpu_op(
    "attention_bias_gradients", launch_bias_gradients, fake=_fake_biases, reference=_reference_biases
)
_attention_backward = gpu_op("attention_backward", launch_backward, fake=_fake_backward, reference=_reference_backward)
_attention = gpu_op("attention", launch_forward, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    count = len(Operands._fields)
    ctx.settings = Settings(*inputs[count:])
    ctx.save_for_backward(*inputs[:count], *output)


def _gradients(ctx, grad: Tensor, _grad_lse: Tensor):
    *operands, out, lse = ctx.saved_tensors
    x, needs = Operands(*operands), Operands(*ctx.needs_input_grad[: len(operands)])
    of_q, of_k, of_v, delta = _attention_backward(grad, *x, out, lse, *ctx.settings)
    of_sink = None
    if x.sink is not None and needs.sink:
        weight = torch.exp2(x.sink.float()[:, None] / math.log(2.0) - lse).masked_fill(lse == -torch.inf, 0.0)
        of_sink = -(weight * delta).sum((0, 2)).to(x.sink.dtype)
    of_bias = of_distance = None
    if needs.bias or needs.distance_bias:
        wanted = needs.bias, needs.distance_bias
        of_both = _attention_biases(grad, *x, lse, delta, *ctx.settings, *wanted)
        of_bias, of_distance = (one if is_wanted else None for one, is_wanted in zip(of_both, wanted, strict=True))
    wholes = (None for _ in (x.seed, x.plan, x.key_plan, *ctx.settings))
    return of_q, of_k, of_v, None, None, of_bias, of_distance, of_sink, *wholes


register_gradients(_attention, _gradients, setup_context=_keep)


def attention_with_logsumexp(given: AttendCached) -> tuple[Tensor, Tensor]:
    """`reference.attend_cached`, and `[B, H, T]` float32: log2 of what each softmax sums, -inf where it sees nothing.

    Gradients flow through the first alone. In training, weights are dropped by `dropout.kept` of a seed that torch's
    generator gives.
    """
    dropout = given.dropout if given.training else 0.0
    operands = Operands(
        given.q, given.keys, given.values, given.position, given.key_position, given.bias, given.distance_bias,
        given.sink, draw_seed(given.q) if dropout > 0.0 else None, given.plan, given.key_plan,
    )  # fmt: skip
    settings = Settings.of(given, given.head_dim, given.v_head_dim, given.mask)._replace(dropout=dropout)
    return _attention(*operands, *settings)


@called_with(AttendCached)
@shares_keys
def attend_cached(given: AttendCached) -> Tensor:
    """`reference.attend_cached`, weights dropped by another mask."""
    return attention_with_logsumexp(given)[0]


@called_with(Attention)
def attention(given: Attention) -> Tensor:
    """`reference.attention`, weights dropped by another mask."""
    return attend_cached.of(given.cached())
