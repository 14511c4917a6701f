"""GPU programs through torch.export and torch's compiler, on a CPU, where their operators are the references.

Run as a script, without Triton's interpreter: names of specs as arguments; on the output a line of JSON, name -> the
operators of llmc that stand in the exported graphs. Values that differ end it with an error.
"""

# pyright: basic
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

import llmc
from llmc.compiler.lowered import type_of
from llmc.compiler.program import Program
from llmc.kernels.kernel import Phase
from llmc.kernels.states import STATES
from llmc.runtime.execute import State, Step, TorchExecutor

BATCH, TOKENS, CAPACITY = 2, 9, 32
DTYPES = {"float": torch.float32, "float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


class Recording(TorchExecutor):
    """Keeps the graph of each definition and phase, and what it was called with first."""

    def __init__(self, program: Program, parameters: Sequence[tuple[Tensor, ...]]) -> None:
        super().__init__(program, parameters)
        self.seen: dict[str, tuple[fx.GraphModule, tuple[Any, ...]]] = {}

    def call(
        self, step: Step, phase: Any, given: Sequence[Any], ambient: Any, states: dict[str, State]
    ) -> tuple[object, ...]:
        operands = [ambient[name] for name in step.ambient], step.operands[phase], [states[p] for p in step.states]
        arguments = (*given, *(x for part in operands for x in part), *step.scalars)
        selection = step.selections[phase]
        self.seen.setdefault(selection.name, (selection.module, copied(arguments)))
        return super().call(step, phase, given, ambient, states)


def copied(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """States are written in place: every run has its own."""
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, arguments)


def recorded(program: Program) -> Recording:
    """The program after a prompt and a decode step."""
    numbers = torch.Generator().manual_seed(0)
    parameters = []
    for call in program.module.calls:
        lowered = program.module.definitions[call.definition]
        parameters.append(tuple(
            (torch.randn(formula.shape, generator=numbers) * 0.05).to(DTYPES[type_of(lowered.placeholders[name]).dtype])
            for name, formula in lowered.parameters.items()
        ))  # fmt: skip
    executor = Recording(program, parameters)
    states = {
        path: STATES[spec.kind].allocate(spec.sizes, BATCH, CAPACITY, torch.float32, "cpu")
        for path, spec in program.states.items()
    }
    passes: tuple[tuple[Phase, int, int], ...] = (("prefill", TOKENS, 0), ("decode", 1, TOKENS))
    for phase, tokens, before in passes:
        ids = torch.randint(50, (BATCH, tokens), generator=numbers)
        position = torch.arange(before, before + tokens).expand(BATCH, tokens).contiguous()
        ambient = {"position": position, "lengths": torch.full((BATCH,), before)}
        executor.run(phase, {port.name: ids for port in program.model.inputs}, ambient, states)
    return executor


def same(function: Callable[..., Any], module: fx.GraphModule, arguments: tuple[Any, ...]) -> None:
    """The values, and what became of the states."""
    ours, exact = copied(arguments), copied(arguments)
    torch.testing.assert_close(function(*ours), module(*exact))
    torch.testing.assert_close(ours, exact)


def operators(name: str) -> list[str]:
    """Those of a spec's graphs, after export and compilation gave the same as the graphs."""
    found: set[str] = set()
    with torch.no_grad():
        for module, arguments in recorded(llmc.build(name, device="cuda:sm_90")).seen.values():
            exported = torch.export.export(module, copied(arguments), strict=False)
            same(exported.module(), module, arguments)
            same(torch.compile(module, backend="eager", fullgraph=True), module, arguments)
            found |= {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    return sorted(target.split(".")[1] for target in found if target.startswith("llmc."))


if __name__ == "__main__":
    print(json.dumps({name: operators(name) for name in sys.argv[1:]}))
