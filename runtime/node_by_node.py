"""Compares a model with its reference node by node, each on the reference's own numbers, and names where they part.

Wherever a node of the spec has the path of a reference module, the two meet. There our value is compared with the
reference's and then replaced by it, so that a mistake shows once, at its place, and not in everything after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg  # pyright: ignore[reportUnknownVariableType]

from ..compiler.ir import Call
from ..compiler.lower import lower_for_training
from ..compiler.lowered import Lowered, Site, site_of
from ..kernels.tolerance import error_ratio
from .model import LanguageModel
from .named_inputs import other_ambient, positions
from .reference_trace import Meeting
from .tree import find, scalar_operands

TOLERANCE = 1e-4
"""Error ratio above which two float32 values have parted; rounding stays below 1e-5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One meeting: the node's path, what is compared (`input` or `output`), the ratio, and the nodes that made the
    value."""

    path: str
    what: str
    ratio: float
    place: str
    suspects: tuple[str, ...]

    @property
    def has_parted(self) -> bool:
        return not self.ratio <= TOLERANCE


def compare(
    model: LanguageModel, tokens: Tensor, trace: Mapping[str, Meeting], given: Mapping[str, Tensor] | None = None
) -> list[Comparison]:
    """All meetings in order of execution. tokens `[B, T]`; `trace` from `reference_trace` on the same tokens.

    `given` are the inputs beside them, such as an encoder's tokens.
    """
    comparer = _Comparer(model, _aligned(trace, model))
    values: dict[str, Any] = {
        model.program.model.inputs[0].name: tokens,
        **model.default_inputs(tokens),
        **(given or {}),
    }
    lengths = torch.zeros(len(tokens), dtype=torch.int64)
    ambient = {"position": positions(tokens, None), "lengths": lengths}
    ambient |= other_ambient(model.program.model.inputs, given or {})
    with torch.no_grad():
        for call in model.program.model.calls:
            operands = [
                [values[v] for v in value] if isinstance(value, tuple) else values[value]
                for value in call.inputs.values()
            ]
            results = comparer.run(call, operands, ambient)
            values.update(zip(call.outputs.values(), results, strict=True))
    return comparer.found


def _aligned(trace: Mapping[str, Meeting], model: LanguageModel) -> dict[str, Meeting]:
    """The trace under our paths: a base model's paths lack the prefix of the spec."""
    prefix = model.program.weights.prefix
    if not prefix or any(path.startswith(prefix) for path in trace):
        return dict(trace)
    return {**trace, **{f"{prefix}{path}": meeting for path, meeting in trace.items()}}


class _Comparer:
    def __init__(self, model: LanguageModel, trace: Mapping[str, Meeting]) -> None:
        self.model, self.trace = model, trace
        self.found: list[Comparison] = []
        self.lowered: dict[str, Lowered] = {}

    def run(self, call: Call, given: list[Any], ambient: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """One call of the model's own graph, with the reference's value at every meeting."""
        typed = self.model.program.model.definitions[call.definition]
        lowered = self.lowered.setdefault(call.definition, lower_for_training(typed))
        operands = dict(zip(lowered.inputs, given, strict=True)) | {name: ambient[name] for name in lowered.ambient}
        operands |= scalar_operands(lowered, call)
        values: dict[fx.Node, Any] = {}
        for node in lowered.graph.nodes:
            if node.op == "output":
                return tuple(values[result] for result in lowered.results)
            if node.op == "placeholder":
                values[node] = operands[str(node.target)]
            elif node.op == "get_attr":
                values[node] = find(self.model, call.binding.absolute(str(node.target)))
            else:
                values[node] = self._step(call, node, values)
        raise AssertionError("a graph ends in its output")

    def _step(self, call: Call, node: fx.Node, values: dict[fx.Node, Any]) -> object:
        args = cast("tuple[Any, ...]", map_arg(node.args, lambda n: values[n]))
        kwargs = cast("dict[str, Any]", map_arg(node.kwargs, lambda n: values[n]))
        if "site" not in node.meta:
            return cast("Callable[..., object]", node.target)(*args, **kwargs)
        site = site_of(node)
        path = call.binding.absolute(site.path)
        meeting = self.trace.get(path)
        if node.op == "call_function":
            output = cast("Callable[..., object]", node.target)(*args, **kwargs)
            return output if meeting is None else self._meet_output(path, output, meeting, site)
        if meeting is not None and meeting.input is not None and args and isinstance(args[0], Tensor):
            source = node.args[0]
            suspects = _upstream(source, call, self.trace) if isinstance(source, fx.Node) else ()
            if suspects:
                args = (self._meet(path, "input", args[0], meeting.input, site, suspects), *args[1:])
            elif args[0].is_floating_point() and meeting.input.shape == args[0].shape:
                args = (meeting.input, *args[1:])
        output = cast("Callable[..., object]", find(self.model, path))(*args, **kwargs)
        return output if meeting is None else self._meet_output(path, output, meeting, site)

    def _meet_output(self, path: str, output: object, meeting: Meeting, site: Site) -> object:
        if not isinstance(output, Tensor):
            return output
        return self._meet(path, "output", output, meeting.output, site, (f"{path} ({site.span.at_line})",))

    def _meet(
        self, path: str, what: str, ours: Tensor, theirs: Tensor, site: Site, suspects: tuple[str, ...]
    ) -> Tensor:
        """Note the ratio and go on with the reference's value; values of other shapes do not meet."""
        if theirs.numel() * ours.shape[0] == ours.numel() and theirs.shape[:1] == (1,):
            theirs = theirs.expand(ours.shape[0], *theirs.shape[1:])
        if theirs.numel() != ours.numel() or not ours.is_floating_point():
            return ours
        theirs = theirs.reshape(ours.shape).to(ours.dtype)
        ratio = error_ratio(ours, theirs)
        self.found.append(Comparison(path=path, what=what, ratio=ratio, place=site.span.at_line, suspects=suspects))
        return theirs


def _upstream(source: fx.Node, call: Call, trace: Mapping[str, Meeting]) -> tuple[str, ...]:
    """The nodes that made a value since the last meetings, the latest first."""
    found: list[str] = []
    pending, seen = [source], set[fx.Node]()
    while pending:
        node = pending.pop(0)
        if node in seen or node.op in ("placeholder", "get_attr"):
            continue
        seen.add(node)
        if "site" in node.meta:
            site = site_of(node)
            path = call.binding.absolute(site.path)
            if path in trace:
                continue
            found.append(f"{path} ({site.span.at_line})")
        pending += node.all_input_nodes
    return tuple(found)
