"""A kernel of a backward pass that does not compile: one warning a node, and the gradients of the references."""

# pyright: basic
from __future__ import annotations

import re
import warnings

import pytest

pytest.importorskip("triton")

import triton
import triton.language as tl

from llmc.kernels.norm import triton_rms_norm

from ..golden.gpu_programs import on_gpu
from ..switches import only_with_kernels
from .test_training_kernels import given_to, gradients, randomised, require_equal

NODES = ["input_layernorm", "model.norm", "post_attention_layernorm"]
SAID = re.compile(
    r"(\S+) \(rms_norm, \S*llama\.yaml:\d+\): kernel rms_norm_backward does not compile here and is set aside for"
    r" its reference \(grad \[2, 6, 24\] float32, .*offset=0\.0, head_dim=24\): \w+: .*on purpose.*"
)


@triton.jit
def broken(
    p_grad, p_grad_sum, p_x, p_weight, p_rstd, p_grad_x, p_grad_weight, width, heads, rows, offset,
    HAS_SUM: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """In the place of a norm's backward kernel."""
    tl.static_assert(BLOCK < 0, "on purpose")


def test_the_reference_runs_at_each_node_from_the_first_failure_on(monkeypatch: pytest.MonkeyPatch) -> None:
    only_with_kernels()
    model, given = randomised("llama"), given_to("llama")
    ours = on_gpu(model).train().requires_grad_()
    monkeypatch.setattr(triton_rms_norm, "_backward", broken)
    with pytest.warns(RuntimeWarning) as caught:
        found = gradients(ours, given)
    require_equal(found, gradients(model, given))
    said = [SAID.fullmatch(str(one.message)) for one in caught]
    assert sorted(one[1] if one else "" for one in said) == NODES
    ours.zero_grad()
    with warnings.catch_warnings(action="error"):
        require_equal(gradients(ours, given), found)
