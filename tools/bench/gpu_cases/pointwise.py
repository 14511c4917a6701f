"""What training does between matrices: norm, gate, rotation, and the loss with the head, beside torch and Liger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ....kernels.cross_entropy.triton_cross_entropy import linear_cross_entropy
from .case import Builder, Case, Run, Sizes, forward_and_backward, picked

LIGER = "liger-kernel is not installed"


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    yield partial(_norm, sizes, sizes.pick(8192, 5), sizes.pick(4096, 48))
    yield partial(_gate, sizes, sizes.pick(8192, 5), sizes.pick(14336, 48))
    yield partial(_rope, sizes, sizes.pick(8192, 9), sizes.pick(32, 4), sizes.pick(8, 2))
    yield partial(_loss, sizes, sizes.pick(4096, 5), sizes.pick(4096, 32), sizes.pick(128256, 70))


def _liger(name: str) -> Callable[..., object] | None:
    """A function of Liger Kernel, where it is installed."""
    if find_spec("liger_kernel") is None:
        return None
    return cast("Callable[..., object]", getattr(import_module("liger_kernel.transformers.functional"), name))


def _both(run: Callable[[], object] | None, leaves: list[Tensor], grad: Tensor) -> Run | str:
    return LIGER if run is None else forward_and_backward(run, leaves, grad)


def _norm(sizes: Sizes, rows: int, width: int) -> Case:
    """Forward reads x and writes a row; backward reads both and writes one."""
    x, weight = sizes.randn(1, rows, width).requires_grad_(), sizes.randn(width).requires_grad_()
    operands: dict[str, object] = {"x": x, "weight": weight, "eps": 1e-5}
    name, function = picked("rms_norm", "train", sizes, operands)
    leaves, grad, liger = [x, weight], sizes.randn(1, rows, width), _liger("liger_rms_norm")
    return Case(
        target="", name=f"RMS norm forward and backward, {rows} x {width}", kernel=name,
        ours=forward_and_backward(lambda: function(**operands), leaves, grad), bytes=5.0 * x.nbytes,
        flops=10.0 * x.numel(), bound="bandwidth", goal=">= 1x Liger",
        rivals={
            "torch": _both(lambda: functional.rms_norm(x, (width,), weight, 1e-5), leaves, grad),
            "Liger": _both(liger and (lambda: liger(x, weight, 1e-5, in_place=False)), leaves, grad),
        },
    )  # fmt: skip


def _gate(sizes: Sizes, rows: int, width: int) -> Case:
    """Forward reads two and writes one; backward reads three and writes two."""
    gate, up = (sizes.randn(1, rows, width).requires_grad_() for _ in range(2))
    operands: dict[str, object] = {"gate": gate, "up": up, "kind": "silu"}
    name, function = picked("gated_activation", "train", sizes, operands)
    leaves, grad, liger = [gate, up], sizes.randn(1, rows, width), _liger("liger_swiglu")
    return Case(
        target="", name=f"SwiGLU forward and backward, {rows} x {width}", kernel=name,
        ours=forward_and_backward(lambda: function(**operands), leaves, grad), bytes=8.0 * gate.nbytes,
        flops=20.0 * gate.numel(), bound="bandwidth", goal=">= 1x Liger",
        rivals={
            "torch": _both(lambda: functional.silu(gate) * up, leaves, grad),
            "Liger": _both(liger and (lambda: liger(gate, up)), leaves, grad),
        },
    )  # fmt: skip


def _rope(sizes: Sizes, tokens: int, heads: int, shared: int) -> Case:
    """Queries and keys are read and written; Liger turns its copies where they lie."""
    width = 128
    q, k = sizes.randn(1, tokens, heads * width), sizes.randn(1, tokens, shared * width)
    angle = torch.arange(tokens, device=sizes.device)[:, None] / 10000.0 ** torch.linspace(0, 1, 64, device=q.device)
    cos, sin = angle.cos()[None], angle.sin()[None]
    table = torch.cat((cos, sin), dim=-1)
    name, function = picked("rope_apply", "prefill", sizes, {"x": q, "table": table, "head_dim": width})
    wide = [torch.cat((one, one), dim=-1).to(q.dtype) for one in (cos, sin)]

    def by_head(x: Tensor) -> Tensor:
        return x.view(1, tokens, -1, width).transpose(1, 2)

    def turned(x: Tensor) -> Tensor:
        x = by_head(x)
        left, right = x.chunk(2, dim=-1)
        return (x * wide[0][:, None] + torch.cat((-right, left), dim=-1) * wide[1][:, None]).transpose(1, 2).flatten(2)

    liger, copies = _liger("liger_rope"), [by_head(q.clone()), by_head(k.clone())]
    return Case(
        target="", name=f"rotation of {heads} and {shared} heads of {width}, {tokens} tokens", kernel=name,
        ours=lambda: tuple(function(x=x, table=table, head_dim=width) for x in (q, k)),
        bytes=2.0 * (q.nbytes + k.nbytes), flops=3.0 * (q.numel() + k.numel()), bound="bandwidth",
        goal=">= 1x Liger",
        rivals={
            "torch": lambda: (turned(q), turned(k)),
            "Liger": LIGER if liger is None else (lambda: liger(*copies, *wide)),
        },
    )  # fmt: skip


def _loss(sizes: Sizes, tokens: int, width: int, vocabulary: int) -> Case:
    """Logits, and from their gradients those of the hidden states and of the head: three products."""
    hidden = sizes.randn(tokens, width).requires_grad_()
    weight = (sizes.randn(vocabulary, width) * width**-0.5).requires_grad_()
    target = torch.randint(0, vocabulary, (tokens,), device=sizes.device)
    leaves, grad = [hidden, weight], torch.ones((), device=sizes.device)
    liger = _liger("liger_fused_linear_cross_entropy")
    return Case(
        target="", name=f"head and cross entropy with gradients, {tokens} tokens, {vocabulary} x {width}",
        kernel="triton",
        ours=forward_and_backward(
            lambda: linear_cross_entropy(hidden=hidden, weight=weight, target=target), leaves, grad
        ),
        bytes=float(4 * weight.nbytes), flops=6.0 * tokens * weight.numel(), bound="matmul", goal=">= 1x Liger",
        rivals={
            "torch": _both(
                lambda: functional.cross_entropy(functional.linear(hidden, weight).float(), target), leaves, grad
            ),
            "Liger": _both(liger and (lambda: liger(hidden, weight, target)), leaves, grad),
        },
    )  # fmt: skip
