"""The gradient of attention in Triton against float64 autograd of the reference."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.attention import reference, triton_bias_gradient
from llmc.kernels.attention.triton_attention import attend_cached, attention, serves
from llmc.kernels.attention.triton_settings import BACKWARD_KEYS, BACKWARD_QUERIES, backward_bytes
from llmc.kernels.gpu.target import TARGETS
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Request
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .attention_cases import Call, calls
from .gpu import DEVICE

SMALL = {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2}


def gradients(call: Call, function: object, seed: int) -> dict[str, torch.Tensor]:
    """Of every float operand, with respect to a random gradient of the output."""
    names = [name for name in ("q", "keys", "values", "sink", "bias", "distance_bias") if name in call.tensors]
    leaves = {name: call.tensors[name].detach().requires_grad_() for name in names}
    out = Call({**call.tensors, **leaves}, call.fields).run(function)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
    return dict(zip(names, torch.autograd.grad(out, list(leaves.values()), grad), strict=True))


def floors(call: Call) -> dict[str, float]:
    """What rounding the output once adds to each gradient, in its roundings, however small the gradient is.

    The gradient of a score is weight * (grad v - delta), and delta = out * grad sums Dv products of the rounded output,
    so that where a weight is nearly one and nothing is left of the difference, its rounding is.
    """
    scale, head_dim = call.fields["scale"], call.fields["head_dim"]
    slope = abs(head_dim**-0.5 if scale is None else scale) * call.fields["v_head_dim"] ** 0.5  # type: ignore[operator]
    batch, tokens = call.tensors["position"].shape
    of_sink = (batch * tokens * call.fields["v_head_dim"]) ** 0.5  # type: ignore[operator]
    of_bias = (batch * call.tensors["q"].shape[-1] / head_dim * call.fields["v_head_dim"]) ** 0.5  # type: ignore[operator]
    return {"q": slope, "keys": slope, "values": 0.0, "sink": of_sink, "bias": of_bias, "distance_bias": of_sink}


@given(call=calls(), seed=st.integers(0, 2**16))
def test_gradients(call: Call, seed: int) -> None:
    with (
        forced("attention_forward", {**SMALL, "DESCRIBED": 0}),
        forced("attention_backward_queries", SMALL),
        forced("attention_backward_keys", SMALL),
    ):
        ours = gradients(call, attend_cached, seed)
    exact = gradients(call.wide(), reference.attend_cached, seed)
    for name, found in ours.items():
        size = float(exact[name].square().mean().sqrt())
        rounding = torch.finfo(found.dtype).eps / 2 * floors(call)[name]
        bound = TOLERANCE[found.dtype] + (rounding / size if size > 0.0 else rounding)
        assert_close(f"gradient of {name}", found, exact[name], tolerance=bound)


@pytest.mark.parametrize("reach", [0, 2, 40])
@pytest.mark.parametrize("scratch", [1, 2**28])
def test_rows_that_do_not_fit_the_scratch(reach: int, scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bias by distance alone, as T5 trains it: rows one after another, distances all clamped or none."""
    monkeypatch.setattr(triton_bias_gradient, "SCRATCH", scratch)
    make = torch.Generator().manual_seed(reach)
    q, k, v = (torch.randn(2, 37, 32, generator=make).to(DEVICE) for _ in range(3))
    at = torch.arange(37, device=DEVICE).expand(2, 37).clone()
    at[1, 30:] = -1
    weight = torch.randn(2, 2 * reach + 1, generator=make).to(DEVICE)
    grad = torch.randn(2, 37, 32, generator=make).to(DEVICE)
    found = []
    for function, dtype in ((attention, torch.float32), (reference.attention, torch.float64)):
        leaf = weight.to(dtype).requires_grad_()
        out = function(
            q=q.to(dtype), k=k.to(dtype), v=v.to(dtype), position=at, head_dim=16, mask="bidirectional",
            distance_bias=leaf,
        )  # fmt: skip
        found.append(torch.autograd.grad(out, leaf, grad.to(dtype))[0])
    if reach == 0:  # one number added to every score of a head changes nothing
        assert found[0].abs().max() < 1e-4
    else:
        assert_close("gradient", found[0], found[1])


def test_training_is_refused_where_it_must_be() -> None:
    def request(shapes: dict[str, tuple[int | str, ...]], dtype: str = "bfloat16", **fields: object) -> Request:
        fields = {"head_dim": 64, **fields}
        return Request(op="attention", fields=fields, shapes=shapes, dtype=dtype, device="cuda", phase="train")

    assert serves(request({})) is None
    assert serves(request({"sink": (8,)}, dropout=0.0)) is None
    assert serves(request({"bias": (8, "T", "T"), "distance_bias": (8, 9)})) is None
    assert serves(request({}, dropout=0.1)) is None
    assert serves(request({}, "float64")) == "sums are float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
@pytest.mark.parametrize("plain", [0, 1])
def test_blocks_fit_the_chip(monkeypatch: pytest.MonkeyPatch, dtype: str, head_dim: int, plain: int) -> None:
    key = {"dtype": dtype, "head_dim": head_dim, "v_head_dim": head_dim, "queries": 4096, "keys": 8192, "plain": plain}
    for target in TARGETS.values():
        monkeypatch.setattr("llmc.kernels.attention.triton_settings.launch_target", lambda target=target: target)
        for tunable, kept, passed in (
            (BACKWARD_QUERIES, "BLOCK_M", "BLOCK_N"),
            (BACKWARD_KEYS, "BLOCK_N", "BLOCK_M"),
        ):
            config = tunable.rule(key)
            assert min(config[kept], config[passed]) >= 16
            assert backward_bytes(key, config, kept=kept, passed=passed) <= target.shared_memory
            assert tunable.space(key)
