"""The registry: every name resolves, every kernel has the arguments of its reference, and importing it stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

from llmc.compiler.ops import OP_INDEX
from llmc.kernels.kernel import Kernel, Request
from llmc.kernels.registry import KERNELS, kernels_for, resolve_reference
from llmc.kernels.states import STATES
from llmc.kernels.tolerance import assert_close, error_ratio


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.op}-{k.name}")
def test_a_kernel_takes_what_its_reference_takes(kernel: Kernel) -> None:
    """One for packed weights may serve a wider op too, whose other arguments have defaults."""
    reference = resolve_reference(OP_INDEX[kernel.op].reference)
    expected = inspect.signature(reference).parameters
    actual = inspect.signature(kernel.function()).parameters
    if kernel.format:
        actual = {n: p for n, p in actual.items() if n in expected or p.default is p.empty}
    assert {n: (p.default, p.kind) for n, p in actual.items()} == {n: (p.default, p.kind) for n, p in expected.items()}


def test_references_take_keywords_only() -> None:
    for family in ("linear", "embedding", "norm", "pointwise", "rope", "attention", "cache"):
        module = sys.modules[resolve_reference_module(family)]
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ != module.__name__ or name.startswith("_"):
                continue
            kinds = {p.kind for p in inspect.signature(function).parameters.values()}
            assert kinds == {inspect.Parameter.KEYWORD_ONLY}, f"{family}:{name}"
            assert function.__doc__, f"{family}:{name}"


def resolve_reference_module(family: str) -> str:
    """The module's name, once it has been imported."""
    first = {"linear": "linear", "embedding": "embedding", "norm": "rms_norm", "pointwise": "add", "rope": "rope"}
    name = first.get(family) or {"attention": "attention", "cache": "kv_full_append"}[family]
    return resolve_reference(f"{family}:{name}").__module__


def test_kernels_come_in_order_of_preference() -> None:
    assert [k.name for k in kernels_for("attention")] == ["triton_prefill", "sdpa"]
    assert kernels_for("clamp") == ()


def test_a_kernel_gives_its_reason() -> None:
    request = Request(
        op="attention", fields={"softcap": 50.0}, shapes={}, dtype="float32", device="cpu", phase="prefill"
    )
    assert kernels_for("attention")[-1].refusal(request) == "scaled_dot_product_attention has no softcap"


def test_appends_of_states_resolve() -> None:
    for kind in STATES.values():
        assert callable(resolve_reference(kind.append))


def test_names_are_found_without_importing_torch() -> None:
    code = "import sys, llmc.kernels.registry, llmc.kernels.states; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_tolerance_names_the_tensor_and_catches_nan() -> None:
    ones = torch.ones(4)
    assert error_ratio(ones, ones) == 0.0
    assert error_ratio(ones * 1.5, ones) == 0.5
    assert_close("zeros", torch.zeros(3), torch.zeros(3))
    with pytest.raises(AssertionError, match="grad of weight: error ratio"):
        assert_close("grad of weight", ones * 1.01, ones)
    with pytest.raises(AssertionError, match="out"):
        assert_close("out", torch.full((4,), torch.nan), ones)
    with pytest.raises(AssertionError, match="shape"):
        assert_close("out", ones[:3], ones)
