"""Attention of many queries in Triton against the float64 reference: values, and what it refuses."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.attention import reference
from llmc.kernels.attention.triton_attention import _reference, attend_cached, serves
from llmc.kernels.attention.triton_prefill import launch_forward
from llmc.kernels.attention.triton_settings import FORWARD, Operands, Settings, forward_bytes
from llmc.kernels.gpu.target import TARGETS
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Request
from llmc.kernels.tolerance import assert_close

from .attention_cases import Call, calls
from .gpu import DEVICE

SMALL = {"BLOCK_M": 32, "BLOCK_N": 16, "DESCRIBED": 0, "num_warps": 4, "num_stages": 2}


@given(call=calls(), described=st.sampled_from([0, 1]))
def test_values(call: Call, described: int) -> None:
    with forced("attention_forward", {**SMALL, "DESCRIBED": described}):
        out = call.run(attend_cached)
    exact = call.wide().run(reference.attend_cached)
    assert out.dtype == call.tensors["q"].dtype
    assert_close("out", out, exact)
    blind = call.tensors["position"] < 0
    assert torch.equal(out[blind], torch.zeros_like(out[blind]))


def test_the_logsumexp_is_that_of_the_scores() -> None:
    """With every operand, over two blocks of keys; -inf where nothing is seen."""
    q, keys, values = (torch.randn(1, *shape, device=DEVICE) for shape in ((20, 2 * 12), (1, 20, 12), (1, 20, 8)))
    position = torch.arange(-2, 18, device=DEVICE)[None].clamp(min=-1)
    bias, by_distance, sink = (torch.randn(*shape, device=DEVICE) for shape in ((1, 20, 20), (2, 9), (2,)))
    operands = Operands(q, keys, values, position, position, bias, by_distance, sink)
    settings = Settings(head_dim=12, v_head_dim=8, causal=True, window=9, chunk=16, scale=0.3, softcap=2.0, alibi=True)
    with forced("attention_forward", SMALL):
        out, lse = launch_forward(operands, settings)
    exact, exact_lse = _reference(operands, settings)
    assert_close("out", out, exact)
    assert torch.equal(lse.isinf(), (position < 0).expand(1, 2, 20).squeeze(0)[None])
    assert_close("lse", lse[lse.isfinite()], exact_lse[lse.isfinite()])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
@pytest.mark.parametrize("queries", [16, 64, 512, 4096])
def test_blocks_fit_the_chip(monkeypatch: pytest.MonkeyPatch, dtype: str, head_dim: int, queries: int) -> None:
    key = {"dtype": dtype, "head_dim": head_dim, "v_head_dim": head_dim, "queries": queries, "keys": 8192, "plain": 1}
    for target in TARGETS.values():
        monkeypatch.setattr("llmc.kernels.attention.triton_settings.launch_target", lambda target=target: target)
        config = FORWARD.rule(key)
        assert min(config["BLOCK_M"], config["BLOCK_N"]) >= 16
        assert forward_bytes(key, config) <= target.shared_memory
        assert FORWARD.space(key)


def test_refusals_name_their_reason() -> None:
    def request(
        phase: str = "prefill", dtype: str = "bfloat16", op: str = "attend_cached", **fields: object
    ) -> Request:
        fields = {"head_dim": 64, **fields}
        return Request(op=op, fields=fields, shapes={}, dtype=dtype, device="cuda:sm_90", phase=phase)  # type: ignore[arg-type]

    assert serves(request()) is None
    assert serves(request(softcap=50.0, alibi=True, head_dim=256)) is None
    assert serves(request("decode", op="attention")) is None
    assert "decoding" in str(serves(request("decode")))
    assert "float32" in str(serves(request(dtype="float64")))
    assert "v_head_dim 512 is more than 256" in str(serves(request(v_head_dim=512)))
