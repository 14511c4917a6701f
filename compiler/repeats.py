"""The ports of a repeat: which are carried from layer to layer, which are collected, and that all layers agree."""

from __future__ import annotations

from ..specs.diagnostics import Note, fail
from .ir import Ref
from .spec import BlockSpec, NodeSpec
from .wiring import Bound


def carried_ports(block: BlockSpec) -> dict[str, str]:
    """Output port -> the input port it becomes in the next layer: those of equal name, or one-in-one-out."""
    inputs = [port.text for port in block.inputs]
    same = {port: port for port in block.outputs if port in inputs}
    if same:
        return same
    if len(block.outputs) == 1 and inputs:
        return {next(iter(block.outputs)): inputs[0]}
    return {}


def same_ports(node: NodeSpec, first: BlockSpec, block: BlockSpec, layer: int) -> None:
    """Raises LlmcError E0505 where two blocks of one repeat differ in their ports."""
    ports = [[port.text for port in b.inputs] for b in (first, block)]
    if ports[0] == ports[1] and list(first.outputs) == list(block.outputs):
        return
    assert node.block is not None
    raise fail(
        "E0505",
        f"layer {layer} is block {block.name!r}, taking {', '.join(ports[1])}, giving {', '.join(block.outputs)}, "
        f"but layer 0 is block {first.name!r}, taking {', '.join(ports[0])}, giving {', '.join(first.outputs)}",
        node.block.span,
        notes=(
            Note(text=f"block {block.name!r}", span=block.span),
            Note(text=f"block {first.name!r}", span=first.span),
        ),
        help="blocks that stand in one repeat need the same ports",
    )


def collected(node: NodeSpec, port: str, values: list[Bound]) -> tuple[Ref, ...] | None:
    """One value a layer; None where one of them is unknown. Raises LlmcError E0506 where one is several already."""
    refs: list[Ref] = []
    for value in values:
        if value is None:
            return None
        if isinstance(value, tuple):
            message = f"the output {port!r} is one value per layer in each layer"
            raise fail("E0506", message, node.span, help="carry one value through the inner repeat")
        refs.append(value)
    return tuple(refs)
