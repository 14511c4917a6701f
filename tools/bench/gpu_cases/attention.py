"""Attention: long prompts forward and backward (G2), one query over a long cache (G3), the same over latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ....kernels.latent_attention import absorbed
from .beside_reference import beside_reference
from .case import Builder, Case, Run, Sizes, picked

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for head_dim, tokens in ((128, 8192), (128, 16384), (64, 16384)):
        yield partial(_forward, sizes, head_dim, tokens)
        yield partial(_backward, sizes, head_dim, tokens)
    for filled in (8192, 32768, 131072):
        yield partial(_decode, sizes, filled)
    yield partial(_latent, sizes)
    yield partial(_latent_prompt, sizes)
    for kind in ("bias", "distance_bias"):
        yield partial(_biased, sizes, kind)


def _prompt(sizes: Sizes, head_dim: int, tokens: int) -> tuple[dict[str, object], float]:
    """Operands of causal self-attention and its FLOPs: 16k tokens in all, 2048 features, as FlashAttention's tables."""
    tokens = sizes.pick(tokens, 40)
    batch, heads = sizes.pick(max(1, 16384 // tokens), 1), sizes.pick(2048 // head_dim, 2)
    operands: dict[str, object] = {name: sizes.randn(batch, tokens, heads * head_dim) for name in ("q", "k", "v")}
    operands |= {"position": sizes.positions(batch, tokens), "head_dim": head_dim}
    return operands, 2.0 * batch * heads * tokens * tokens * head_dim


def _forward(sizes: Sizes, head_dim: int, tokens: int) -> Case:
    operands, flops = _prompt(sizes, head_dim, tokens)
    q, k, v = (cast("Tensor", operands[name]) for name in ("q", "k", "v"))
    name, function = picked("attention", "prefill", sizes, operands)
    return Case(
        target="G2", name=f"attention forward, head {head_dim}, {q.shape[1]} tokens, causal", kernel=name,
        ours=lambda: function(**operands), bytes=4.0 * q.nbytes, flops=flops, bound="matmul",
        rivals={
            **{backend: _sdpa(sizes, q, k, v, head_dim, backend) for backend in BACKENDS},
            "Triton of torch": _flex(sizes, q, k, v, head_dim), "flash-linear-attention": _fla(q, k, v, head_dim),
        },
        goal="600 TFLOP/s" if head_dim == 128 else "460 TFLOP/s",
    )  # fmt: skip


def _backward(sizes: Sizes, head_dim: int, tokens: int) -> Case:
    operands, flops = _prompt(sizes, head_dim, tokens)
    q, k, v = (cast("Tensor", operands[name]) for name in ("q", "k", "v"))
    name, function = picked("attention", "train", sizes, operands)
    grad = sizes.randn(*q.shape)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        out = cast("Tensor", function(**{**operands, **dict(zip("qkv", leaves, strict=True))}))
    return Case(
        target="G2", name=f"attention backward, head {head_dim}, {q.shape[1]} tokens, causal", kernel=name,
        ours=lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True), bytes=10.0 * q.nbytes,
        flops=2.5 * flops, bound="matmul", goal=">= 1.0x",
        rivals={backend: _sdpa_backward(sizes, q, k, v, grad, head_dim, backend) for backend in BACKENDS},
    )  # fmt: skip


def _by_head(x: Tensor, head_dim: int) -> Tensor:
    """`[B, T, H*D]` -> `[B, H, T, D]`."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def _runs(sizes: Sizes, backend: str, run: Run) -> Run | str:
    """The run within one of torch's backends, or why there is none."""
    if sizes.device.type != "cuda":
        return run if backend == "flash" else "only on a GPU"

    def within() -> object:
        with sdpa_kernel(BACKENDS[backend]):
            return run()

    try:
        within()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return within


def _sdpa(sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, head_dim: int, backend: str) -> Run | str:
    query, key, value = (_by_head(x, head_dim).contiguous() for x in (q, k, v))

    def run() -> Tensor:
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return out.transpose(1, 2).flatten(2)

    return _runs(sizes, backend, run)


def _flex(sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, head_dim: int) -> Run | str:
    """The attention in Triton that torch.compile writes, with blocks beyond the diagonal left out."""
    if sizes.device.type != "cuda":
        return "only on a GPU"
    make = cast("Callable[..., Callable[..., Tensor]]", torch.compile)  # pyright: ignore[reportUnknownMemberType]
    attend = make(flex_attention, dynamic=False)
    query, key, value = (_by_head(x, head_dim).contiguous() for x in (q, k, v))
    tokens = q.shape[1]
    blocks = create_block_mask(_is_causal, None, None, tokens, tokens, device=str(sizes.device))
    return lambda: attend(query, key, value, block_mask=blocks).transpose(1, 2).flatten(2)


def _is_causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def _fla(q: Tensor, k: Tensor, v: Tensor, head_dim: int) -> Run | str:
    """Softmax attention in Triton as that library has it."""
    if find_spec("fla") is None:
        return "flash-linear-attention is not installed"
    from fla.ops.attn.parallel import parallel_attn  # type: ignore[import-not-found]  # pyright: ignore

    run = cast("Callable[..., Tensor]", parallel_attn)
    query, key, value = (_by_head(x, head_dim).transpose(1, 2) for x in (q, k, v))
    return lambda: run(q=query, k=key, v=value, scale=head_dim**-0.5).flatten(2)


def _sdpa_backward(
    sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, head_dim: int, backend: str
) -> Run | str:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]

    def forward() -> Tensor:
        query, key, value = (_by_head(x, head_dim) for x in leaves)
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return out.transpose(1, 2).flatten(2)

    found = _runs(sizes, backend, forward)
    if isinstance(found, str):
        return found
    with torch.enable_grad():
        out = cast("Tensor", found())
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _decode(sizes: Sizes, filled: int) -> Case:
    """One query of 32 heads over 8 key heads; the buffers are a quarter larger than what they hold."""
    filled, heads, shared, head_dim = sizes.pick(filled, 50), sizes.pick(32, 4), sizes.pick(8, 2), 128
    capacity = filled * 5 // 4
    keys, values = (sizes.randn(1, shared, capacity, head_dim) for _ in range(2))
    slot = torch.arange(capacity, device=sizes.device)
    operands: dict[str, object] = {
        "q": sizes.randn(1, 1, heads * head_dim), "keys": keys, "values": values, "head_dim": head_dim,
        "key_position": torch.where(slot < filled, slot, -1)[None], "position": sizes.positions(1, 1, filled - 1),
    }  # fmt: skip
    name, function = picked("attend_cached", "decode", sizes, operands)
    query = _by_head(cast("Tensor", operands["q"]), head_dim)

    def rival() -> Tensor:
        out = functional.scaled_dot_product_attention(
            query, keys[:, :, :filled], values[:, :, :filled], enable_gqa=True
        )
        return out.transpose(1, 2).flatten(2)

    return Case(
        target="G3", name=f"attention decode, 32:8 heads of 128, {filled} tokens", kernel=name,
        ours=lambda: function(**operands), bytes=2.0 * shared * filled * head_dim * sizes.dtype.itemsize,
        flops=4.0 * heads * filled * head_dim, bound="bandwidth", rivals={"sdpa": rival}, goal=">= 90 %",
    )  # fmt: skip


def _latent(sizes: Sizes) -> Case:
    """DeepSeek-V3's shape: 128 heads over one latent of 512 and 64 rotated features a token."""
    filled, heads, rank, rope, nope = sizes.pick(32768, 40), sizes.pick(128, 4), sizes.pick(512, 32), 64, 128
    slot = torch.arange(filled, device=sizes.device)
    operands: dict[str, object] = {
        "q_nope": sizes.randn(1, 1, heads * nope), "q_rope": sizes.randn(1, 1, heads * rope),
        "latents": sizes.randn(1, 1, filled, rank), "k_ropes": sizes.randn(1, 1, filled, rope),
        "kv_up": sizes.randn(heads * 2 * nope, rank) * rank**-0.5, "key_position": slot[None],
        "position": sizes.positions(1, 1, filled - 1), "nope_head_dim": nope, "rope_head_dim": rope, "v_head_dim": nope,
    }  # fmt: skip
    name, function = picked("latent_attend_cached", "decode", sizes, operands)
    rival = cast("Callable[..., Tensor]", absorbed.latent_attend_cached)
    weight = cast("Tensor", operands["kv_up"]).nbytes
    return Case(
        target="G3", name=f"latent attention decode, {heads} heads, {filled} tokens", kernel=name,
        ours=lambda: function(**operands), bytes=float(filled * (rank + rope) * sizes.dtype.itemsize + weight),
        flops=2.0 * heads * filled * (2 * rank + rope), bound="bandwidth",
        rivals={"torch, absorbed": lambda: rival(**operands)}, goal=">= 90 %",
    )  # fmt: skip


def _latent_prompt(sizes: Sizes) -> Case:
    """A prompt over its own latents, which each head expands."""
    tokens, heads, rank, rope, nope = sizes.pick(4096, 17), sizes.pick(128, 2), sizes.pick(512, 32), 64, 128
    operands: dict[str, object] = {
        "q_nope": sizes.randn(1, tokens, heads * nope), "q_rope": sizes.randn(1, tokens, heads * rope),
        "latent": sizes.randn(1, tokens, rank), "k_rope": sizes.randn(1, tokens, rope),
        "kv_up": sizes.randn(heads * 2 * nope, rank) * rank**-0.5, "position": sizes.positions(1, tokens),
        "nope_head_dim": nope, "rope_head_dim": rope, "v_head_dim": nope,
    }  # fmt: skip
    pairs = 0.5 * heads * tokens * tokens * (2 * nope + rope)
    return beside_reference(
        sizes, "latent_attention:latent_attention", "prefill", operands, target="G2",
        flops=2.0 * (pairs + tokens * rank * heads * 2 * nope),
    )  # fmt: skip


def _biased(sizes: Sizes, kind: str) -> Case:
    """T5 large: 16 heads of 64 and a bias that learns, by pair or by distance."""
    tokens, heads, width = sizes.pick(2048, 17), sizes.pick(16, 2), 64
    bias = sizes.randn(heads, tokens, tokens) if kind == "bias" else sizes.randn(heads, 2 * sizes.pick(128, 5) + 1)
    operands: dict[str, object] = {
        **{name: sizes.randn(1, tokens, heads * width) for name in ("q", "k", "v")}, kind: bias,
        "position": sizes.positions(1, tokens), "head_dim": width, "mask": "bidirectional",
    }  # fmt: skip
    return beside_reference(
        sizes, "attention:attention", "train", operands, leaves=("q", "k", "v", kind), target="G2",
        flops=4.5 * 4.0 * heads * tokens * tokens * width, note=f" with {kind}",
    )  # fmt: skip
