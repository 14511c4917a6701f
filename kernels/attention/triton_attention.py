"""Attention in Triton as an operator of torch: which nodes it serves, and its arguments, which are the reference's."""

# pyright: basic
from __future__ import annotations

import math

import torch
from torch import Tensor

from ..gpu.op import gpu_op
from ..kernel import Request
from . import reference
from .reference import MaskKind
from .shared_rows import shares_keys
from .triton_backward import launch_backward
from .triton_bias_gradient import launch_bias_gradients
from .triton_prefill import launch_forward
from .triton_settings import WIDEST, Settings


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
    if request.phase == "train" and request.fields.get("dropout"):
        return "it drops no weights"
    return None


def _launch(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, head_dim: int, v_head_dim: int, causal: bool, window: int,
    chunk: int, scale: float, softcap: float, alibi: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    settings = Settings(head_dim, v_head_dim, causal, window, chunk, scale, softcap, alibi)
    q, k, v, position, key_position = (_dense(x) for x in (q, k, v, position, key_position))
    distance_bias = None if distance_bias is None else distance_bias.contiguous()
    return launch_forward(q, k, v, position, key_position, bias, distance_bias, sink, settings)


def _dense(x: Tensor) -> Tensor:
    """Itself where its last elements lie side by side, as they nearly always do."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _fake(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, head_dim: int, v_head_dim: int, causal: bool, window: int,
    chunk: int, scale: float, softcap: float, alibi: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, queries, heads = q.shape[0], q.shape[1], q.shape[2] // head_dim
    out = q.new_empty((batch, queries, heads * v_head_dim))
    return out, q.new_empty((batch, heads, queries), dtype=torch.float32)


def _reference(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, head_dim: int, v_head_dim: int, causal: bool, window: int,
    chunk: int, scale: float, softcap: float, alibi: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    mask: MaskKind = "causal" if causal else "bidirectional"
    seen = {"position": position, "key_position": key_position}
    limits = {"mask": mask, "window": window or None, "chunk": chunk or None}
    out = reference.attend_cached(
        q=q, keys=k, values=v, **seen, head_dim=head_dim, v_head_dim=v_head_dim, **limits, scale=scale,
        softcap=softcap or None, alibi=alibi, bias=bias, distance_bias=distance_bias, sink=sink,
    )  # fmt: skip
    heads = q.shape[2] // head_dim
    split = q.float().view(*q.shape[:2], heads, head_dim).transpose(1, 2)  # [B, H, T, D]
    scores = split @ k.float().repeat_interleave(heads // k.shape[1], 1).transpose(-1, -2) * scale
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    if alibi:
        scores = scores + reference.alibi_bias(**seen, heads=heads)
    if bias is not None:
        scores = scores + bias.float()
    if distance_bias is not None:
        scores = scores + reference.bias_by_distance(distance_bias=distance_bias.float(), **seen)
    visible = reference.visible_keys(**seen, **limits)[:, None]
    scores = scores.masked_fill(~visible, -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink.float()[:, None, None].expand(*scores.shape[:-1], 1)), dim=-1)
    lse = scores.logsumexp(-1).masked_fill((position < 0)[:, None], -torch.inf)
    return out.contiguous(), lse / math.log(2.0)


def _launch_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, out: Tensor, lse: Tensor, head_dim: int, v_head_dim: int,
    causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    settings = Settings(head_dim, v_head_dim, causal, window, chunk, scale, softcap, alibi)
    grad, q, k, v, position, key_position = (_dense(x) for x in (grad, q, k, v, position, key_position))
    distance_bias = None if distance_bias is None else distance_bias.contiguous()
    return launch_backward(grad, q, k, v, position, key_position, bias, distance_bias, out, lse, settings)


def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, out: Tensor, lse: Tensor, head_dim: int, v_head_dim: int,
    causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    of_k, of_v = (x.new_empty((x.shape[0], x.shape[2], x.shape[1], x.shape[3])).transpose(1, 2) for x in (k, v))
    return q.new_empty(q.shape), of_k, of_v, torch.empty_like(lse)


def _reference_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, out: Tensor, lse: Tensor, head_dim: int, v_head_dim: int,
    causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def again(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _reference(
            q, k, v, position, key_position, bias, distance_bias, sink, head_dim, v_head_dim, causal, window, chunk,
            scale, softcap, alibi,
        )[0]  # fmt: skip

    # not autograd: it is left out within an operator
    of_q, of_k, of_v = torch.func.vjp(again, q.detach(), k.detach(), v.detach())[1](grad)
    of_k, of_v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (of_k, of_v))
    by_head = (out.float() * grad.float()).view(*q.shape[:2], -1, v_head_dim)
    return of_q.contiguous(), of_k, of_v, by_head.sum(-1).transpose(1, 2).contiguous()


def _launch_biases(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, lse: Tensor, delta: Tensor, head_dim: int, v_head_dim: int,
    causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool, of_bias: bool, of_distance: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    settings = Settings(head_dim, v_head_dim, causal, window, chunk, scale, softcap, alibi)
    grad, q, k, v, position, key_position = (_dense(x) for x in (grad, q, k, v, position, key_position))
    distance_bias = None if distance_bias is None else distance_bias.contiguous()
    return launch_bias_gradients(
        grad, q, k, v, position, key_position, bias, distance_bias, lse, delta, settings, of_bias, of_distance
    )  # fmt: skip


def _fake_biases(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, lse: Tensor, delta: Tensor, head_dim: int, v_head_dim: int,
    causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool, of_bias: bool, of_distance: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    wanted = ((bias, of_bias), (distance_bias, of_distance))
    first, second = (q.new_empty(0) if x is None or not one else x.new_empty(x.shape) for x, one in wanted)
    return first, second


def _reference_biases(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_position: Tensor, bias: Tensor | None,
    distance_bias: Tensor | None, sink: Tensor | None, lse: Tensor, delta: Tensor, head_dim: int, v_head_dim: int,
    causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool, of_bias: bool, of_distance: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    given = {"bias": bias, "distance_bias": distance_bias}
    wanted = {name: given[name] for name, one in (("bias", of_bias), ("distance_bias", of_distance)) if one}
    leaves = {name: x.detach() for name, x in wanted.items() if x is not None}

    def again(leaves: dict[str, Tensor]) -> Tensor:
        operands = {**given, **leaves}
        return _reference(
            q, k, v, position, key_position, operands["bias"], operands["distance_bias"], sink, head_dim, v_head_dim,
            causal, window, chunk, scale, softcap, alibi,
        )[0]  # fmt: skip

    (found,) = torch.func.vjp(again, leaves)[1](grad) if leaves else ({},)
    first, second = (found[name].contiguous() if name in found else q.new_empty(0) for name in given)
    return first, second


_attention_biases = gpu_op(
    "attention_bias_gradients", _launch_biases, fake=_fake_biases, reference=_reference_biases
)  # fmt: skip
_attention_backward = gpu_op("attention_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_attention = gpu_op("attention", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    ctx.settings = inputs[8:]
    ctx.save_for_backward(*inputs[:8], *output)


def _gradients(ctx, grad: Tensor, _grad_lse: Tensor):
    q, k, v, position, key_position, bias, distance_bias, sink, out, lse = ctx.saved_tensors
    of_q, of_k, of_v, delta = _attention_backward(
        grad, q, k, v, position, key_position, bias, distance_bias, sink, out, lse, *ctx.settings
    )
    of_sink = None
    if sink is not None and ctx.needs_input_grad[7]:
        weight = torch.exp2(sink.float()[:, None] / math.log(2.0) - lse).masked_fill(lse == -torch.inf, 0.0)
        of_sink = -(weight * delta).sum((0, 2)).to(sink.dtype)
    of_bias = of_distance = None
    wanted = ctx.needs_input_grad[5:7]
    if any(wanted):
        of_bias, of_distance = _attention_biases(
            grad, q, k, v, position, key_position, bias, distance_bias, sink, lse, delta, *ctx.settings, *wanted
        )
    of_bias, of_distance = (x if one else None for x, one in zip((of_bias, of_distance), wanted, strict=True))
    return of_q, of_k, of_v, None, None, of_bias, of_distance, of_sink, *(None,) * 8


_attention.register_autograd(_gradients, setup_context=_keep)


def attention_with_logsumexp(
    *,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_position: Tensor,
    position: Tensor,
    head_dim: int,
    v_head_dim: int | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.attend_cached`, and `[B, H, T]` float32: log2 of what each softmax sums, -inf where it sees nothing.

    Gradients flow through the first alone.
    """
    return _attention(
        q, keys, values, position, key_position, bias, distance_bias, sink, head_dim, v_head_dim or head_dim,
        mask == "causal", window or 0, chunk or 0, head_dim**-0.5 if scale is None else scale, softcap or 0.0, alibi,
    )  # fmt: skip


@shares_keys
def attend_cached(
    *,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_position: Tensor,
    position: Tensor,
    head_dim: int,
    v_head_dim: int | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """`reference.attend_cached`. Raises ValueError for dropout in training."""
    if training and dropout > 0.0:
        raise ValueError("the Triton kernel has no dropout")
    return attention_with_logsumexp(
        q=q,
        keys=keys,
        values=values,
        key_position=key_position,
        position=position,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        mask=mask,
        window=window,
        chunk=chunk,
        scale=scale,
        softcap=softcap,
        alibi=alibi,
        bias=bias,
        distance_bias=distance_bias,
        sink=sink,
    )[0]


def attention(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    key_position: Tensor | None = None,
    head_dim: int,
    v_head_dim: int | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """`reference.attention`. Raises ValueError for dropout in training."""
    return attend_cached(
        q=q,
        keys=k.view(*k.shape[:-1], -1, head_dim).transpose(1, 2),
        values=v.view(*v.shape[:-1], -1, v_head_dim or head_dim).transpose(1, 2),
        key_position=position if key_position is None else key_position,
        position=position,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        mask=mask,
        window=window,
        chunk=chunk,
        scale=scale,
        softcap=softcap,
        alibi=alibi,
        dropout=dropout,
        training=training,
        bias=bias,
        distance_bias=distance_bias,
        sink=sink,
    )
