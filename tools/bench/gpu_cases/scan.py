"""Scans (G4): Mamba-2's with one decay a head, Mamba's with one a channel up to 256k tokens, the gated delta rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ....kernels.scan import chunked
from .case import Builder, Case, Run, Sizes, forward_and_backward, picked


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    yield partial(_ssd_forward, sizes)
    yield partial(_ssd_both, sizes)
    for tokens in (4096, 65536, 262144):
        yield partial(_selective, sizes, tokens)
    yield partial(_selective_both, sizes)
    yield partial(_delta, sizes)
    yield partial(_delta_both, sizes)
    yield partial(_delta_both, sizes, few=True)
    yield partial(_step, sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ssd:
    """Mamba-2 2.7B: 80 heads of 64, state 128, one group, 8 rows of 4096 tokens."""

    operands: dict[str, object]
    bytes: float
    flops: float
    """Within a chunk scores and their sum, then the state read and written."""
    label: str


def _ssd(sizes: Sizes) -> _Ssd:
    batch, tokens, heads = sizes.pick(8, 1), sizes.pick(4096, 70), sizes.pick(80, 2)
    value, state, chunk = 64, sizes.pick(128, 16), sizes.pick(256, 16)
    v, k, dt = (sizes.randn(batch, tokens, width) for width in (heads * value, state, heads))
    operands: dict[str, object] = {
        "v": v, "k": k * state**-0.5, "q": sizes.randn(batch, tokens, state), "dt": functional.softplus(dt - 3),
        "decay": torch.rand(heads, device=sizes.device).log(), "position": sizes.positions(batch, tokens),
        "skip": torch.ones(heads, device=sizes.device, dtype=sizes.dtype), "key_dim": state, "value_dim": value,
        "decay_per": "head", "decay_form": "A_log", "chunk_size": chunk,
    }  # fmt: skip
    return _Ssd(
        operands=operands,
        bytes=2.0 * v.nbytes + 2.0 * k.nbytes + dt.nbytes,
        flops=batch * tokens * heads * (chunk * (state / heads + value) + 4.0 * state * value),
        label=f"{heads} heads, {tokens} tokens x {batch}",
    )


def _ssd_forward(sizes: Sizes) -> Case:
    ssd = _ssd(sizes)
    name, function = picked("scan", "prefill", sizes, ssd.operands)
    torch_form = cast("Callable[..., object]", chunked.scan)
    return Case(
        target="G4", name=f"SSD forward, {ssd.label}", kernel=name, ours=lambda: function(**ssd.operands),
        bytes=ssd.bytes, flops=ssd.flops, bound="bandwidth", goal=">= 2x mamba-ssm",
        rivals={"torch, chunked": lambda: torch_form(**ssd.operands), "mamba-ssm": _mamba_ssm(ssd.operands)},
    )  # fmt: skip


def _ssd_both(sizes: Sizes) -> Case:
    ssd = _ssd(sizes)
    name, function = picked("scan", "train", sizes, ssd.operands)
    names = ("v", "k", "q", "dt")
    leaves = [cast("Tensor", ssd.operands[key]).detach().requires_grad_() for key in names]
    given = {**ssd.operands, **dict(zip(names, leaves, strict=True))}
    grad = sizes.randn(*leaves[0].shape)

    def both(run: Callable[..., object]) -> Run:
        def forward_and_backward() -> object:
            with torch.enable_grad():
                return torch.autograd.grad(cast("Tensor", run(**given)), leaves, grad)

        return forward_and_backward

    return Case(
        target="G4", name=f"SSD forward and backward, {ssd.label}", kernel=name, ours=both(function),
        bytes=3.5 * ssd.bytes, flops=3.0 * ssd.flops, bound="bandwidth", goal=">= 2.5x mamba-ssm",
        rivals={"torch, chunked": both(cast("Callable[..., object]", chunked.scan))},
    )  # fmt: skip


def _mamba_ssm(operands: dict[str, object]) -> Run | str:
    """Mamba's own kernels, where they are installed."""
    if find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed"
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined  # type: ignore[import-not-found]  # pyright: ignore

    x = cast("dict[str, Any]", operands)
    batch, tokens = x["position"].shape
    v = x["v"].view(batch, tokens, -1, x["value_dim"])
    k, q = (x[name].view(batch, tokens, 1, -1) for name in ("k", "q"))
    rate = -x["decay"].float().exp()
    run = cast("Callable[..., Tensor]", mamba_chunk_scan_combined)
    return lambda: run(v, x["dt"], rate, k, q, x["chunk_size"], D=x["skip"]).flatten(2)


def _selective(sizes: Sizes, tokens: int) -> Case:
    """Mamba 2.8B: 5120 channels, state 16, 64k tokens at least in all."""
    batch, tokens = sizes.pick(max(1, 65536 // tokens), 1), sizes.pick(tokens, 9)
    operands = _channels(sizes, batch, tokens)
    channels, state = cast("Tensor", operands["decay"]).shape
    name, function = picked("scan", "prefill", sizes, operands)
    stream = cast("Tensor", operands["v"]).nbytes
    return Case(
        target="G4", name=f"selective scan, {channels} channels, {tokens} tokens x {batch}", kernel=name,
        ours=lambda: function(**operands), bytes=3.0 * stream + 2.0 * cast("Tensor", operands["k"]).nbytes,
        flops=batch * tokens * channels * state * 6.0, bound="bandwidth", goal=">= 85 %, flat",
    )  # fmt: skip


def _channels(sizes: Sizes, batch: int, tokens: int) -> dict[str, object]:
    channels, state = sizes.pick(5120, 20), 16
    return {
        "v": sizes.randn(batch, tokens, channels), "k": sizes.randn(batch, tokens, state),
        "q": sizes.randn(batch, tokens, state), "decay": torch.rand(channels, state, device=sizes.device).log(),
        "dt": functional.softplus(sizes.randn(batch, tokens, channels) - 3), "key_dim": state, "value_dim": 1,
        "skip": torch.ones(channels, device=sizes.device, dtype=sizes.dtype), "decay_per": "state",
        "decay_form": "A_log", "position": sizes.positions(batch, tokens),
    }  # fmt: skip


def _gated_delta(sizes: Sizes, *, few: bool = False) -> dict[str, object]:
    """Qwen3-Next's shape: 32 heads of 128 by 128, 4 rows of 4096 tokens; a few, 8 heads of one row of 16384."""
    batch, tokens, heads = (1, 16384, 8) if few else (4, 4096, 32)
    batch, tokens, heads = sizes.pick(batch, 1), sizes.pick(tokens, 40), sizes.pick(heads, 2)
    width = sizes.pick(128, 16)
    unit = functional.normalize(sizes.randn(batch, tokens, heads, width).float(), dim=-1).flatten(2).to(sizes.dtype)
    operands: dict[str, object] = {
        "v": sizes.randn(batch, tokens, heads * width), "k": unit, "q": sizes.randn(batch, tokens, heads * width),
        "decay": -functional.softplus(sizes.randn(batch, tokens, heads)), "position": sizes.positions(batch, tokens),
        "beta": torch.sigmoid(sizes.randn(batch, tokens, heads)), "key_dim": width, "value_dim": width,
        "decay_per": "token_head", "update": "delta", "scale": width**-0.5,
    }  # fmt: skip
    return operands


def _delta_both(sizes: Sizes, *, few: bool = False) -> Case:
    """The torch form stands for the reference, which takes a step a token. Few heads take a row in segments."""
    operands = _gated_delta(sizes, few=few)
    name, function = picked("scan", "train", sizes, operands)
    return _trained(sizes, operands, ("v", "k", "q", "decay", "beta"), name, function, "gated delta rule")


def _selective_both(sizes: Sizes) -> Case:
    operands = _channels(sizes, sizes.pick(8, 1), sizes.pick(4096, 9))
    name, function = picked("scan", "train", sizes, operands)
    return _trained(sizes, operands, ("v", "k", "q", "dt"), name, function, "selective scan")


def _trained(
    sizes: Sizes, operands: dict[str, object], names: Sequence[str], kernel: str, run: Callable[..., object], what: str
) -> Case:  # fmt: skip
    """Forward and backward; the floor is what both read and write of the operands."""
    leaves = [cast("Tensor", operands[name]).requires_grad_() for name in names]
    grad = sizes.randn(*cast("Tensor", operands["v"]).shape)
    return Case(
        target="G4", name=f"{what} forward and backward, {leaves[0].shape[1]} tokens x {leaves[0].shape[0]}",
        kernel=kernel, ours=forward_and_backward(lambda: run(**operands), leaves, grad),
        bytes=float(3 * sum(x.nbytes for x in leaves)), flops=0.0, bound="bandwidth",
    )  # fmt: skip


def _delta(sizes: Sizes) -> Case:
    operands = _gated_delta(sizes)
    unit, heads = cast("Tensor", operands["k"]), cast("Tensor", operands["beta"]).shape[2]
    (batch, tokens, _), width = unit.shape, cast("int", operands["key_dim"])
    name, function = picked("scan", "prefill", sizes, operands)
    return Case(
        target="G4", name=f"gated delta rule forward, {heads} heads of {width}, {tokens} tokens", kernel=name,
        ours=lambda: function(**operands), bytes=4.0 * unit.nbytes,
        flops=batch * tokens * heads * (4.0 * width * width + 5.0 * 64 * width), bound="bandwidth",
        rivals={"flash-linear-attention": _fla(operands)}, goal=">= 1x fla",
    )  # fmt: skip


def _fla(operands: dict[str, object]) -> Run | str:
    if find_spec("fla") is None:
        return "flash-linear-attention is not installed"
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # type: ignore[import-not-found]  # pyright: ignore

    x = cast("dict[str, Any]", operands)
    q, k, v = (x[name].unflatten(-1, (-1, x["key_dim"])) for name in ("q", "k", "v"))
    run = cast("Callable[..., tuple[Tensor, object]]", chunk_gated_delta_rule)
    return lambda: run(q, k, v, x["decay"], x["beta"], scale=x["scale"])[0].flatten(2)


def _step(sizes: Sizes) -> Case:
    """One token of Mamba-2 2.7B for 64 rows: the state is read and written."""
    batch, heads, value, state = sizes.pick(64, 2), sizes.pick(80, 2), 64, sizes.pick(128, 16)
    kept = torch.randn(batch, heads, state, value, device=sizes.device)
    operands: dict[str, object] = {
        "v": sizes.randn(batch, 1, heads * value), "k": sizes.randn(batch, 1, state), "q": sizes.randn(batch, 1, state),
        "decay": torch.rand(heads, device=sizes.device).log(), "dt": functional.softplus(sizes.randn(batch, 1, heads)),
        "position": sizes.positions(batch, 1, 5), "key_dim": state, "value_dim": value, "decay_per": "head",
        "decay_form": "A_log", "state": (kept,),
    }  # fmt: skip
    name, function = picked("scan", "decode", sizes, operands)
    return Case(
        target="G4", name=f"SSD step, {batch} rows, {heads} heads", kernel=name, ours=lambda: function(**operands),
        bytes=2.0 * kept.nbytes, flops=6.0 * kept.numel(), bound="bandwidth", goal=">= 85 %",
    )  # fmt: skip
