"""The legality of a lowered module: a table of rules, applied after every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .lowered import Lowered, Module


class IllegalGraph(AssertionError):
    """A pass broke the graph: an error of llmc, never of the user."""


def _is_well_formed(lowered: Lowered) -> Iterator[str]:
    try:
        lowered.graph.lint()
    except RuntimeError as error:
        yield str(error)


def _placeholders_match_the_signature(lowered: Lowered) -> Iterator[str]:
    found = tuple(lowered.placeholders)
    if found != lowered.arguments():
        yield f"placeholders {found} but signature {lowered.arguments()}"


def _results_match_the_signature(lowered: Lowered) -> Iterator[str]:
    wanted = len(lowered.outputs) + len(lowered.states)
    if len(lowered.results) != wanted:
        yield f"{len(lowered.results)} results for {lowered.outputs} and {len(lowered.states)} states"


def _every_node_has_a_place_and_a_type(lowered: Lowered) -> Iterator[str]:
    for node in lowered.graph.nodes:
        if node.op != "output" and "type" not in node.meta:
            yield f"{node.name} has no type"
        if node.op == "call_function" and "site" not in node.meta and node.target.__name__ != "getitem":
            yield f"{node.name} has no site"


def _states_have_one_owner(lowered: Lowered) -> Iterator[str]:
    for name, node in lowered.placeholders.items():
        if name in lowered.states and len(node.users) != 1:
            yield f"state {name} has {len(node.users)} readers, so it cannot be updated in place"


def _outputs_keep_their_types(lowered: Lowered) -> Iterator[str]:
    for node, site in lowered.sites():
        single = len(site.types) == 1
        if single and node.meta["type"] != site.type:
            yield f"{node.name} is {node.meta['type']}, its op says {site.type}"


RULES: tuple[Callable[[Lowered], Iterator[str]], ...] = (
    _is_well_formed,
    _placeholders_match_the_signature,
    _results_match_the_signature,
    _every_node_has_a_place_and_a_type,
    _states_have_one_owner,
    _outputs_keep_their_types,
)


def verify(module: Module, after: str) -> None:
    """Apply every rule to every definition, and match the calls with the signatures. Raises IllegalGraph."""
    broken = [
        f"{lowered.name}: {rule.__name__.strip('_')}: {message}"
        for lowered in module.definitions.values()
        for rule in RULES
        for message in rule(lowered)
    ]
    known = {port.name for port in module.model.inputs}
    for call in module.calls:
        lowered = module.definitions[call.definition]
        if list(call.inputs) != lowered.inputs or list(call.outputs) != lowered.outputs:
            broken.append(f"call of {call.definition} at {call.binding.prefix!r} does not match its signature")
        for value in call.inputs.values():
            names = value if isinstance(value, tuple) else (value,)
            broken += [f"{name} is read before it is computed" for name in names if name not in known]
        known |= set(call.outputs.values())
    broken += [f"output {name} is never computed" for name in module.outputs.values() if name not in known]
    if broken:
        raise IllegalGraph(f"after {after}: " + "; ".join(broken))
