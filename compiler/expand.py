"""Expands a spec into block definitions and calls: `repeat`, `when`, `share`, overrides and expressions are gone after it.

A block that is used once is written into the definition around it. A repeated block becomes definitions of its own, one for
each distinct sub-graph; where no expression in it depends on the layer, it is expanded once however often it repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..specs.diagnostics import Diagnostic, LlmcError, Note, did_you_mean, fail
from ..specs.source import Span, YamlList, YamlMap, YamlNode, YamlScalar
from .bind import Body, Expansion, Repetition, bind
from .fields import Environment, evaluate_field, evaluate_node, evaluate_scalar, names_in, show_value
from .ir import AMBIENT, AMBIENT_NODE, INPUT, Node, Ref
from .names import LAYER_NAMES
from .ops.declaration import Fields, Op, Value
from .resolve import node_names
from .scope import Scope, analyse
from .shared_caches import connect_caches
from .spec import BlockSpec, NodeSpec, Spec, Text

SHARED = "shared"
"""What the field `cache` holds in a definition; the path that an instance reads is in its binding."""

MAX_NODES = 100_000
MAX_DEPTH = 64

Binds: TypeAlias = Mapping[str, "Ref | tuple[Ref, ...]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One `set:` entry that is still on its way to its node."""

    path: str
    value: YamlNode
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where in the expansion a block stands."""

    environment: Environment
    path: str
    """Of the block inside the current body: the prefix of its nodes."""
    absolute: str
    """Of the block in the whole model."""
    share: str | None = None
    own: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    trail: tuple[Span, ...] = ()
    is_top: bool = False


class Expander:
    """Walks the graph once; every method below handles one construct of the language."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.scopes: dict[str, Scope] = {}
        self.uses: dict[str, int] = {}
        self.layer_dependent: dict[str, bool] = {}
        self.num_nodes = 0
        self.used_overrides: set[Span] = set()

    def scope(self, block: BlockSpec) -> Scope:
        if block.name not in self.scopes:
            self.scopes[block.name] = analyse(block)
        return self.scopes[block.name]

    def block(self, name: str, span: Span) -> BlockSpec:
        if name not in self.spec.blocks:
            raise fail(
                "E0305", f"there is no block {name[:64]!r}", span, help=did_you_mean(name, self.spec.blocks)
            )
        return self.spec.blocks[name]

    # --- one block -----------------------------------------------------------------------------------------------

    def expand_block(self, block: BlockSpec, inputs: Binds, context: Context, body: Body) -> dict[str, Ref | tuple[Ref, ...]]:
        """Append the block's nodes to `body`; returns what its output ports are."""
        if len(context.trail) > MAX_DEPTH:
            raise fail("E0502", f"block {block.name!r} contains itself", context.trail[-1], help="use repeat: instead")
        scope = self.scope(block)
        values: dict[str, Binds] = {}
        removed: dict[str, NodeSpec] = {}
        for name in scope.order:
            node = block.nodes[name]
            if not self._is_kept(node, context.environment):
                removed[name] = node
                continue
            reader = _Reader(block=block, inputs=inputs, values=values, removed=removed, context=context)
            if node.op is not None:
                values[name] = self._expand_op(node, node.op, reader, body)
            else:
                values[name] = self._expand_use(node, reader, body)
        reader = _Reader(block=block, inputs=inputs, values=values, removed=removed, context=context)
        return {port: reader.read(reference) for port, reference in block.outputs.items()}

    def _is_kept(self, node: NodeSpec, environment: Environment) -> bool:
        when = node.get("when")
        if when is None:
            return True
        value = evaluate_node(when, environment, is_text=False)
        if not isinstance(value, bool):
            raise fail("E0207", f"when must be true or false, not {show_value(value)}", when.span)
        return value

    def _expand_op(self, node: NodeSpec, op: Op, reader: _Reader, body: Body) -> Binds:
        context = reader.context
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise fail("E0507", f"the model has more than {MAX_NODES} nodes", node.span, help="repeat fewer blocks")
        written = self._with_overrides(node, context)
        values: dict[str, Value] = {}
        for declared in op.fields:
            entry = written.entries.get(declared.name)
            values[declared.name] = (
                declared.default if entry is None else evaluate_field(declared, entry.value, context.environment)
            )
        path = _join(context.path, node.name)
        fields = Fields(values)
        cache = values.get("cache")
        if isinstance(cache, str):
            body.caches[path] = cache
            values["cache"] = SHARED
        if context.share is not None and not _is_own(node.name, context):
            body.shared[path] = _join(context.share, node.name)
        body.items.append(
            Node(
                path=path,
                op=op,
                fields=fields,
                inputs=reader.wire(node, op, given=op.cached_ports if isinstance(cache, str) else ()),
                span=node.span,
                source=written,
                trail=context.trail,
            )
        )
        return {port: Ref(path, port) for port in op.output_names(fields)}

    def _with_overrides(self, node: NodeSpec, context: Context) -> YamlMap:
        mine = [o for o in context.overrides if o.path.rpartition(".")[0] == node.name]
        if not mine:
            return node.source
        entries = dict(node.source.entries)
        for override in mine:
            field_name = override.path.rpartition(".")[2]
            if node.op is None or field_name not in node.op.field_index:
                known = node.op.field_index if node.op else ()
                raise fail(
                    "E0201", f"{node.name} has no field {field_name!r}", override.span, help=did_you_mean(field_name, known)
                )
            self.used_overrides.add(override.span)
            previous = entries.get(field_name)
            source = previous or next(iter(entries.values()))
            entries[field_name] = replace(source, key=field_name, key_span=override.span, value=override.value)
        return replace(node.source, entries=entries)

    # --- uses of blocks ------------------------------------------------------------------------------------------

    def _expand_use(self, node: NodeSpec, reader: _Reader, body: Body) -> Binds:
        repeat = node.get("repeat")
        if repeat is None:
            return self._expand_once(node, reader, body, name=node.name, environment=reader.context.environment)
        count = evaluate_node(repeat, reader.context.environment, is_text=False)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_NODES:
            raise fail("E0205", f"repeat must be a whole number from 0, not {show_value(count)}", repeat.span)
        if reader.context.is_top:
            return self._repeat_as_calls(node, count, reader, body)
        return self._repeat_unrolled(node, count, reader, body)

    def _use_context(self, node: NodeSpec, reader: _Reader, name: str, environment: Environment) -> tuple[BlockSpec, Context]:
        """The block that a use names, and the context it expands in."""
        assert node.block is not None
        outer = reader.context
        block_name = evaluate_scalar(YamlScalar(value=node.block.text, span=node.block.span), environment, is_text=True)
        block = self.block(str(block_name), node.block.span)
        share_node = node.get("share")
        share, own = outer.share, outer.own
        local = dict(environment)
        if share is not None:
            share = _join(share, name)
            own = tuple(path.removeprefix(f"{name}.") for path in own if path.startswith(f"{name}."))
        if isinstance(share_node, YamlScalar):
            share = str(evaluate_scalar(share_node, environment, is_text=True))
            own_node = node.get("own")
            own = tuple(str(i.value) for i in own_node.items if isinstance(i, YamlScalar)) if isinstance(own_node, YamlList) else ()
            local["use"] = self.uses.get(share, 0)
            self.uses[share] = self.uses.get(share, 0) + 1
        local.update(self._arguments(node, block, local))
        inner = (replace(o, path=o.path.removeprefix(f"{node.name}.")) for o in outer.overrides if o.path.startswith(f"{node.name}."))
        return block, Context(
            environment=local,
            path=_join(outer.path, name),
            absolute=_join(outer.absolute, name),
            share=share,
            own=own,
            overrides=(*inner, *self._own_overrides(node, local)),
            trail=(*outer.trail, node.span),
            is_top=outer.is_top,
        )

    def _arguments(self, node: NodeSpec, block: BlockSpec, environment: Environment) -> dict[str, Value]:
        """The block's local params: what `with:` says, else their own defaults."""
        given = node.get("with")
        entries = given.entries if isinstance(given, YamlMap) else {}
        for key, entry in entries.items():
            if key not in block.params:
                raise fail(
                    "E0433",
                    f"block {block.name!r} has no param {key!r}",
                    entry.key_span,
                    help=did_you_mean(key, block.params) or "declare it under the block's params:",
                )
        values: dict[str, Value] = {}
        for key, default in block.params.items():
            written = entries[key].value if key in entries else default
            values[key] = evaluate_node(written, {**environment, **values}, is_text=False)
        return values

    def _own_overrides(self, node: NodeSpec, environment: Environment) -> Iterator[Override]:
        listed = node.get("overrides")
        for item in listed.items if isinstance(listed, YamlList) else ():
            at, values = (item.get("at"), item.get("set")) if isinstance(item, YamlMap) else (None, None)
            if at is None or not isinstance(values, YamlMap):
                continue
            if evaluate_node(at, environment, is_text=False) is True:
                for key, entry in values.entries.items():
                    yield Override(path=key, value=entry.value, span=entry.key_span)

    def _expand_once(
        self, node: NodeSpec, reader: _Reader, body: Body, *, name: str, environment: Environment
    ) -> dict[str, Ref | tuple[Ref, ...]]:
        block, context = self._use_context(node, reader, name, environment)
        inputs = reader.wire_block(node, block, environment)
        return self.expand_block(block, inputs, context, body)

    def _repeat_unrolled(self, node: NodeSpec, count: int, reader: _Reader, body: Body) -> Binds:
        """A repeat inside a repeated block: written out, instance after instance."""
        collected: dict[str, list[Ref]] = {}
        carried: dict[str, Ref | tuple[Ref, ...]] = {}
        carried_outputs: dict[str, Ref | tuple[Ref, ...]] = {}
        for layer in range(count):
            environment = {**reader.context.environment, "layer": layer, "num_layers": count}
            block, context = self._use_context(node, reader, f"{node.name}.{layer}", environment)
            inputs = {**reader.wire_block(node, block, environment), **carried}
            outputs = self.expand_block(block, inputs, context, body)
            pairs = carried_ports(block)
            carried = {port: outputs[out] for out, port in pairs.items()}
            for port, value in outputs.items():
                if port not in pairs and isinstance(value, Ref):
                    collected.setdefault(port, []).append(value)
            carried_outputs = {out: carried[port] for out, port in pairs.items()}
        if count == 0:
            block, context = self._use_context(node, reader, f"{node.name}.0", {**reader.context.environment, "layer": 0, "num_layers": 0})
            inputs = reader.wire_block(node, block, context.environment)
            return {out: inputs[port] for out, port in carried_ports(block).items()}
        return {**carried_outputs, **{port: tuple(refs) for port, refs in collected.items()}}

    def _repeat_as_calls(self, node: NodeSpec, count: int, reader: _Reader, body: Body) -> Binds:
        """A repeat at the top level: definitions and calls."""
        assert node.block is not None
        outer = reader.context
        bodies: list[Body] = []
        block = None
        for layer in range(max(count, 1)):
            environment = {**outer.environment, "layer": layer, "num_layers": count}
            if bodies and not self._depends_on_layer(node):
                bodies.append(replace(bodies[0], prefix=_join(outer.path, f"{node.name}.{layer}")))
                continue
            block, context = self._use_context(node, reader, f"{node.name}.{layer}", environment)
            inner = Body(block=block.name, prefix=context.path, inputs=tuple(port.text for port in block.inputs))
            ports = {port: Ref(INPUT, port) for port in inner.inputs}
            outputs = self.expand_block(block, ports, replace(context, path="", is_top=False), inner)
            for port, value in outputs.items():
                if not isinstance(value, Ref):
                    raise fail("E0506", f"output {port!r} of block {block.name!r} is one value per layer", node.span)
                inner.outputs[port] = value
            if bodies and (inner.inputs, tuple(inner.outputs)) != (bodies[0].inputs, tuple(bodies[0].outputs)):
                raise fail(
                    "E0505",
                    f"layer {layer} takes {list(inner.inputs)} and gives {list(inner.outputs)}, layer 0 takes "
                    f"{list(bodies[0].inputs)} and gives {list(bodies[0].outputs)}",
                    block.span,
                    notes=(Note(text="repeated here", span=node.span),),
                    help="blocks that stand in one repeat need the same ports",
                )
            bodies.append(inner)
        assert block is not None
        inputs = reader.wire_block(node, block, {**outer.environment, "layer": 0, "num_layers": count})
        pairs = carried_ports(block)
        if count == 0:
            return {out: inputs[port] for out, port in pairs.items()}
        path = _join(outer.path, node.name)
        body.items.append(
            Repetition(
                path=path,
                span=node.span,
                bodies=bodies,
                inputs=inputs,
                carried=tuple(pairs.values()),
                carried_outputs=tuple(pairs),
            )
        )
        return {
            out: Ref(f"{path}.{count - 1}", out) if out in pairs else tuple(Ref(f"{path}.{i}", out) for i in range(count))
            for out in bodies[0].outputs
        }

    def _depends_on_layer(self, node: NodeSpec) -> bool:
        """Whether instances of this use can differ by more than their path."""
        if node.get("overrides") is not None or node.get("share") is not None:
            return True
        if node_names(node.source) & LAYER_NAMES:
            return True
        assert node.block is not None
        return self._block_depends_on_layer(node.block.text)

    def _block_depends_on_layer(self, name: str) -> bool:
        if name not in self.spec.blocks:
            return True
        if name in self.layer_dependent:
            return self.layer_dependent[name]
        self.layer_dependent[name] = True
        block = self.spec.blocks[name]
        depends = bool(set().union(*(names_in(p, is_text=False) for p in block.params.values())) & LAYER_NAMES)
        for inner in block.nodes.values():
            names = node_names(inner.source)
            if inner.get("share") is not None or names & LAYER_NAMES:
                depends = True
            if inner.block is not None and inner.get("repeat") is None and self._block_depends_on_layer(inner.block.text):
                depends = True
        self.layer_dependent[name] = depends
        return depends


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Resolves the references written in one block to values."""

    block: BlockSpec
    inputs: Binds
    values: Mapping[str, Binds]
    removed: Mapping[str, NodeSpec]
    context: Context

    def read(self, reference: Text, *, environment: Environment | None = None) -> Ref | tuple[Ref, ...]:
        text = evaluate_scalar(
            YamlScalar(value=reference.text, span=reference.span), environment or self.context.environment, is_text=True
        )
        if not isinstance(text, str):
            raise fail("E0207", f"a reference must be a name, not {show_value(text)}", reference.span)
        name, _, port = text.partition(":")
        if name in self.inputs:
            return self.inputs[name]
        if name in AMBIENT:
            return Ref(AMBIENT_NODE, name)
        if name in self.removed:
            orelse = self.removed[name].orelse
            if orelse is None:
                raise fail(
                    "E0509",
                    f"{name!r} is removed by its when:, but read here",
                    reference.span,
                    notes=(Note(text="removed here", span=self.removed[name].span),),
                    help=f"give {name} an else: to read instead, or a when: to this reader",
                )
            return self.read(orelse)
        if name not in self.values:
            raise fail("E0303", f"there is no {name[:64]!r} here", reference.span, help=did_you_mean(name, self.values))
        outputs = self.values[name]
        if not port:
            if len(outputs) == 1:
                return next(iter(outputs.values()))
            if "out" in outputs:
                return outputs["out"]
            raise fail(
                "E0304", f"{name!r} has several outputs", reference.span, help="name one: " + ", ".join(f"{name}:{p}" for p in outputs)
            )
        if port not in outputs:
            raise fail(
                "E0304", f"{name!r} has no output {port[:64]!r}", reference.span, help=did_you_mean(port, outputs)
            )
        return outputs[port]

    def wire(self, node: NodeSpec, op: Op, *, given: tuple[str, ...] = ()) -> dict[str, Ref | tuple[Ref, ...]]:
        """The inputs of an op node by port, without those that are `given` from elsewhere."""
        wired: dict[str, Ref | tuple[Ref, ...]] = {}
        variadic = next((p for p in op.ports if p.is_variadic), None)
        if variadic is not None and node.positional:
            parts = (self.read(text) for text in node.positional)
            wired[variadic.name] = tuple(r for part in parts for r in (part if isinstance(part, tuple) else (part,)))
        else:
            if len(node.positional) > len(op.ports):
                raise fail(
                    "E0307",
                    f"op {op.name} takes {len(op.ports)} input{'s' * (len(op.ports) != 1)}, not {len(node.positional)}",
                    node.positional[len(op.ports)].span,
                    help="its inputs are: " + ", ".join(p.name for p in op.ports) if op.ports else None,
                )
            for port, reference in zip(op.ports, node.positional, strict=False):
                wired[port.name] = self._single(reference)
        for name, references in node.inputs.items():
            port = op.port(name)
            if port is None:
                raise fail(
                    "E0304", f"op {op.name} has no input {name[:64]!r}", references[0].span if references else node.span,
                    help=did_you_mean(name, [p.name for p in op.ports]),
                )  # fmt: skip
            if name in wired:
                raise fail("E0307", f"the input {name!r} is given twice", references[0].span)
            if port.is_variadic:
                parts = (self.read(text) for text in references)
                wired[name] = tuple(r for part in parts for r in (part if isinstance(part, tuple) else (part,)))
            elif len(references) != 1:
                raise fail("E0307", f"the input {name!r} takes one value, not {len(references)}", node.span)
            else:
                wired[name] = self._single(references[0])
        for name in given:
            if name in wired:
                span = node.inputs[name][0].span if name in node.inputs else node.span
                raise fail("E0307", f"the input {name!r} comes from cache:, so it cannot be given here", span)
        for port in op.ports:
            if port.name not in wired and not port.is_optional and port.name not in given:
                raise fail(
                    "E0308", f"op {op.name} needs its input {port.name!r}", node.span, help=f"write {port.name}: NAME"
                )
        for name in op.ambient:
            wired[name] = Ref(AMBIENT_NODE, name)
        return wired

    def _single(self, reference: Text) -> Ref:
        value = self.read(reference)
        if isinstance(value, tuple):
            raise fail(
                "E0506",
                f"{reference.text!r} is one value per layer, but this input takes a single one",
                reference.span,
                help="carry it through the block's in: and out: under one name, or join it by op: concat",
            )
        return value

    def wire_block(self, node: NodeSpec, block: BlockSpec, environment: Environment) -> dict[str, Ref | tuple[Ref, ...]]:
        """The inputs of a block use by port."""
        ports = [port.text for port in block.inputs]
        if len(node.positional) > len(ports):
            raise fail(
                "E0307",
                f"block {block.name!r} takes {len(ports)} input{'s' * (len(ports) != 1)}, not {len(node.positional)}",
                node.positional[len(ports)].span,
            )
        wired = {p: self.read(r, environment=environment) for p, r in zip(ports, node.positional, strict=False)}
        for name, references in node.inputs.items():
            if name not in ports:
                span = references[0].span if references else node.span
                raise fail(
                    "E0304", f"block {block.name!r} has no input {name[:64]!r}", span, help=did_you_mean(name, ports)
                )
            wired[name] = self.read(references[0], environment=environment)
        missing = [port for port in ports if port not in wired]
        if missing:
            raise fail(
                "E0308",
                f"block {block.name!r} needs its input {missing[0]!r}",
                node.span,
                notes=(Note(text="declared here", span=block.span),),
            )
        return wired


def carried_ports(block: BlockSpec) -> dict[str, str]:
    """Output port -> the input port it becomes in the next layer: those of equal name, or one-in-one-out."""
    inputs = [port.text for port in block.inputs]
    same = {port: port for port in block.outputs if port in inputs}
    if same:
        return same
    if len(block.outputs) == 1:
        return {next(iter(block.outputs)): inputs[0]}
    return {}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _is_own(name: str, context: Context) -> bool:
    return any(name == path or name.startswith(f"{path}.") or path == "*" for path in context.own)


def expand(spec: Spec) -> Expansion:
    """All definitions and calls of a spec. Raises LlmcError with what is wrong in names, wiring, `when` and repeats."""
    expander = Expander(spec)
    found: list[Diagnostic] = []
    for block in (*spec.blocks.values(), spec.graph):
        try:
            expander.scope(block)
        except LlmcError as error:
            found += error.diagnostics
    if found:
        raise LlmcError(found)
    top = Body()
    inputs = {port.name: Ref(INPUT, port.name) for port in spec.inputs}
    context = Context(environment=spec.environment, path="", absolute="", is_top=True)
    outputs = expander.expand_block(spec.graph, inputs, context, top)
    connect_caches(top)
    _check_overrides(spec, expander.used_overrides)
    return bind(spec, top.items, outputs, top.caches, top.shared)


def _check_overrides(spec: Spec, used: set[Span]) -> None:
    """Every override must have reached a node in at least one layer."""
    found: list[Diagnostic] = []
    for block in (*spec.blocks.values(), spec.graph):
        for node in block.nodes.values():
            listed = node.get("overrides")
            for item in listed.items if isinstance(listed, YamlList) else ():
                values = item.get("set") if isinstance(item, YamlMap) else None
                entries = values.entries.values() if isinstance(values, YamlMap) else ()
                found += [
                    Diagnostic(
                        code="E0508",
                        message=f"the override {entry.key!r} reaches no node in any layer",
                        span=entry.key_span,
                        help="write the node's path inside the block and the field, e.g. self_attn.attend.window",
                    )
                    for entry in entries
                    if entry.key_span not in used
                ]
    if found:
        raise LlmcError(found)

