"""Expands a spec into block definitions and calls: `repeat`, `when`, `share`, overrides and expressions end here.

A block that is used once is written into the definition around it. A repeated block becomes definitions of its own, one
for each distinct sub-graph; where no expression in it depends on the layer, it is expanded once however often repeated.
A node with a mistake is passed over, and so is what reads it, so that one run tells all mistakes and each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from ..specs.diagnostics import Diagnostic, LlmcError, fail, gathered
from ..specs.source import Span
from .bind import Body, Expansion, Repetition, bind
from .fields import Environment, evaluate_condition, evaluate_field, evaluate_node, names_in, show_value
from .ir import INPUT, Node, Ref
from .layer_keys import LayerKeys
from .ops.declaration import Fields, Op, Value
from .overrides import overridden, unreached_overrides
from .repeats import carried_ports, collected, same_ports
from .scope import Scope, analyse
from .shared_caches import connect_caches
from .spec import BlockSpec, NodeSpec, Spec
from .uses import Context, Seen, block_of, is_own, join, unreached_own, use_context
from .wiring import Binds, Bound, Reader, UnknownValueError

SHARED = "shared"
"""What the field `cache` holds in a definition; the path that an instance reads is in its binding."""

MAX_NODES = 20_000
"""Nodes and uses of blocks in the whole model, where every layer is written out."""

MAX_REPEAT = 10_000
MAX_MISTAKES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """One layer of a repeat that was expanded, and what that added to the counts."""

    block: BlockSpec
    body: Body
    num_nodes: int
    uses: Mapping[str, int]


class Expander:
    """Walks the graph once; every method below handles one construct of the language."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.scopes: dict[str, Scope | None] = {}
        self.seen = Seen()
        self.layer_keys = LayerKeys(spec)
        self.num_nodes = 0
        self.miswired: set[str] = set()
        """Blocks with a mistake: what nothing reads in them may follow from it."""
        self.found: list[Diagnostic] = []

    def scope(self, block: BlockSpec) -> Scope:
        if block.name not in self.scopes:
            self.scopes[block.name] = None
            try:
                self.scopes[block.name] = analyse(block, self.spec.environment)
            except LlmcError as error:
                self.report(error)
        scope = self.scopes[block.name]
        if scope is None:
            raise UnknownValueError
        return scope

    def report(self, error: LlmcError) -> None:
        self.found += error.diagnostics
        if len(self.found) > MAX_MISTAKES:
            raise gathered(self.found)

    def count(self, span: Span) -> None:
        """One more node or use; raises LlmcError E0507, which ends the expansion, where they are too many."""
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            message = f"the model has more than {MAX_NODES:,} nodes and uses of blocks"
            raise gathered([*self.found, *fail("E0507", message, span, help="repeat fewer blocks").diagnostics])

    # --- one block -----------------------------------------------------------------------------------------------

    def expand_block(self, block: BlockSpec, inputs: Binds, context: Context, body: Body) -> dict[str, Bound]:
        """Append the block's nodes to `body`; returns what its output ports are."""
        values: dict[str, Binds | None] = {}
        removed: dict[str, NodeSpec] = {}
        reader = Reader(block=block, inputs=inputs, values=values, removed=removed, environment=context.environment)
        for name in self.scope(block).order:
            node = block.nodes[name]
            self.count(node.span)
            try:
                values[name] = None
                if not self._is_kept(node, context.environment):
                    del values[name]
                    removed[name] = node
                    self._check_removed(node, context.environment)
                elif node.op is not None:
                    values[name] = self._expand_op(node, node.op, reader, context, body)
                else:
                    values[name] = self._expand_use(node, reader, context, body)
            except LlmcError as error:
                if self.num_nodes > MAX_NODES or len(self.found) > MAX_MISTAKES:
                    raise
                self.report(error)
                self.seen.visited.discard(node.span)
                self.miswired.add(block.name)
            except UnknownValueError:
                pass
        outputs: dict[str, Bound] = {}
        for port, reference in block.outputs.items():
            outputs[port] = None
            try:
                outputs[port] = reader.read(reference)
            except LlmcError as error:
                self.report(error)
                self.miswired.add(block.name)
            except UnknownValueError:
                pass
        return outputs

    def _is_kept(self, node: NodeSpec, environment: Environment) -> bool:
        when = node.get("when")
        return when is None or evaluate_condition(when, environment)

    def _check_removed(self, node: NodeSpec, environment: Environment) -> None:
        """A removed node is not evaluated, but what it writes must be legal and its names known."""
        for key, entry in node.source.entries.items():
            field = node.op.field_index.get(key) if node.op is not None else None
            if field is None:
                continue
            try:
                evaluate_node(entry.value, environment, is_text=field.kind == "str")
            except LlmcError as error:
                self.found += [d for d in error.diagnostics if "E0401" <= d.code <= "E0412"]

    def _expand_op(self, node: NodeSpec, op: Op, reader: Reader, context: Context, body: Body) -> Binds:
        written, environments = overridden(node, context.overrides, self.seen.overrides)
        values: dict[str, Value] = {}
        found: list[Diagnostic] = []
        for declared in op.fields:
            entry = written.entries.get(declared.name)
            environment = environments.get(declared.name, context.environment)
            try:
                values[declared.name] = (
                    declared.default if entry is None else evaluate_field(declared, entry.value, environment)
                )
            except LlmcError as error:
                found += error.diagnostics
        cache, wired = values.get("cache"), None
        try:
            wired = reader.wire(node, op, given=op.cached_ports if isinstance(cache, str) else ())
        except LlmcError as error:
            found += error.diagnostics
        except UnknownValueError:
            pass
        if found:
            self.report(LlmcError(found))
            self.miswired.add(reader.block.name)
        if found or wired is None:
            raise UnknownValueError
        path = join(context.path, node.name)
        fields = Fields(values)
        if isinstance(cache, str):
            body.caches[path] = cache
            values["cache"] = SHARED
        if context.share is not None and not is_own(node.name, context, self.seen.own):
            body.shared[path] = join(context.share, node.name)
        body.items.append(
            Node(path=path, op=op, fields=fields, inputs=wired, span=node.span, source=written, trail=context.trail)
        )
        return {port: Ref(path, port) for port in op.output_names(fields)}

    # --- uses of blocks ------------------------------------------------------------------------------------------

    def _expand_use(self, node: NodeSpec, reader: Reader, context: Context, body: Body) -> Binds:
        self.seen.visited.add(node.span)
        repeat = node.get("repeat")
        if repeat is None:
            return self._expand_once(node, reader, context, body, name=node.name, environment=context.environment)
        count = evaluate_node(repeat, context.environment, is_text=False)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_REPEAT:
            message = f"repeat must be a whole number from 0 to {MAX_REPEAT:,}, not {show_value(count)}"
            raise fail("E0205", message, repeat.span, help="write a number, or a param such as num_layers")
        if context.is_top:
            return self._repeat_as_calls(node, count, reader, context, body)
        return self._repeat_unrolled(node, count, reader, context, body)

    def _use_context(
        self, node: NodeSpec, outer: Context, name: str, environment: Environment
    ) -> tuple[BlockSpec, Context]:
        return use_context(self.spec, node, outer, name, environment, self.seen)

    def _expand_once(
        self, node: NodeSpec, reader: Reader, outer: Context, body: Body, *, name: str, environment: Environment
    ) -> dict[str, Bound]:
        block, context = self._use_context(node, outer, name, environment)
        return self.expand_block(block, self._wire_block(node, block, reader, environment), context, body)

    def _wire_block(
        self, node: NodeSpec, block: BlockSpec, reader: Reader, environment: Environment
    ) -> dict[str, Bound]:
        """The inputs of a use; unknown ones, so that the block is still looked at, where the wiring is wrong."""
        try:
            return reader.wire_block(node, block, environment)
        except LlmcError as error:
            self.report(error)
            self.miswired.add(reader.block.name)
            return {port.text: None for port in block.inputs}

    def _repeat_unrolled(self, node: NodeSpec, count: int, reader: Reader, outer: Context, body: Body) -> Binds:
        """A repeat inside a repeated block: written out, instance after instance."""
        per_layer: dict[str, list[Bound]] = {}
        carried: dict[str, Bound] = {}
        carried_outputs: dict[str, Bound] = {}
        first: BlockSpec | None = None
        if count == 0:
            return self._repeat_none(node, reader, outer)
        for layer in range(count):
            self.count(node.span)
            environment = {**outer.environment, "layer": layer, "num_layers": count}
            block, context = self._use_context(node, outer, f"{node.name}.{layer}", environment)
            first = first or block
            same_ports(node, first, block, layer)
            inputs = {**self._wire_block(node, block, reader, environment), **carried}
            outputs = self.expand_block(block, inputs, context, body)
            pairs = carried_ports(block)
            carried = {port: outputs[out] for out, port in pairs.items()}
            for port, value in outputs.items():
                if port not in pairs:
                    per_layer.setdefault(port, []).append(value)
            carried_outputs = {out: carried[port] for out, port in pairs.items()}
        return {**carried_outputs, **{port: collected(node, port, values) for port, values in per_layer.items()}}

    def _repeat_none(self, node: NodeSpec, reader: Reader, outer: Context) -> Binds:
        """A repeat of 0: what is carried passes through, what is collected is empty."""
        environment = {**outer.environment, "layer": 0, "num_layers": 0}
        block = block_of(self.spec, node, environment, outer)
        inputs, pairs = self._wire_block(node, block, reader, environment), carried_ports(block)
        return {out: inputs[pairs[out]] if out in pairs else () for out in block.outputs}

    def _repeat_as_calls(self, node: NodeSpec, count: int, reader: Reader, outer: Context, body: Body) -> Binds:
        """A repeat at the top level: definitions and calls."""
        if count == 0:
            return self._repeat_none(node, reader, outer)
        instances: list[_Instance] = []
        known: dict[object, _Instance] = {}
        per_layer = self._inputs_per_layer(node)
        for layer in range(count):
            self.count(node.span)
            environment = {**outer.environment, "layer": layer, "num_layers": count}
            at = replace(outer, environment=environment)
            key = self.layer_keys.of(node, at)
            instance = known.get(key) if key is not None else None
            if instance is not None and self.num_nodes + instance.num_nodes <= MAX_NODES:
                instance = self._repeat_instance(instance, join(outer.path, f"{node.name}.{layer}"))
            else:
                instance = self._expand_instance(node, at, layer)
            known.setdefault(key, instance)
            same_ports(node, (instances or [instance])[0].block, instance.block, layer)
            if layer and per_layer:
                self._tap(node, instance.block, reader, environment, instance.body)
            instances.append(instance)
        bodies = [instance.body for instance in instances]
        first = instances[0].block
        inputs = self._wire_block(node, first, reader, {**outer.environment, "layer": 0, "num_layers": count})
        pairs = carried_ports(first)
        if None in inputs.values() or any(len(b.outputs) != len(first.outputs) for b in bodies):
            raise UnknownValueError
        path = join(outer.path, node.name)
        body.items.append(
            Repetition(
                path=path,
                span=node.span,
                bodies=bodies,
                inputs={port: value for port, value in inputs.items() if value is not None},
                carried=tuple(pairs.values()),
                carried_outputs=tuple(pairs),
            )
        )
        return {
            out: Ref(f"{path}.{count - 1}", out)
            if out in pairs
            else tuple(Ref(f"{path}.{i}", out) for i in range(count))
            for out in first.outputs
        }

    def _expand_instance(self, node: NodeSpec, outer: Context, layer: int) -> _Instance:
        """One layer of a repeat, as a body of its own."""
        num_nodes, uses = self.num_nodes, dict(self.seen.uses)
        block, context = self._use_context(node, outer, f"{node.name}.{layer}", outer.environment)
        body = Body(block=block.name, prefix=context.path, inputs=tuple(port.text for port in block.inputs))
        ports = {port: Ref(INPUT, port) for port in body.inputs}
        outputs = self.expand_block(block, ports, replace(context, path="", is_top=False), body)
        for port, value in outputs.items():
            if isinstance(value, tuple):
                message = f"the output {port!r} of block {block.name!r} is one value per layer"
                remedy = "carry one value through the inner repeat, or join them by op: concat"
                raise fail("E0506", message, block.outputs[port].span, help=remedy)
            if value is not None:
                body.outputs[port] = value
        counted = {share: number - uses.get(share, 0) for share, number in self.seen.uses.items()}
        return _Instance(block=block, body=body, num_nodes=self.num_nodes - num_nodes, uses=counted)

    def _repeat_instance(self, instance: _Instance, prefix: str) -> _Instance:
        """The same layer once more, at another path."""
        self.num_nodes += instance.num_nodes
        for share, number in instance.uses.items():
            self.seen.uses[share] = self.seen.uses.get(share, 0) + number
        body = instance.body
        again = Body(
            block=body.block,
            prefix=prefix,
            inputs=body.inputs,
            items=list(body.items),
            outputs=dict(body.outputs),
            shared=dict(body.shared),
            caches=dict(body.caches),
        )
        return replace(instance, body=again)

    def _inputs_per_layer(self, node: NodeSpec) -> bool:
        """Whether what the use reads may be another value in each layer."""
        written = node.get("in")
        return bool(written is not None and names_in(written, is_text=True) & {"layer", "use"})

    def _tap(self, node: NodeSpec, block: BlockSpec, reader: Reader, environment: Environment, inner: Body) -> None:
        """Give this instance what its own layer reads, at the ports that are not carried."""
        carried = set(carried_ports(block).values())
        for port, value in self._wire_block(node, block, reader, environment).items():
            if port not in carried and isinstance(value, Ref):
                inner.taps[port] = value


def expand(spec: Spec) -> Expansion:
    """All definitions and calls of a spec. Raises LlmcError with what is wrong in names, wiring, `when` and repeats."""
    expander = Expander(spec)
    for block in (*spec.blocks.values(), spec.graph):
        with suppress(UnknownValueError):
            expander.scope(block)
    top = Body()
    inputs = {port.name: Ref(INPUT, port.name) for port in spec.inputs}
    context = Context(environment=spec.environment, path="", is_top=True)
    outputs: Mapping[str, Bound] = {}
    with suppress(UnknownValueError):
        outputs = expander.expand_block(spec.graph, inputs, context, top)
    seen = expander.seen
    scopes = [scope for name, scope in expander.scopes.items() if scope is not None and name not in expander.miswired]
    expander.found += [diagnostic for scope in scopes for diagnostic in scope.unread]
    expander.found += unreached_overrides(spec, seen.overrides, seen.held, seen.visited)
    expander.found += unreached_own(spec, seen.own, seen.visited)
    if expander.found:
        raise gathered(expander.found)
    connect_caches(top)
    known = {port: value for port, value in outputs.items() if value is not None}
    return bind(spec, top.items, known, top.caches, top.shared)
