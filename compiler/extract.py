"""Makes a definition of some nodes of another one, with the operands that they read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from .lowered import Lowered, Module, set_results, site_of, type_of


def extract(
    lowered: Lowered,
    name: str,
    nodes: Iterable[fx.Node],
    *,
    outputs: Mapping[str, fx.Node],
    successors: Mapping[str, fx.Node],
    given: Mapping[str, fx.Node],
) -> Lowered:
    """Copies of `nodes`, in order, as a definition of this name.

    outputs: what it gives, by port; successors: by placeholder of each state that the nodes take, what they make of it;
    given: by port, what they and the outputs read of the definition's other nodes.
    """
    listed = list(nodes)
    read = {source for node in listed for source in node.all_input_nodes} | set(outputs.values())
    kept = {target: node for target, node in lowered.placeholders.items() if node in read}
    inputs = {port: kept[port] for port in lowered.inputs if port in kept} | dict(given)
    made = Lowered(
        name=name,
        graph=fx.Graph(),
        span=next((site_of(node).span for node in listed if "site" in node.meta), lowered.span),
        inputs=list(inputs),
        outputs=list(outputs),
        ambient=[one for one in lowered.ambient if one in kept],
        parameters={key: formula for key, formula in lowered.parameters.items() if key in kept},
        states={key: lowered.states[key] for key in successors},
        scalars={key: scalar for key, scalar in lowered.scalars.items() if key in kept},
        is_repeated=lowered.is_repeated,
    )
    copies: dict[fx.Node, fx.Node] = {}
    for target in made.arguments():
        source = inputs[target] if target in inputs else kept[target]
        copies[source] = made.graph.placeholder(target)
        copies[source].meta["type"] = type_of(source)
    for node in listed:
        copies[node] = made.graph.node_copy(node, lambda source: copies[source])
    set_results(made, [*(copies[node] for node in outputs.values()), *(copies[node] for node in successors.values())])
    return made


def free_name(module: Module, name: str) -> str:
    """The name, or where a definition has it already, the next that is free."""
    while name in module.definitions:
        name += "_"
    return name
