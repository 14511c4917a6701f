"""A planted wrong kernel is found and named at its node, whatever computes it; right ones round as torch does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import pytest
from torch import Tensor

from llmc.compiler.keep_values import keep_values
from llmc.compiler.native import definition
from llmc.compiler.native.formats import Quantize
from llmc.compiler.ops.declaration import Value
from llmc.compiler.passes import PASSES
from llmc.compiler.pipeline import read
from llmc.compiler.program import compile_model
from llmc.kernels.attention.sdpa import attend_cached
from llmc.kernels.kernel import Kernel
from llmc.kernels.native.kernel import NativeKernel
from llmc.kernels.native.node import NativeNode
from llmc.kernels.native.registry import native_kernel
from llmc.runtime.native.executor import NativeExecutor
from llmc.runtime.node_errors import NodeError, NodeErrors
from llmc.tools.verify_sample import random_model, random_tokens, run, small_instance

SMALL: Mapping[str, Mapping[str, Value]] = {
    "llama": {
        "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "max_seq_len": 32,
    },
    "mamba": {"vocab_size": 29, "hidden_size": 16, "num_layers": 2},
    "mixtral": {
        "vocab_size": 29, "hidden_size": 24, "intermediate_size": 20, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "num_experts": 4, "max_seq_len": 32,
    },
    "mistral": {
        "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 1, "num_heads": 4,
        "num_kv_heads": 2, "max_seq_len": 32, "sliding_window": 5,
    },
    "t5": {
        "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 4, "head_dim": 6,
    },
}  # fmt: skip
PACKED: tuple[Quantize, ...] = ("int8", "int4", "ternary")


@pytest.fixture(autouse=True)
def all_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is switched off for the whole suite is switched off here by the tests that want it."""
    for name in ("LLMC_NATIVE", "LLMC_KERNELS", "LLMC_PASSES"):
        monkeypatch.delenv(name, raising=False)


def measured(spec: str, dtype: str = "float32", quantize: Quantize | None = None) -> NodeErrors:
    """Every node of a small instance: a prefill of thirteen tokens, and one more."""
    found, model = read(spec, dict(SMALL[spec]))
    found, model, _ = small_instance(found, model)
    loaded = random_model(compile_model(found, model, dtype=dtype, passes=(*PASSES, keep_values)))
    nodes = NodeErrors(loaded, quantize=None if quantize is None else lambda: loaded.pack(quantize))
    run(loaded, random_tokens(found), nodes.run)
    return nodes


def wrong(nodes: NodeErrors) -> list[NodeError]:
    return [one for one in nodes.found if one.is_wrong]


def require_machine_code(nodes: NodeErrors) -> None:
    if not isinstance(nodes.executor, NativeExecutor):
        pytest.skip("there is no machine code here")


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_kernels_round_like_their_reference(spec: str, dtype: str) -> None:
    nodes = measured(spec, dtype)
    assert not wrong(nodes)
    assert max(one.ratio for one in nodes.found) < 4
    module = nodes.model.program.module
    sites = [site for lowered in module.definitions.values() for _, site in lowered.sites()]
    assert {one.op for one in nodes.found} == {site.op.name for site in sites}, "every op is measured"
    assert {one.phase for one in nodes.found} == {"prefill", "decode"}


@pytest.mark.parametrize("quantize", PACKED)
@pytest.mark.parametrize("spec", ["llama", "mixtral", "t5"])
def test_packed_products_are_exact(spec: str, quantize: Quantize) -> None:
    """Against the weights as they were packed, and activations as the format rounds them."""
    nodes = measured(spec, quantize=quantize)
    require_machine_code(nodes)
    assert not wrong(nodes)
    assert max(one.error for one in nodes.found if one.op in ("linear", "gated_linear")) < 1e-6


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kernel in C that writes something else than it should: `old` of its text becomes `new`."""

    spec: str
    op: str
    old: str
    new: str
    node: str | tuple[str, ...]
    """The end of the path of every wrong node, with the port."""
    quantize: Quantize | None = None


class _Altered:
    """A node whose emitter's text is changed on its way."""

    def __init__(self, node: NativeNode, fault: Fault) -> None:
        self._node, self._fault = node, fault

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)

    def row(self, text: str, **options: object) -> None:
        self._node.row(self._change(text), **options)  # type: ignore[arg-type]

    def region(self, text: str) -> None:
        self._node.region(self._change(text))

    def _change(self, text: str) -> str:
        return text.replace(self._fault.old, self._fault.new)


@dataclass(frozen=True, kw_only=True)
class _Faulty:
    """A kernel with a fault."""

    kernel: NativeKernel
    fault: Fault

    def __getattr__(self, name: str) -> object:
        return getattr(self.kernel, name)

    def emit(self, node: NativeNode) -> None:
        self.kernel.emit(cast("NativeNode", _Altered(node, self.fault)))


def plant(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    def altered(op: str) -> object:
        kernel = native_kernel(op)
        return _Faulty(kernel=kernel, fault=fault) if op == fault.op and kernel is not None else kernel

    monkeypatch.setattr(definition, "native_kernel", altered)


FAULTS = (
    Fault(spec="llama", op="add_rms_norm", old="1e-05", new="1e-01", node="norm:out"),
    Fault(spec="llama", op="add_rms_norm", old="r * 24, 24);", new="r * 24, 20);", node=("norm:sum", "norm:out")),
    Fault(spec="llama", op="rope_apply", old="llmc_rope_half", new="llmc_rope_interleaved", node="_rope:out"),
    Fault(spec="llama", op="attend_cached", old=".window = 0", new=".window = 5", node="attend:out"),
    Fault(spec="llama", op="attend_cached", old="0.4082", new="0.4182", node="attend:out"),
    Fault(spec="llama", op="attend_cached", old=".is_causal = 1", new=".is_causal = 0", node="attend:out"),
    Fault(spec="llama", op="gated_linear", old="LLMC_SILU", new="LLMC_GELU_TANH", node="mlp.gated:out"),
    Fault(spec="llama", op="gated_linear", old="LLMC_SILU", new="LLMC_GELU", node="mlp.gated:out", quantize="int8"),
    Fault(spec="llama", op="linear", old=".K = 40", new=".K = 39", node="mlp.down_proj:out"),
    Fault(spec="mistral", op="attend_cached", old="if (1)", new="if (0)", node="attend.append:state"),
    Fault(spec="mamba", op="scan", old=".skip = ", new=".skip = 0 ? 0 : 1 + ", node="mixer.scan:out"),
    Fault(spec="mamba", op="short_conv", old="llmc_activate_silu", new="llmc_activate_gelu", node="mixer.conv1d:out"),
    Fault(spec="mixtral", op="router", old=".normalises = 1", new=".normalises = 0", node="_moe.gate:weights"),
    Fault(spec="t5", op="relative_bias", old="* 4 + h]", new="* 4 + 3 - h]", node="relative_attention_bias:out"),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.spec}-{fault.op}-{fault.new}")
def test_a_wrong_kernel_is_named_at_its_node(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, fault)
    nodes = measured(fault.spec, quantize=fault.quantize)
    require_machine_code(nodes)
    found = wrong(nodes)
    assert found
    assert {one.op for one in found} <= {fault.op, "kv_window_append"}
    for one in found:
        assert f"{one.path}:{one.port}".endswith(fault.node), "a fault shows at its own place only"
        assert one.kernel == "native"
        assert f"{fault.spec}.yaml:" in one.span.at_line
        assert one.ratio > 100


def test_a_wrong_kernel_of_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Kernel.function

    def doubled(**given: object) -> Tensor:
        return 2 * cast("Tensor", attend_cached(**given))  # type: ignore[arg-type]

    def function(kernel: Kernel) -> Callable[..., object]:
        if kernel.name == "sdpa" and kernel.op == "attend_cached":
            return doubled
        return right(kernel)

    monkeypatch.setenv("LLMC_NATIVE", "0")
    monkeypatch.setattr(Kernel, "function", function)
    found = wrong(measured("llama"))
    assert {(one.op, one.kernel) for one in found} == {("attend_cached", "sdpa")}
    assert {one.path for one in found} == {f"model.layers.{layer}.self_attn.attend" for layer in range(2)}


def test_nodes_that_torch_runs_between_machine_code_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(op: str) -> NativeKernel | None:
        return None if op == "rope_apply" else native_kernel(op)

    monkeypatch.setattr(definition, "native_kernel", without)
    nodes = measured("llama", "bfloat16")
    require_machine_code(nodes)
    assert not wrong(nodes)
    assert {one.dtype for one in nodes.found if one.op == "rope_apply"} == {"bfloat16"}
    assert {one.dtype for one in nodes.found if one.op != "rope_apply"} == {"float32"}
