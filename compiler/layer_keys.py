"""What sets one layer of a repeat apart: the values of the expressions in it that read `layer`.

Two layers of equal values expand to the same nodes at other paths, so that one expansion stands for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..specs.diagnostics import LlmcError
from ..specs.source import YamlNode, YamlScalar
from .fields import comparable, evaluate_node, names_in
from .ops.declaration import Value
from .reads import node_names, written
from .spec import BlockSpec, NodeSpec, Spec, Text
from .uses import Context, arguments, block_of

_OF_THE_LAYER_AROUND = frozenset(("repeat", "when", "else"))
"""Keys of an inner repeat in which `layer` is that of the layer around it, not its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expression:
    key: str
    value: YamlNode
    is_text: bool

    def evaluate(self, environment: Mapping[str, Value]) -> object:
        return comparable(evaluate_node(self.value, environment, is_text=self.is_text))


class LayerKeys:
    """Works out the keys of the layers of one spec. What a node has written is looked through once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        names = {name: _names(block) for name, block in spec.blocks.items()}
        self.counts_uses = any("use" in found for found in (*names.values(), _names(spec.graph)))
        self.varying = _varying_blocks(spec, {name for name, found in names.items() if "layer" in found})
        self.by_layer: dict[int, tuple[_Expression, ...]] = {}

    def of(self, node: NodeSpec, outer: Context) -> tuple[object, ...] | None:
        """The key of that layer of the repeat at `node` which `outer.environment` says.

        None where layers differ by more than expressions (by what a share counts, or by their paths inside one), and
        where an expression has a mistake, which an expansion reports.
        """
        if self.counts_uses or outer.share is not None:
            return None
        try:
            return tuple(self._use(node, outer, ignored="in"))
        except LlmcError:
            return None

    def _use(self, node: NodeSpec, outer: Context, *, ignored: str = "") -> Iterator[object]:
        """The values that a use reads by `layer`, and those that the block does that it names."""
        block = block_of(self.spec, node, outer.environment, outer)
        local = arguments(node, block, outer.environment)
        inner = {**outer.environment, **local}
        yield block.name
        for expression in self._read_by_layer(node):
            if expression.key == "with":
                yield comparable(local)
            elif expression.key != ignored:
                yield expression.evaluate(inner if expression.key == "overrides" else outer.environment)
        if block.name not in self.varying:
            return
        if any("layer" in names_in(value, is_text=False) for value in block.params.values()):
            yield comparable(local)
        context = replace(outer, environment=inner, inside=(*outer.inside, block.name))
        yield from (_evaluate_text(text, inner) for text in block.outputs.values() if "layer" in text.text)
        for part in block.nodes.values():
            yield from self._part(part, context)

    def _part(self, node: NodeSpec, context: Context) -> Iterator[object]:
        """The values of one node of a block. One that `when:` removes has its `else:` only."""
        when = node.get("when")
        is_kept = when is None or evaluate_node(when, context.environment, is_text=False)
        if when is not None:
            yield comparable(is_kept)
        for expression in self._read_by_layer(node):
            if _is_own(expression, node):
                value = expression.evaluate(context.environment)
                if is_kept is True or expression.key == "else":
                    yield value
        if is_kept is True and node.block is not None and node.get("repeat") is None:
            yield from self._use(node, context)

    def _read_by_layer(self, node: NodeSpec) -> tuple[_Expression, ...]:
        """The expressions of a node that read `layer`."""
        if id(node) not in self.by_layer:
            self.by_layer[id(node)] = tuple(
                _Expression(key=key, value=value, is_text=is_text)
                for key, value, is_text in written(node.source)
                if "layer" in names_in(value, is_text=is_text)
            )
        return self.by_layer[id(node)]


def _is_own(expression: _Expression, node: NodeSpec) -> bool:
    """Whether a node of a block says it in terms of the layer around it, and not to the block that it uses."""
    if node.block is None:
        return True
    return expression.key in (_OF_THE_LAYER_AROUND if node.get("repeat") is not None else ("else",))


def _evaluate_text(text: Text, environment: Mapping[str, Value]) -> object:
    return comparable(evaluate_node(YamlScalar(value=text.text, span=text.span), environment, is_text=True))


def _names(block: BlockSpec) -> set[str]:
    """The free names of every expression in a block."""
    names = set[str]().union(*(names_in(value, is_text=False) for value in block.params.values()))
    texts = (YamlScalar(value=text.text, span=text.span) for text in block.outputs.values())
    names = names.union(*(names_in(text, is_text=True) for text in texts))
    return names.union(*(node_names(node.source) for node in block.nodes.values()))


def _varying_blocks(spec: Spec, reading: set[str]) -> frozenset[str]:
    """Blocks that read `layer`, and those that use one of them or name the block that they use by an expression."""
    varying = set(reading)
    while True:
        more = {
            name
            for name, block in spec.blocks.items()
            if name not in varying
            and any(
                node.block is not None and (node.block.text in varying or node.block.text not in spec.blocks)
                for node in block.nodes.values()
            )
        }
        if not more:
            return frozenset(varying)
        varying |= more
