"""Each pass alone on its fixture, as text; and what all of them together do to a model."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import fx

import llmc
from llmc.compiler.lower import lower
from llmc.compiler.lowered import Lowered, Module, is_op, site_of, type_of
from llmc.compiler.parameters import Concat, Formula, leaves
from llmc.compiler.passes import GPU_PASSES, PASSES, Pass
from llmc.compiler.pipeline import check
from llmc.compiler.program import Program
from llmc.compiler.verify import IllegalGraph, verify
from llmc.kernels.tolerance import assert_close

from ..switches import only_with_passes

FIXTURES = Path(__file__).parent / "passes"
PARAMS = {
    "num_layers": 3,
    "hidden_size": 24,
    "num_heads": 2,
    "num_kv_heads": 1,
    "intermediate_size": 40,
    "vocab_size": 31,
}


def dump(module: Module) -> str:
    """The module as a reader would write it: one line a node."""
    lines: list[str] = []
    for lowered in module.definitions.values():
        lines.append(f"{lowered.name}({', '.join(lowered.arguments())}):")
        lines += [f"    {line}" for line in definition_lines(lowered)]
    lines += [
        f"{', '.join(call.outputs.values())} = {call.definition}[{call.binding.prefix}]"
        f"({', '.join(map(str, call.inputs.values()))})"
        for call in module.calls
    ]
    return "\n".join(lines) + "\n"


def definition_lines(lowered: Lowered) -> list[str]:
    names: dict[fx.Node, str] = {}
    lines: list[str] = []
    for node in lowered.graph.nodes:
        if node.op == "placeholder":
            names[node] = str(node.target)
        elif node.target is operator.getitem:
            source, index = node.args
            names[node] = f"{names[source]}.{list(site_of(source).types)[index]}"
        elif node.op == "call_function":
            names[node] = site_of(node).path
            arguments = [f"{key}={shown(value, names)}" for key, value in node.kwargs.items()]
            lines.append(f"{names[node]} = {site_of(node).op.name}({', '.join(arguments)})")
    lines += [
        f"# {name} = concat({', '.join(part.path for part in formula.parts)})"
        for name, formula in lowered.parameters.items()
        if isinstance(formula, Concat)
    ]
    lines.append(f"return {', '.join(names[result] for result in lowered.results)}")
    return lines


def shown(value: object, names: Mapping[fx.Node, str]) -> object:
    if isinstance(value, fx.Node):
        return names[value]
    return [shown(item, names) for item in cast("list[object]", value)] if isinstance(value, list) else value


def fixture(rewrite: Pass) -> Module:
    """What the pass is given alone; a pass for GPUs comes after all the usual ones and those for GPUs before it."""
    module = lower(check(FIXTURES / f"{rewrite.__name__}.yaml"))
    for usual in (*PASSES, *GPU_PASSES[: GPU_PASSES.index(rewrite)]) if rewrite in GPU_PASSES else ():
        usual(module)
    return module


@pytest.mark.parametrize("rewrite", [*PASSES, *GPU_PASSES], ids=lambda rewrite: rewrite.__name__)
def test_pass_rewrites_its_fixture(rewrite: Pass, request: pytest.FixtureRequest) -> None:
    module = fixture(rewrite)
    before = dump(module)
    assert rewrite(module) > 0
    verify(module, rewrite.__name__)
    text = f"before\n{before}\nafter\n{dump(module)}"
    golden = FIXTURES / f"{rewrite.__name__}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("rewrite", [*PASSES, *GPU_PASSES], ids=lambda rewrite: rewrite.__name__)
def test_pass_is_idempotent(rewrite: Pass) -> None:
    module = fixture(rewrite)
    rewrite(module)
    once = dump(module)
    rewrite(module)
    assert dump(module) == once


@pytest.mark.parametrize("name", ["fuse_norm_linear", "fuse_ternary_projections", "fuse_norm_ternary"])
def test_fused_projections_give_the_same(name: str) -> None:
    """Their fixtures have no state, so that the graphs themselves can be run."""
    rewrite = next(rewrite for rewrite in GPU_PASSES if rewrite.__name__ == name)
    module = fixture(rewrite)

    def run() -> tuple[torch.Tensor, ...]:
        (lowered,) = module.definitions.values()
        sizes = {"B": 2, "T": 3}
        inputs: list[torch.Tensor] = []
        for placeholder, node in lowered.placeholders.items():
            found = type_of(node)
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in found.shape]
            formula = lowered.parameters.get(placeholder)
            inputs.append(torch.arange(6).view(shape) if formula is None else filled(formula))
        return cast("tuple[torch.Tensor, ...]", fx.GraphModule({}, lowered.graph)(*inputs))

    before = run()
    assert rewrite(module) == 2
    for index, (found, expected) in enumerate(zip(run(), before, strict=True)):
        assert_close(f"output {index}", found, expected)


def filled(formula: Formula) -> torch.Tensor:
    """Numbers that depend on the paths of what the parameter is made of alone."""
    seeds = [sum(part.path.encode()) for part in leaves(formula)]
    return torch.cat(
        [
            torch.randn(part.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed, part in zip(seeds, leaves(formula), strict=True)
        ]
    )


def test_every_fixture_belongs_to_a_pass() -> None:
    assert {path.stem for path in FIXTURES.glob("*.yaml")} == {rewrite.__name__ for rewrite in (*PASSES, *GPU_PASSES)}


def fused(spec: str = "llama_tiny", params: Mapping[str, int] = PARAMS) -> Program:
    return llmc.build(spec, params=params)


def test_ops_before_and_after() -> None:
    only_with_passes()
    program = fused()
    assert program.ops_before == 1 + 3 * 17 + 2
    assert program.ops_after == 3 + 3 * 11 + 2
    counted = sum(len(program.kernels["decode"][call.definition]) for call in program.module.calls)
    assert counted == program.ops_after


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_a_blocks_residual_add_fuses_with_its_neighbours_norm(num_layers: int) -> None:
    only_with_passes()
    program = fused(params={**PARAMS, "num_layers": num_layers})
    layer, last = program.module.definitions["layer"], program.module.definitions["exit"]
    assert not any(is_op(node, "add") for node, _ in layer.sites())
    first = next(site.op.name for _, site in layer.sites())
    assert first == ("add_rms_norm" if num_layers > 1 else "rms_norm"), "a single layer reads the embedding as it is"
    assert next(site.op.name for _, site in last.sites()) == "add_rms_norm"
    assert layer.outputs == ["out", "out_residual"]
    assert len(program.module.calls) == num_layers + 2


def test_q_k_v_and_gate_up_are_one_matrix_each() -> None:
    only_with_passes()
    formulas = fused().module.definitions["layer"].parameters
    parts = {name: [p.path for p in f.parts] for name, f in formulas.items() if isinstance(f, Concat)}
    assert parts == {
        "self_attn_qkv_proj_weight": [f"self_attn.{n}_proj.weight" for n in "qkv"],
        "mlp_gate_up_proj_weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
    }


@pytest.mark.parametrize(
    "spec", ["llama_tiny", "gpt2_tiny", "phi_tiny", "mistral_tiny", "llmodel_tiny", "axon_gpt_small"]
)
def test_fused_equals_unfused(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"num_layers": 2, "vocab_size": 31}
    tokens = torch.arange(14).reshape(2, 7)
    logits: list[torch.Tensor] = []
    for passes in ("0", "1"):
        monkeypatch.setenv("LLMC_PASSES", passes)
        model = llmc.load(spec, params=params, seed=1)
        logits.append(model(tokens, cache=model.new_cache(2, 16)))
    assert (logits[0] - logits[1]).abs().max() <= 1e-5 * max(1.0, float(logits[0].abs().max()))


def test_the_verifier_finds_a_broken_graph() -> None:
    module = lower(check("llama_tiny"))
    module.definitions["layer"].inputs.append("ghost")
    with pytest.raises(IllegalGraph, match="ghost"):
        verify(module, "a broken pass")


def test_the_verifier_finds_a_state_with_two_readers() -> None:
    module = lower(check("llama_tiny"))
    layer = module.definitions["layer"]
    state = layer.placeholders["self_attn_attend_state"]
    append = next(iter(state.users))
    with layer.graph.inserting_before(append):
        copy = layer.graph.node_copy(append, lambda node: node)
    copy.meta = dict(append.meta)
    with pytest.raises(IllegalGraph, match="cannot be updated in place"):
        verify(module, "a pass that copies a write")


def test_work_does_not_grow_with_depth() -> None:
    shallow, deep = fused(params={**PARAMS, "num_layers": 2}), fused(params={**PARAMS, "num_layers": 40})
    assert shallow.rewrites == deep.rewrites
    assert shallow.module.definitions.keys() == deep.module.definitions.keys()
