"""Which names the expressions of a spec read: what is declared and never read, and what varies by layer."""

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
from .spec import BlockSpec, NodeSpec, Spec

RUNTIME_PARAMS = frozenset(("max_seq_len", "vocab_size"))
"""Params that the runtime reads by name, so that a graph need not."""


def unused_params(spec: Spec) -> list[Diagnostic]:
    """Params that no expression of the spec reads: most often a misspelt name."""
    root = spec.document.root
    used: set[str] = set(RUNTIME_PARAMS) | LAYER_NAMES
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


def layer_dependent_blocks(spec: Spec) -> frozenset[str]:
    """Blocks that an instance may expand to another sub-graph or share by its `layer`, `num_layers` or `use`."""
    depending = {name for name, block in spec.blocks.items() if _depends_by_itself(block)}
    while True:
        more = {
            name
            for name, block in spec.blocks.items()
            if name not in depending and any(_passes_on(node, depending, spec) for node in block.nodes.values())
        }
        if not more:
            return frozenset(depending)
        depending |= more


def _depends_by_itself(block: BlockSpec) -> bool:
    names = set[str]().union(*(names_in(value, is_text=False) for value in block.params.values()))
    names = names.union(*(node_names(node.source) for node in block.nodes.values()))
    is_sharing = any(node.get("share") is not None for node in block.nodes.values())
    return bool(names & LAYER_NAMES) or is_sharing


def _passes_on(node: NodeSpec, depending: set[str], spec: Spec) -> bool:
    """Whether a use inside a block makes that block depend on its layer too. An inner repeat has its own `layer`, but
    what is shared inside it still counts uses."""
    if node.block is None:
        return False
    block = spec.blocks.get(node.block.text)
    if node.get("repeat") is None or block is None:
        return block is None or block.name in depending
    return any(inner.get("share") is not None for inner in _all_nodes(block, spec, set()))


def _all_nodes(block: BlockSpec, spec: Spec, seen: set[str]) -> Iterator[NodeSpec]:
    """The nodes of a block and of all blocks that it uses."""
    if block.name in seen:
        return
    seen.add(block.name)
    for node in block.nodes.values():
        yield node
        inner = spec.blocks.get(node.block.text) if node.block is not None else None
        if inner is not None:
            yield from _all_nodes(inner, spec, seen)


def section(holder: YamlMap, key: str) -> YamlMap:
    """The map at a key, an empty one where there is none."""
    node = holder.get(key)
    return node if isinstance(node, YamlMap) else YamlMap(entries={}, span=holder.span)
