"""Which names the expressions of a spec read, and what is declared and never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import cast

from ..specs.diagnostics import Diagnostic, LlmcError
from ..specs.expressions import parse_template
from ..specs.source import YamlList, YamlMap, YamlNode, YamlScalar
from .fields import names_in
from .names import LAYER_NAMES
from .ops import OP_INDEX
from .resolve import COUNTS
from .spec import Spec


def unused_params(spec: Spec) -> list[Diagnostic]:
    """Params that no expression of the spec reads: most often a misspelt name."""
    root = spec.document.root
    used: set[str] = set(COUNTS) | LAYER_NAMES
    for key in ("params", "tokenizer", "generation"):
        used |= names_in(root.get(key), is_text=True)
    used |= _names_in_nodes(root)
    for rule in ("rules", "tie", "prefix", "ignore"):
        node = spec.weights.get(rule) if spec.weights else None
        used |= _names_in_rules(node)
    return [
        Diagnostic(
            code="E0432",
            message=f"nothing reads the param {name!r}",
            span=param.key_span,
            help=_unread_help(name, spec.params.keys() & used),
        )
        for name, param in spec.params.items()
        if name not in used
    ]


def _unread_help(name: str, read: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(read), n=1)
    return f'did you mean "{near[0]}"?' if near else "remove it, or use it in a field"


def _names_in_rules(node: YamlNode | None) -> set[str]:
    names: set[str] = set()
    for rule in node.items if isinstance(node, YamlList) else ():
        if isinstance(rule, YamlMap):
            for key, entry in rule.entries.items():
                names |= names_in(entry.value, is_text=key not in ("when", "sizes", "value", "part"))
        else:
            names |= names_in(rule, is_text=True)
    return names


def _names_in_nodes(root: YamlMap) -> set[str]:
    """The names in every node, block param and graph input."""
    names: set[str] = set()
    blocks = [entry.value for entry in section(root, "blocks").entries.values()]
    for holder in (*blocks, root.get("graph")):
        if not isinstance(holder, YamlMap):
            continue
        names |= names_in(holder.get("params"), is_text=False) | names_in(holder.get("in"), is_text=True)
        for entry in section(holder, "nodes").entries.values():
            if isinstance(entry.value, YamlMap):
                names |= node_names(entry.value)
    return names


def node_names(node: YamlMap) -> set[str]:
    """The free names of every expression written in one node."""
    return set[str]().union(*(names_in(value, is_text=is_text) for _, value, is_text in written(node)))


def written(node: YamlMap) -> Iterator[tuple[str, YamlNode, bool]]:
    """All that expressions may stand in at one node: the key, the value, and whether it is text outside of `${}`."""
    op_name = node.get("op")
    op = OP_INDEX.get(str(op_name.value)) if isinstance(op_name, YamlScalar) else None
    for key, entry in node.entries.items():
        if key.startswith("x-"):
            continue
        if key == "overrides":
            yield from ((key, value, is_text) for value, is_text in _written_overrides(entry.value))
            continue
        field = op.field_index.get(key) if op is not None else None
        yield key, entry.value, field.kind == "str" if field else key not in ("repeat", "when", "with")


def _written_overrides(node: YamlNode) -> Iterator[tuple[YamlNode, bool]]:
    for item in node.items if isinstance(node, YamlList) else ():
        if isinstance(item, YamlMap):
            at, values = item.get("at"), item.get("set")
            if at is not None:
                yield at, False
            for entry in values.entries.values() if isinstance(values, YamlMap) else ():
                yield entry.value, not _is_expression(entry.value)


def _is_expression(node: YamlNode) -> bool:
    """Of a value whose field, and so whose kind, is not known here."""
    try:
        names_in(node, is_text=False)
    except LlmcError:
        return False
    return True


def unused_parts(spec: Spec) -> list[Diagnostic]:
    """What is declared and never read: params, params of blocks, and blocks."""
    found = unused_params(spec)
    for block in spec.blocks.values():
        read = set[str]().union(*(names_in(value, is_text=False) for value in block.params.values()))
        read = read.union(*(node_names(node.source) for node in block.nodes.values()))
        found += [
            Diagnostic(
                code="E0432",
                message=f"nothing in block {block.name!r} reads its param {name!r}",
                span=value.span,
                help=_unread_help(name, block.params.keys() & read),
            )
            for name, value in block.params.items()
            if name not in read
        ]
    used = set(_used_blocks(spec))
    found += [
        Diagnostic(
            code="E0511",
            message=f"nothing uses the block {name!r}",
            span=block.span,
            help="remove it, or use it: {block: " + name + ", in: NAME}",
        )
        for name, block in spec.blocks.items()
        if name not in used
    ]
    return found


def _used_blocks(spec: Spec) -> Iterator[str]:
    """The blocks that uses name, and those that a text or a param may name where an expression picks."""
    texts: set[str] = set()
    for holder in (*spec.blocks.values(), spec.graph):
        for node in holder.nodes.values():
            if node.block is None:
                continue
            yield node.block.text
            template = parse_template(node.block.text, node.block.span)
            if not template.is_plain:
                texts.add(node.block.text)
                values = (spec.environment.get(name) for name in template.names)
                texts |= set[str]().union(*map(texts_in, values))
                local = (value for block in spec.blocks.values() for value in block.params.values())
                texts |= set[str]().union(*(_scalar_texts(value) for value in (*local, *(n for n in _given(spec)))))
    quoted = [f"{quote}{name}{quote}" for name in spec.blocks for quote in "'\""]
    for text in texts:
        if text in spec.blocks:
            yield text
        yield from (word[1:-1] for word in quoted if word in text)


def _given(spec: Spec) -> Iterator[YamlNode]:
    """What every `with:` of the spec gives."""
    for holder in (*spec.blocks.values(), spec.graph):
        for node in holder.nodes.values():
            given = node.get("with")
            if given is not None:
                yield given


def _scalar_texts(node: YamlNode) -> set[str]:
    match node:
        case YamlScalar():
            return {node.value} if isinstance(node.value, str) else set[str]()
        case YamlList():
            return set[str]().union(*map(_scalar_texts, node.items))
        case YamlMap():
            return set[str]().union(*(_scalar_texts(entry.value) for entry in node.entries.values()))


def texts_in(value: object) -> set[str]:
    """Every text that a value is or holds."""
    if isinstance(value, str):
        return {value}
    return set[str]().union(*map(texts_in, cast("list[object]", value))) if isinstance(value, list) else set[str]()


def section(holder: YamlMap, key: str) -> YamlMap:
    """The map at a key, an empty one where there is none."""
    node = holder.get(key)
    return node if isinstance(node, YamlMap) else YamlMap(entries={}, span=holder.span)
