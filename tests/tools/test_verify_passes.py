"""A planted wrong pass is named, with the first value that it changes; right passes change nothing but rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import fx

import llmc
from llmc.compiler.ir import Model
from llmc.compiler.lowered import Module, site_of
from llmc.compiler.native.body import Body
from llmc.compiler.passes import PASSES
from llmc.compiler.pipeline import read
from llmc.compiler.spec import Spec
from llmc.specs.diagnostics import LlmcError
from llmc.tools.verify_passes import pass_errors
from llmc.tools.verify_program import verify_program

LAYER = "model.layers.0"
TOKENS = torch.arange(22).view(2, 11) % 29


@pytest.fixture(scope="module")
def llama() -> tuple[Spec, Model]:
    return read("llama", {
        "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "max_seq_len": 32,
    })  # fmt: skip


def ops(module: Module, name: str) -> Iterator[fx.Node]:
    for lowered in module.definitions.values():
        yield from (node for node, site in lowered.sites() if site.op.name == name)


def bypass_rope(module: Module) -> int:
    for node in ops(module, "rope_apply"):
        if site_of(node).path.endswith("k_rope"):
            node.replace_all_uses_with(node.kwargs["x"])  # type: ignore[arg-type]
    return 1


def change_eps(module: Module) -> int:
    for node in ops(module, "rms_norm"):
        if "post" in site_of(node).path:
            node.update_kwarg("eps", 0.1)
    return 1


def swap_residual(module: Module) -> int:
    for node in ops(module, "add"):
        if site_of(node).path == "after_attn":
            node.update_kwarg("a", node.kwargs["b"])
    return 1


def reverse_a_split(module: Module) -> int:
    for node in ops(module, "split"):
        *_, keys, values = node.users
        keys.args, values.args = (node, values.args[1]), (node, keys.args[1])
    return 1


@pytest.mark.parametrize(
    ("fault", "place", "first"),
    [
        (bypass_rope, len(PASSES), f"{LAYER}.self_attn.attend:out"),
        (change_eps, 0, f"{LAYER}.post_attention_layernorm:out"),
        (swap_residual, 3, f"{LAYER}.after_attn:out"),
        (reverse_a_split, 4, f"{LAYER}.self_attn.k_rope:out"),
    ],
)
def test_a_wrong_pass_is_named(
    llama: tuple[Spec, Model], fault: Callable[[Module], int], place: int, first: str
) -> None:
    found = pass_errors(*llama, TOKENS, (*PASSES[:place], fault, *PASSES[place:]))
    assert [one.name for one in found] == [one.__name__ for one in (*PASSES[:place], fault)], "it ends there"
    assert found[-1].first == first
    assert all(one.first is None and one.error < 1e-12 for one in found[:-1])


def test_right_passes_keep_values_that_stand_on_both_sides(llama: tuple[Spec, Model]) -> None:
    found = pass_errors(*llama, TOKENS, PASSES)
    assert [one.name for one in found] == [one.__name__ for one in PASSES]
    assert max(one.error for one in found) < 1e-12
    assert min(one.met for one in found) > 20
    assert sum(one.rewrites for one in found) > 5


def test_memory_that_two_values_share_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node is right on its own; only the plan of the compiled program is not."""

    def forget(_body: Body, _names: object) -> None:
        """The buffers' last readers."""

    monkeypatch.setattr(Body, "keep", forget)
    program = llmc.build("llama_tiny")
    if program.native is None:
        pytest.skip("there is no machine code here")
    with pytest.raises(LlmcError) as raised:
        verify_program(program, weights=None)
    assert "memory was shared between values" in str(raised.value)
