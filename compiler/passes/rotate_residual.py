"""Moves the residual add at the end of a block into the blocks that read it, so that it can fuse with their first norm.

rewrite: block(x): ... return add(r, d)                 ->  block(x, x_residual): x = add(x_residual, x); ... return d,
r the first instance gets a zero residual, and the readers after the last one add for themselves
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir import Call
from ..lowered import Lowered, Module, is_op, type_of
from ..ops.add import ADD
from ..ops.zeros_like import ZEROS_LIKE
from ..rewrite import add_input, add_output, first_op, insert_before, operand

Port = tuple[str, str]
NORMS = ("rms_norm", "layer_norm")


@dataclass(frozen=True, slots=True)
class _Plan:
    """Output ports that give `(delta, residual)`, input ports that take it, and producers that must give a zero
    residual."""

    outputs: frozenset[Port]
    inputs: frozenset[Port]
    zeros: frozenset[Port]


def rotate_residual(module: Module) -> int:
    """Returns the number of input ports that became `(delta, residual)`."""
    plan = _plan(module)
    if not plan.outputs:
        return 0
    for definition, port in sorted(plan.outputs):
        _give_both(module.definitions[definition], port)
    for definition, port in sorted(plan.zeros):
        _give_zero(module.definitions[definition], port)
    for definition, port in sorted(plan.inputs):
        _take_both(module.definitions[definition], port)
    module.calls = [_rewire(module, call, plan) for call in module.calls]
    return len(plan.inputs)


def _plan(module: Module) -> _Plan:
    """The largest set of ports that can change together: every reader of a changed output must be able to take both
    parts."""
    producers = {value: (call.definition, port) for call in module.calls for port, value in call.outputs.items()}
    readers: dict[str, set[Port]] = {}
    collected = set(module.outputs.values())
    for call in module.calls:
        for port, value in call.inputs.items():
            if isinstance(value, tuple):
                collected |= set(value)
            else:
                readers.setdefault(value, set()).add((call.definition, port))
    values: dict[Port, set[str]] = {}
    sources: dict[Port, set[str]] = {}
    for call in module.calls:
        for port, value in call.outputs.items():
            values.setdefault((call.definition, port), set()).add(value)
        for port, value in call.inputs.items():
            if not isinstance(value, tuple):
                sources.setdefault((call.definition, port), set()).add(value)
    outputs = {port for port in values if _ends_in_add(module.definitions[port[0]], port[1])}
    outputs = {port for port in outputs if not values[port] & collected}
    while True:
        inputs = {reader for port in outputs for value in values[port] for reader in readers.get(value, ())}
        refused = {port for port in inputs if not _can_take(module, port, sources[port], producers, outputs)}
        kept = {p for p in outputs if not any(readers.get(value, set()) & refused for value in values[p])}
        if kept == outputs:
            break
        outputs = kept
    zeros = {producers[value] for port in inputs for value in sources[port]} - outputs
    return _Plan(frozenset(outputs), frozenset(inputs), frozenset(zeros))


def _ends_in_add(lowered: Lowered, port: str) -> bool:
    result = lowered.results[lowered.outputs.index(port)]
    return is_op(result, "add") and type_of(operand(result, "a")) == type_of(operand(result, "b"))


def _can_take(module: Module, port: Port, values: set[str], producers: dict[str, Port], outputs: set[Port]) -> bool:
    lowered = module.definitions[port[0]]
    if not any(is_op(user, norm) for user in lowered.placeholders[port[1]].users for norm in NORMS):
        return False
    for value in values:
        producer = producers.get(value)
        if producer is None or (producer not in outputs and module.definitions[producer[0]].is_repeated):
            return False
    return True


def _give_both(lowered: Lowered, port: str) -> None:
    index = lowered.outputs.index(port)
    total = lowered.results[index]
    results = list(lowered.results)
    results[index] = operand(total, "b")
    lowered.output.args = (tuple(results),)
    add_output(lowered, f"{port}_residual", operand(total, "a"))
    if not total.users:
        lowered.graph.erase_node(total)


def _give_zero(lowered: Lowered, port: str) -> None:
    value = lowered.results[lowered.outputs.index(port)]
    anchor = lowered.output
    anchor.meta.setdefault("site", value.meta.get("site") or _any_site(lowered))
    zeros = insert_before(anchor, op=ZEROS_LIKE, path=f"{port}.zero_residual", fields={}, inputs={"x": value})
    add_output(lowered, f"{port}_residual", zeros["out"])


def _any_site(lowered: Lowered) -> object:
    return next(node.meta["site"] for node in lowered.graph.nodes if "site" in node.meta)


def _take_both(lowered: Lowered, port: str) -> None:
    delta = lowered.placeholders[port]
    residual = add_input(lowered, f"{port}_residual", type_of(delta))
    readers = list(delta.users)
    like = next(user for user in readers if "site" in user.meta)
    total = insert_before(
        first_op(lowered), op=ADD, path=f"{port}_sum", fields={}, inputs={"a": residual, "b": delta}, like=like
    )["out"]
    for reader in readers:
        reader.replace_input_with(delta, total)


def _rewire(module: Module, call: Call, plan: _Plan) -> Call:
    inputs, outputs = dict(call.inputs), dict(call.outputs)
    for port, value in call.inputs.items():
        if (call.definition, port) in plan.inputs:
            inputs[f"{port}_residual"] = f"{value}_residual"
    for port, value in call.outputs.items():
        if (call.definition, port) in plan.outputs | plan.zeros:
            outputs[f"{port}_residual"] = f"{value}_residual"
    return replace(call, inputs=inputs, outputs=outputs)
