"""Removes outputs of definitions that no call reads, and what is then dead: values that only training wants.

rewrite: x, loss = layer(x), loss unread by all calls  ->  x = layer(x)
"""

from __future__ import annotations

from dataclasses import replace

from ..lowered import Lowered, Module, set_results


def eliminate_unread(module: Module) -> int:
    """Returns the number of ports removed; until nothing changes, as an output may be read by what is itself unread."""
    count = 0
    while True:
        removed = _remove_outputs(module) + _remove_inputs(module)
        if not removed:
            break
        count += removed
    module.calls = [call for call in module.calls if call.outputs or module.definitions[call.definition].states]
    called = {call.definition for call in module.calls}
    module.definitions = {name: lowered for name, lowered in module.definitions.items() if name in called}
    return count


def _remove_outputs(module: Module) -> int:
    read = set(module.outputs.values())
    for call in module.calls:
        for value in call.inputs.values():
            read |= set(value) if isinstance(value, tuple) else {value}
    kept = {(call.definition, port) for call in module.calls for port, value in call.outputs.items() if value in read}
    count = 0
    for name, lowered in module.definitions.items():
        dropped = [port for port in lowered.outputs if (name, port) not in kept]
        if dropped:
            _drop_results(lowered, dropped)
            count += len(dropped)
    module.calls = [
        replace(call, outputs={port: value for port, value in call.outputs.items() if (call.definition, port) in kept})
        for call in module.calls
    ]
    return count


def _drop_results(lowered: Lowered, dropped: list[str]) -> None:
    results, states = lowered.results[: len(lowered.outputs)], lowered.results[len(lowered.outputs) :]
    pairs = [pair for pair in zip(lowered.outputs, results, strict=True) if pair[0] not in dropped]
    lowered.outputs = [port for port, _ in pairs]
    set_results(lowered, [*(result for _, result in pairs), *states])
    lowered.graph.eliminate_dead_code()


def _remove_inputs(module: Module) -> int:
    unread = {
        (name, port)
        for name, lowered in module.definitions.items()
        for port in lowered.inputs
        if not lowered.placeholders[port].users
    }
    for name, port in unread:
        lowered = module.definitions[name]
        lowered.graph.erase_node(lowered.placeholders[port])
        lowered.inputs.remove(port)
    module.calls = [
        replace(
            call, inputs={port: value for port, value in call.inputs.items() if (call.definition, port) not in unread}
        )
        for call in module.calls
    ]
    return len(unread)
