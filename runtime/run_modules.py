"""Runs the module tree of a model, call by call, as one trains it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

from torch import Tensor, nn

from ..compiler.ir import Call
from ..compiler.loss_head import LOGITS
from ..compiler.program import Program
from ..compiler.training import TrainedLoss
from .loss import Loss, is_plain
from .tree import Block, TrainGraph, find, find_bound, scalar_operands


def run_modules(
    root: nn.Module,
    program: Program,
    graphs: Mapping[str, TrainGraph],
    inputs: Mapping[str, Tensor],
    ambient: Mapping[str, Tensor],
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """The model's outputs by name, `loss` in the place of `logits` where one is asked for.

    root: the tree; graphs: those of definitions that are not repeated, as `grow` gives them.
    """
    training = program.training
    values: dict[str, object] = dict(inputs)
    last = training.module.calls[-1]
    fused = None if loss is None else _fused_loss(root, training.loss, last)
    for call in training.module.calls:
        given = [
            [values[v] for v in value] if isinstance(value, tuple) else values[value] for value in call.inputs.values()
        ]
        graph = graphs.get(call.definition)
        if graph is None:
            block = cast("Block", find(root, call.binding.prefix))
            results = block(*given, *(ambient[name] for name in block.graph.lowered.ambient))
        else:
            graph = TrainGraph(fused.head.lowered) if fused is not None and call is last else graph
            operands = [*given, *(ambient[name] for name in graph.lowered.ambient)]
            results = graph.run(operands, scalar_operands(graph.lowered, call), partial(find_bound, root, call))
        values.update(zip(call.outputs.values(), results, strict=True))
    names = program.model.outputs if root.training else program.module.outputs
    found = {name: cast("Tensor", values[program.model.outputs[name]]) for name in names}
    if loss is None:
        return found
    logits = found.pop(LOGITS)
    if fused is None:
        return {"loss": loss.of_logits(logits), **found}
    head = cast("nn.Linear", find_bound(root, last, fused.head.site.path))
    return {"loss": loss.of_hidden(fused, logits, head.weight), **found}


def _fused_loss(root: nn.Module, fused: TrainedLoss | None, last: Call) -> TrainedLoss | None:
    """None where the head is not the plain layer that the spec has."""
    return fused if fused is not None and is_plain(find_bound(root, last, fused.head.site.path)) else None
