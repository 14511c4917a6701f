"""Turns a checked document into a `Spec`: blocks and nodes parsed, params evaluated, overrides applied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from ..specs.diagnostics import Diagnostic, LlmcError, Note, did_you_mean, fail, gathered, quoted
from ..specs.document import Document
from ..specs.expression_tokens import MAX_INT
from ..specs.expression_values import MAX_LIST
from ..specs.source import Span, YamlEntry, YamlList, YamlMap, YamlNode, YamlScalar, plain
from .axes import STREAM
from .fields import evaluate_node, kind_of, names_in, show_value
from .ir import GraphInput
from .names import check_name
from .ops import OP_INDEX
from .ops.declaration import Dim, DType, TensorType, Value
from .spec import BlockSpec, NodeSpec, Param, Spec, Text

COUNTS = {"max_seq_len": "tokens", "vocab_size": "ids"}
"""Params that the runtime reads by name, and what they count."""
_COMMON_KEYS = frozenset(("op", "block", "in", "when", "else"))


def resolve(document: Document, overrides: Mapping[str, Value], origin: str = "params=") -> Spec:
    """The spec of a structurally valid document with `overrides` in place of its params' values.

    `origin` is what messages call the place of the overrides. Raises LlmcError E0431 (params that need each other),
    E0433 and E0434 (overrides), E04xx (values of params) and E0207 (graph inputs).
    """
    root = document.root
    params = _resolve_params(_map(root, "params"), overrides, origin)
    _check_counts(params)
    graph_map = _map(root, "graph")
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
        inputs=graph_inputs(graph_map, {name: p.value for name, p in params.items()}),
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


def _resolve_params(section: YamlMap, overrides: Mapping[str, Value], origin: str) -> dict[str, Param]:
    found = [_no_param(name, section, origin) for name in overrides if name not in section.entries]
    values: dict[str, Param] = {}
    pending = dict(section.entries)
    needs = {name: set[str]() if name in overrides else _needs(e.value, found) for name, e in pending.items()}
    wrong: set[str] = set()
    while pending:
        ready = [name for name in pending if not needs[name] & pending.keys()]
        if not ready:
            found.append(_circle(pending, needs))
            break
        environment = {name: param.value for name, param in values.items()}
        for name in ready:
            entry = pending.pop(name)
            if needs[name] & wrong:  # told where it began
                wrong.add(name)
                continue
            try:
                value = (
                    _overridden(name, overrides[name], entry.value, origin)
                    if name in overrides
                    else evaluate_node(entry.value, environment, is_text=True)
                )
                values[name] = Param(
                    name=name,
                    value=value,
                    span=entry.value.span,
                    key_span=entry.key_span,
                    origin="override" if name in overrides else "spec",
                    given_by=origin if name in overrides else "",
                )
            except LlmcError as error:
                wrong.add(name)
                found += error.diagnostics
    if found:
        raise gathered(found)
    return {name: values[name] for name in section.entries}


def _check_counts(params: Mapping[str, Param]) -> None:
    """What the runtime reads of the params by name counts something; text would mean no limit, without a word."""
    for name, unit in COUNTS.items():
        param = params.get(name)
        if param is None or param.value is None or _is_count(param.value):
            continue
        code = "E0205" if isinstance(param.value, int) and not isinstance(param.value, bool) else "E0207"
        remedy = f"{name} counts {unit}: write a whole number of at least 1, or null for no limit"
        raise fail(code, f"{name} cannot be {show_value(param.value)}", param.span, help=remedy)


def _is_count(value: Value) -> bool:
    """Whether the value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _needs(node: YamlNode, found: list[Diagnostic]) -> set[str]:
    """The names that a param's value reads; a malformed expression is added to `found`."""
    try:
        return names_in(node, is_text=True)
    except LlmcError as error:
        found += error.diagnostics
        return set()


def _no_param(name: str, section: YamlMap, origin: str) -> Diagnostic:
    remedy = did_you_mean(name, section.entries) or "params are declared under params:"
    return Diagnostic(code="E0433", message=f"the spec has no param {quoted(name)}, set from {origin}", help=remedy)


def _circle(pending: Mapping[str, YamlEntry], needs: Mapping[str, set[str]]) -> Diagnostic:
    """Params that need each other; those that only wait for them are left out."""
    chain = [next(iter(pending))]
    while chain.count(chain[-1]) < 2:
        chain.append(min(needs[chain[-1]] & pending.keys()))
    circle = chain[chain.index(chain[-1]) :]
    if len(circle) == 2:
        message = f"the param {circle[0]} needs itself"
    else:
        message = f"the params {' -> '.join(circle)} need each other"
    first = pending[circle[0]]
    notes = tuple(Note(text=f"{name} is here", span=pending[name].value.span) for name in circle[1:-1][:4])
    remedy = f"give {circle[0]} a value of its own"
    return Diagnostic(code="E0431", message=message, span=first.value.span, notes=notes, help=remedy)


def _overridden(name: str, value: Value, default: YamlNode, origin: str) -> Value:
    """The override; a literal default fixes the kind of value that may replace it."""
    literal = cast("Value", plain(default))
    is_expression = isinstance(literal, str) and "${" in literal
    if (isinstance(value, float) and not math.isfinite(value)) or not _is_value(value):
        raise fail(
            "E0434",
            f"{name} cannot be set to {show_value(value)} (from {origin})",
            default.span,
            help="give a finite number, true or false, text, null, or a list of those",
        )
    if not is_expression and literal is not None and value is not None and not _is_same_kind(value, literal):
        raise fail(
            "E0434",
            f"{name} cannot be set to {show_value(value)} (from {origin}): the spec has {show_value(literal)} there",
            default.span,
            help=f"give {kind_of(literal)}",
        )
    return value


def _is_value(value: object) -> bool:
    """Whether Python code has given what a YAML file could hold."""
    if isinstance(value, int):
        return -MAX_INT < value < MAX_INT
    if isinstance(value, list):
        return len(cast("list[object]", value)) <= MAX_LIST and all(map(_is_value, cast("list[object]", value)))
    return value is None or isinstance(value, (float, str))


def _is_same_kind(value: Value, literal: Value) -> bool:
    if isinstance(value, bool) or isinstance(literal, bool):
        return isinstance(value, bool) and isinstance(literal, bool)
    if isinstance(value, int) and isinstance(literal, float):
        return True
    return type(value) is type(literal)


def ports(node: YamlNode | None) -> list[Text]:
    """The input ports that `in:` of a block declares."""
    match node:
        case YamlScalar():
            return [Text(text=str(node.value), span=node.span)]
        case YamlList():
            return [Text(text=str(i.value), span=i.span) for i in node.items if isinstance(i, YamlScalar)]
        case YamlMap():
            return [Text(text=key, span=entry.key_span) for key, entry in node.entries.items()]
        case None:
            return []


def outputs(node: YamlNode | None) -> dict[str, Text]:
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
        inputs=tuple(ports(source.get("in"))),
        nodes={key: _node(key, entry.key_span, cast("YamlMap", entry.value)) for key, entry in nodes.entries.items()},
        outputs=outputs(source.get("out")),
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


def graph_inputs(graph: YamlMap, environment: Mapping[str, Value]) -> tuple[GraphInput, ...]:
    """The model's inputs. A bare name is token ids `[B, T]`; the map form gives shape, dtype, rate and default."""
    node = graph.get("in")
    if not isinstance(node, YamlMap):
        ids = TensorType(shape=("B", "T"), dtype="int64")
        return tuple(GraphInput(name=port.text, type=ids, span=port.span) for port in ports(node))
    return tuple(_graph_input(key, e.key_span, e.value, environment) for key, e in node.entries.items())


def _graph_input(name: str, span: Span, declared: YamlNode, environment: Mapping[str, Value]) -> GraphInput:
    written = declared if isinstance(declared, YamlMap) else YamlMap(entries={}, span=span)
    shape, dtype, rate, default = (written.get(key) for key in ("shape", "dtype", "rate", "default"))
    dims = shape.items if isinstance(shape, YamlList) else ()
    if isinstance(rate, YamlScalar) and rate.value == "once":
        _check_axis(name, span, rate, dims, environment)
    return GraphInput(
        name=name,
        type=TensorType(
            shape=tuple(_dim(dim, environment) for dim in dims) if shape is not None else ("B", "T"),
            dtype=cast("DType", dtype.value) if isinstance(dtype, YamlScalar) else "int64",
        ),
        span=span,
        rate=str(rate.value) if isinstance(rate, YamlScalar) else "stream",
        default=cast("int", default.value) if isinstance(default, YamlScalar) else None,
    )


def _check_axis(
    name: str, span: Span, rate: YamlScalar, dims: Sequence[YamlNode], environment: Mapping[str, Value]
) -> None:
    """What is given once lies beside the stream: T, which counts the stream's tokens, is none of its axes."""
    at = next((dim for dim in dims if _dim(dim, environment) == STREAM), None) if dims else rate
    if at is not None:
        message = f"{name} is given once, but T counts the tokens of the stream"
        raise fail("E0207", message, at.span, notes=(Note(text="the input", span=span),),
                   help=f"give it an axis of its own: {{shape: [B, S_{name.split('_')[0]}], rate: once}}")  # fmt: skip


def _dim(node: YamlNode, environment: Mapping[str, Value]) -> Dim:
    """One size of an input: a number, or a symbol (B, T, or one of its own such as S_encoder)."""
    value = evaluate_node(node, environment, is_text=True)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_INT:
        return value
    if isinstance(value, str) and check_name(value, "a size", node.span, is_path=False) is None:
        return value
    remedy = "write a positive number, ${an expression}, or a symbol: B, T, or a name such as S_encoder"
    raise fail("E0207", f"a size cannot be {show_value(value)}", node.span, help=remedy)
