"""Turns a checked document into a `Spec`: blocks and nodes parsed, params evaluated, overrides applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from ..specs.diagnostics import Diagnostic, LlmcError, did_you_mean, fail
from ..specs.document import Document
from ..specs.source import Span, YamlList, YamlMap, YamlNode, YamlScalar, plain
from .fields import evaluate_node, names_in, show_value
from .ir import GraphInput
from .names import AMBIENT_NAMES, LAYER_NAMES, check_name
from .ops import OP_INDEX
from .ops.declaration import DType, TensorType, Value
from .spec import BlockSpec, NodeSpec, Param, Spec, Text

RUNTIME_PARAMS = frozenset(("max_seq_len", "vocab_size"))
"""Params that the runtime reads by name, so that a graph need not."""

_COMMON_KEYS = frozenset(("op", "block", "in", "when", "else"))


def resolve(document: Document, overrides: Mapping[str, Value]) -> Spec:
    """The spec of a structurally valid document with `overrides` in place of its params' values.

    Raises LlmcError E0301 (names), E0431 (params that need each other), E0433 and E0434 (overrides).
    """
    root = document.root
    found = _check_names(root)
    if found:
        raise LlmcError(found)
    params = _resolve_params(_map(root, "params"), overrides)
    graph_map = root.get("graph")
    if not isinstance(graph_map, YamlMap):
        raise fail("E0202", "the spec needs the key 'graph'", root.span, help="or extend a spec that has one")
    blocks = _map(root, "blocks")
    return Spec(
        document=document,
        name=_text(root, "name"),
        summary=_text(root, "summary"),
        params=params,
        blocks={
            name: _block(name, entry.key_span, cast("YamlMap", entry.value)) for name, entry in blocks.entries.items()
        },
        graph=_block("graph", root.entries["graph"].key_span, graph_map),
        inputs=_graph_inputs(graph_map, {name: p.value for name, p in params.items()}),
        config=_section(root, "config"),
        weights=_section(root, "weights"),
        tokenizer=_section(root, "tokenizer"),
        generation=_section(root, "generation"),
    )


def _map(holder: YamlMap, key: str) -> YamlMap:
    node = holder.get(key)
    return node if isinstance(node, YamlMap) else YamlMap(entries={}, span=holder.span)


def _section(root: YamlMap, key: str) -> YamlMap | None:
    node = root.get(key)
    return node if isinstance(node, YamlMap) else None


def _text(root: YamlMap, key: str) -> str:
    node = root.get(key)
    return str(node.value) if isinstance(node, YamlScalar) else ""


def _check_names(root: YamlMap) -> list[Diagnostic]:
    found: list[Diagnostic | None] = []
    name = root.get("name")
    if isinstance(name, YamlScalar):
        found.append(check_name(str(name.value), "a spec", name.span, is_path=False))
    for key, entry in _map(root, "params").entries.items():
        found.append(check_name(key, "a param", entry.key_span, is_path=False))
        if key in ("layer", "use"):
            found.append(_taken(key, "a param", entry.key_span))
    for holder_name, holder in (
        *((k, e.value) for k, e in _map(root, "blocks").entries.items()),
        ("graph", root.get("graph")),
    ):
        if holder_name != "graph":
            entry = _map(root, "blocks").entries[holder_name]
            found.append(check_name(holder_name, "a block", entry.key_span, is_path=False))
        if isinstance(holder, YamlMap):
            found += _check_ports_and_nodes(holder)
    return [d for d in found if d is not None]


def _check_ports_and_nodes(holder: YamlMap) -> list[Diagnostic | None]:
    found: list[Diagnostic | None] = []
    ports = _ports(holder.get("in"))
    for port in ports:
        found.append(check_name(port.text, "a port", port.span, is_path=False))
        if port.text in AMBIENT_NAMES:
            found.append(_taken(port.text, "a port", port.span))
    names = {port.text for port in ports}
    for key, entry in _map(holder, "nodes").entries.items():
        found.append(check_name(key, "a node", entry.key_span, is_path=True))
        if key in AMBIENT_NAMES or key in names:
            found.append(_taken(key, "a node", entry.key_span))
    for port in _outputs(holder.get("out")):
        found.append(check_name(port, "an output", holder.entries["out"].value.span, is_path=False))
    return found


def _taken(name: str, what: str, span: Span) -> Diagnostic:
    return Diagnostic(code="E0302", message=f"{what} cannot be named {name!r}: that name is taken", span=span)


def _resolve_params(section: YamlMap, overrides: Mapping[str, Value]) -> dict[str, Param]:
    for name in overrides:
        if name not in section.entries:
            raise fail(
                "E0433", f"the spec has no param {name[:64]!r} to set", help=did_you_mean(name, section.entries)
            )
    values: dict[str, Param] = {}
    pending = dict(section.entries)
    while pending:
        ready = [n for n, e in pending.items() if n in overrides or not (names_in(e.value, is_text=True) & pending.keys())]
        if not ready:
            name, entry = next(iter(pending.items()))
            chain = ", ".join(pending)
            raise fail(
                "E0431", f"the params {chain} need each other", entry.value.span, help=f"give {name} a value of its own"
            )
        environment = {n: p.value for n, p in values.items()}
        for name in ready:
            entry = pending.pop(name)
            if name in overrides:
                values[name] = _overridden(name, overrides[name], entry.value)
            else:
                value = evaluate_node(entry.value, environment, is_text=True)
                values[name] = Param(name=name, value=value, span=entry.value.span)
    return {name: values[name] for name in section.entries}


def _overridden(name: str, value: Value, default: YamlNode) -> Param:
    """The override as a param; a literal default fixes the kind of value that may replace it."""
    literal = plain(default)
    is_expression = isinstance(literal, str) and "${" in literal
    if not is_expression and literal is not None and value is not None:
        number = (int, float)
        same = type(value) is type(literal) or (
            isinstance(value, number)
            and isinstance(literal, number)
            and not isinstance(value, bool)
            and not isinstance(literal, bool)
            and (isinstance(literal, float) or isinstance(value, int))
        )
        if not same:
            raise fail(
                "E0434",
                f"{name} cannot be set to {show_value(value)}: the spec has {show_value(cast('Value', literal))} there",
                default.span,
                help="give a value of the same kind",
            )
    return Param(name=name, value=value, span=default.span, origin="override")


def _ports(node: YamlNode | None) -> list[Text]:
    match node:
        case YamlScalar():
            return [Text(text=str(node.value), span=node.span)]
        case YamlList():
            return [Text(text=str(i.value), span=i.span) for i in node.items if isinstance(i, YamlScalar)]
        case YamlMap():
            return [Text(text=key, span=entry.key_span) for key, entry in node.entries.items()]
        case None:
            return []


def _outputs(node: YamlNode | None) -> dict[str, Text]:
    """Port -> reference. A single name is the port `out`; listed names are ports of their own name."""
    match node:
        case YamlScalar():
            return {"out": Text(text=str(node.value), span=node.span)}
        case YamlList():
            names = [(str(i.value), i.span) for i in node.items if isinstance(i, YamlScalar)]
            return {name.replace(":", "_"): Text(text=name, span=span) for name, span in names}
        case YamlMap():
            return {
                key: Text(text=str(entry.value.value), span=entry.value.span)
                for key, entry in node.entries.items()
                if isinstance(entry.value, YamlScalar)
            }
        case None:
            return {}


def _block(name: str, span: Span, source: YamlMap) -> BlockSpec:
    nodes = _map(source, "nodes")
    return BlockSpec(
        name=name,
        span=span,
        inputs=tuple(_ports(source.get("in"))),
        nodes={
            key: _node(key, entry.key_span, cast("YamlMap", entry.value)) for key, entry in nodes.entries.items()
        },
        outputs=_outputs(source.get("out")),
        params={key: entry.value for key, entry in _map(source, "params").entries.items()},
    )


def _references(node: YamlNode) -> tuple[Text, ...]:
    items = node.items if isinstance(node, YamlList) else (node,)
    return tuple(Text(text=str(i.value), span=i.span) for i in items if isinstance(i, YamlScalar))


def _node(name: str, span: Span, source: YamlMap) -> NodeSpec:
    op_name, block, wired, orelse = (source.get(key) for key in ("op", "block", "in", "else"))
    op = OP_INDEX[str(op_name.value)] if isinstance(op_name, YamlScalar) else None
    inputs: dict[str, tuple[Text, ...]] = {}
    positional: tuple[Text, ...] = ()
    if isinstance(wired, YamlMap):
        inputs = {key: _references(entry.value) for key, entry in wired.entries.items()}
    elif wired is not None:
        positional = _references(wired)
    for key, entry in source.entries.items():
        if op is not None and key not in _COMMON_KEYS and op.port(key) is not None and key not in op.field_index:
            inputs[key] = _references(entry.value)
    return NodeSpec(
        name=name,
        span=span,
        source=source,
        op=op,
        block=Text(text=str(block.value), span=block.span) if isinstance(block, YamlScalar) else None,
        inputs=inputs,
        positional=positional,
        orelse=Text(text=str(orelse.value), span=orelse.span) if isinstance(orelse, YamlScalar) else None,
    )


def _graph_inputs(graph: YamlMap, environment: Mapping[str, Value]) -> tuple[GraphInput, ...]:
    """The model's inputs. A bare name is token ids `[B, T]`; the map form gives shape, dtype, rate and default."""
    node = graph.get("in")
    if not isinstance(node, YamlMap):
        ids = TensorType(shape=("B", "T"), dtype="int64")
        return tuple(GraphInput(name=port.text, type=ids, span=port.span) for port in _ports(node))
    return tuple(_graph_input(key, e.key_span, e.value, environment) for key, e in node.entries.items())


def _graph_input(name: str, span: Span, declared: YamlNode, environment: Mapping[str, Value]) -> GraphInput:
    if not isinstance(declared, YamlMap):
        return GraphInput(name=name, type=TensorType(shape=("B", "T"), dtype="int64"), span=span)
    written = cast("dict[str, Value]", evaluate_node(declared, environment, is_text=True))
    shape = cast("list[int | str]", written.get("shape", ["B", "T"]))
    return GraphInput(
        name=name,
        type=TensorType(shape=tuple(shape), dtype=cast("DType", written.get("dtype", "int64"))),
        span=span,
        rate=str(written.get("rate", "stream")),
        default=cast("int | None", written.get("default")),
    )


def unused_params(spec: Spec) -> list[Diagnostic]:
    """Params that no expression of the spec reads: most often a misspelt name."""
    root = spec.document.root
    used: set[str] = set(RUNTIME_PARAMS) | LAYER_NAMES
    for section in ("params", "tokenizer", "generation"):
        used |= names_in(root.get(section), is_text=True)
    used |= _names_in_nodes(root)
    for rule in ("rules", "tie", "prefix", "ignore"):
        node = spec.weights.get(rule) if spec.weights else None
        used |= _names_in_rules(node)
    return [
        Diagnostic(
            code="E0432",
            message=f"nothing reads the param {name!r}",
            span=param.span,
            help=did_you_mean(name, used - spec.params.keys() - LAYER_NAMES) or "remove it, or use it in a field",
        )
        for name, param in spec.params.items()
        if name not in used
    ]


def _names_in_rules(node: YamlNode | None) -> set[str]:
    names: set[str] = set()
    for rule in node.items if isinstance(node, YamlList) else ():
        if isinstance(rule, YamlMap):
            for key, entry in rule.entries.items():
                names |= names_in(entry.value, is_text=key not in ("when", "sizes", "value", "part"))
    return names


def _names_in_nodes(root: YamlMap) -> set[str]:
    """The names in every node, block param and graph input."""
    names: set[str] = set()
    blocks = [entry.value for entry in _map(root, "blocks").entries.values()]
    for holder in (*blocks, root.get("graph")):
        if not isinstance(holder, YamlMap):
            continue
        names |= names_in(holder.get("params"), is_text=False) | names_in(holder.get("in"), is_text=True)
        for entry in _map(holder, "nodes").entries.values():
            if isinstance(entry.value, YamlMap):
                names |= node_names(entry.value)
    return names


def node_names(node: YamlMap) -> set[str]:
    """The free names of every expression written in one node."""
    op_name = node.get("op")
    op = OP_INDEX.get(str(op_name.value)) if isinstance(op_name, YamlScalar) else None
    names: set[str] = set()
    for key, entry in node.entries.items():
        if key.startswith("x-"):
            continue
        field = op.field_index.get(key) if op is not None else None
        is_text = field.kind == "str" if field else key not in ("repeat", "when", "with", "overrides")
        if key == "overrides":
            names |= _names_in_overrides(entry.value)
        else:
            names |= names_in(entry.value, is_text=is_text)
    return names


def _names_if_expression(node: YamlNode) -> set[str]:
    """The names in a value whose field, and so whose kind, is not known here."""
    try:
        return names_in(node, is_text=False)
    except LlmcError:
        return names_in(node, is_text=True)


def _names_in_overrides(node: YamlNode) -> set[str]:
    names: set[str] = set()
    for item in node.items if isinstance(node, YamlList) else ():
        if isinstance(item, YamlMap):
            names |= names_in(item.get("at"), is_text=False)
            values = item.get("set")
            for entry in values.entries.values() if isinstance(values, YamlMap) else ():
                names |= _names_if_expression(entry.value)
    return names
