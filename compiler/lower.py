"""Lowers typed definitions to torch.fx graphs, node by node; nothing is ever traced.

The `infer` form threads state as a value and takes parameters as operands. The `train` form has no state; ops that own
parameters or behave differently in training are calls of modules, at the paths that checkpoints use.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from torch import fx

from ..kernels.states import STATES
from ..specs.diagnostics import fail
from .axes import ambient_operands, ambient_rank, ambient_type
from .ir import AMBIENT_NODE, INPUT, Model, Node, Ref, TypedDefinition
from .lowered import Lowered, Module, Operand, Site, identifier, insert_op, placeholder, set_results, type_of
from .ops import OP_INDEX
from .ops.attend_shared import ATTEND_SHARED
from .ops.declaration import Fields, StateSpec, TensorType
from .ops.shared_keys import SHARED_KEYS
from .parameters import Tensor


def lower(model: Model) -> Module:
    """The `infer` form of every definition. Raises LlmcError E0603 where an op has no reference yet."""
    definitions = {name: _Inference(typed).lower() for name, typed in model.definitions.items()}
    outputs = {name: value for name, value in model.outputs.items() if not _is_for_training(model, value)}
    return Module(model=model, definitions=definitions, calls=list(model.calls), outputs=outputs or dict(model.outputs))


def _is_for_training(model: Model, value: str) -> bool:
    """Whether an op that inference leaves out gives this value of the model."""
    for call in model.calls:
        for port, name in call.outputs.items():
            if name == value:
                definition = model.definitions[call.definition].definition
                source = definition.outputs[port].node
                return any(node.path == source and node.op.is_for_training for node in definition.nodes)
    return False


def lower_for_training(typed: TypedDefinition) -> Lowered:
    """The `train` form of one definition, whose parameters live in modules."""
    return _Training(typed).lower()


class _Lowering:
    """What both forms share: placeholders, the walk over the nodes, the outputs."""

    def __init__(self, typed: TypedDefinition) -> None:
        self.typed = typed
        self.definition = typed.definition
        self.lowered = Lowered(
            name=self.definition.name,
            graph=fx.Graph(),
            span=self.definition.span,
            outputs=list(self.definition.outputs),
            is_repeated=self.definition.is_repeated,
        )
        self.values: dict[Ref, fx.Node] = {}
        self.scalars: dict[tuple[str, str], fx.Node] = {}
        self.next_states: list[fx.Node] = []

    @property
    def graph(self) -> fx.Graph:
        return self.lowered.graph

    def lower(self) -> Lowered:
        for name in self.definition.inputs:
            found = self.typed.inputs[name]
            self._place(Ref(INPUT, name), name, found if isinstance(found, TensorType) else found[0])
            self.lowered.inputs.append(name)
        for name in self._ambient_names():
            self._place(Ref(AMBIENT_NODE, name), name, ambient_type(name))
            self.lowered.ambient.append(name)
        self.place_operands()
        for path, name in self.definition.scalars:
            node = self._operand(f"{path}.{name}", TensorType(shape=()))
            self.lowered.scalars[str(node.target)] = (path, name)
            self.scalars[path, name] = node
        for node in self.definition.nodes:
            for port, value in self.lower_node(node).items():
                self.values[Ref(node.path, port)] = value
        set_results(self.lowered, [*(self.values[ref] for ref in self.definition.outputs.values()), *self.next_states])
        return self.lowered

    def place_operands(self) -> None:
        raise NotImplementedError

    def lower_node(self, node: Node) -> Mapping[str, fx.Node]:
        raise NotImplementedError

    def _place(self, ref: Ref, name: str, found: TensorType) -> None:
        node = self.graph.placeholder(name)
        node.meta["type"] = found
        self.values[ref] = node

    def _operand(self, path: str, found: TensorType) -> fx.Node:
        """A placeholder for a parameter, a state or a scalar."""
        taken = self.lowered.placeholders
        name = identifier(path)
        while name in taken:
            name += "_"
        return placeholder(self.graph, name, found)

    def _ambient_names(self) -> list[str]:
        wanted = set[str]()
        for node in self.definition.nodes:
            own = self.typed.ambient[node.path]
            wanted |= set(own.values())
            for port, value in node.inputs.items():
                refs = value if isinstance(value, tuple) else (value,)
                wanted |= {ref.port for ref in refs if ref.node == AMBIENT_NODE and port not in own}
            for state in self.typed.states[node.path]:
                append = OP_INDEX.get(f"{state.kind}_append")
                wanted |= set(ambient_operands(append, self._types_of(node)).values() if append else ())
        return sorted(wanted, key=ambient_rank)

    def _types_of(self, node: Node) -> dict[str, TensorType]:
        """The types of a node's single inputs."""
        refs = {port: value for port, value in node.inputs.items() if isinstance(value, Ref)}
        return {port: self.typed.type_of(ref) for port, ref in refs.items() if not self._is_collected(ref)}

    def _is_collected(self, ref: Ref) -> bool:
        return ref.node == INPUT and isinstance(self.typed.inputs[ref.port], tuple)

    def inputs_of(self, node: Node) -> dict[str, fx.Node | Sequence[fx.Node]]:
        """Its inputs by port, and the ambient tensors of its own axis by operand."""
        own = self.typed.ambient[node.path]
        found: dict[str, fx.Node | Sequence[fx.Node]] = {
            port: [self.values[ref] for ref in value] if isinstance(value, tuple) else self.values[value]
            for port, value in node.inputs.items()
            if port not in own
        }
        return {**found, **{operand: self._ambient(name) for operand, name in own.items()}}

    def _ambient(self, name: str) -> fx.Node:
        return self.values[Ref(AMBIENT_NODE, name)]

    def scalars_of(self, node: Node) -> dict[str, fx.Node]:
        return {name: value for (path, name), value in self.scalars.items() if path == node.path}


class _Inference(_Lowering):
    """Parameters and states are operands."""

    def place_operands(self) -> None:
        self.parameters: dict[tuple[str, str], fx.Node] = {}
        self.states: dict[str, fx.Node] = {}
        self.readable: dict[str, Mapping[str, fx.Node]] = {}
        for path, specs in self.typed.parameters.items():
            for spec in specs:
                tensor = Tensor(path, spec.name, spec.shape)
                node = self._operand(tensor.path, TensorType(shape=spec.shape, dtype=spec.dtype))
                self.lowered.parameters[str(node.target)] = tensor
                self.parameters[path, spec.name] = node
        for path, states in self.typed.states.items():
            for state in states:
                node = self._operand(f"{path}.{state.name}", TensorType(shape=()))
                self.lowered.states[str(node.target)] = (path, state)
                self.states[path] = node

    def lower_node(self, node: Node) -> Mapping[str, fx.Node]:
        parameters = {spec.name: self.parameters[node.path, spec.name] for spec in self.typed.parameters[node.path]}
        if "" in parameters:
            return {"out": parameters[""]}
        states = self.typed.states[node.path]
        inputs = self.inputs_of(node)
        if states and node.op.cached_form:
            return self._lower_cached(node, states[0], inputs, parameters)
        if node.op is ATTEND_SHARED:
            return self._attend(node, inputs, parameters)
        if node.op is SHARED_KEYS and node.fields.str("of") in self.readable:
            return self.readable[node.fields.str("of")]
        outputs = _checked_insert(
            self.graph, node, inputs, parameters, self.scalars_of(node), self.states[node.path] if states else None
        )
        if states:
            self.next_states.append(outputs.pop("state"))
        return outputs

    def _lower_cached(
        self,
        node: Node,
        state: StateSpec,
        inputs: Mapping[str, fx.Node | Sequence[fx.Node]],
        parameters: Mapping[str, fx.Node],
    ) -> Mapping[str, fx.Node]:
        """`state1, keys, values, at = append(state0, k, v)`, then the op's cached form over what may be read.

        Where appending only gives the state, as what is computed once does, `state2, keys, values, at = read(state1)`
        stands between the two.
        """
        if state.kind not in STATES:
            raise fail("E0603", f"the state kind {state.kind!r} of {node.path} cannot be run yet", node.span)
        append = OP_INDEX[f"{state.kind}_append"]
        own = {port: type_of(value) for port, value in inputs.items() if isinstance(value, fx.Node)}
        ambient = {operand: self._ambient(name) for operand, name in ambient_operands(append, own).items()}
        appended = insert_op(
            self.graph,
            op=append,
            path=f"{node.path}.append",
            fields=Fields(dict(state.sizes)),
            inputs={**{port.name: inputs[port.name] for port in append.ports}, **ambient},
            parameters={},
            span=node.span,
            state=self.states[node.path],
        )
        if f"{state.kind}_read" in OP_INDEX:
            appended = insert_op(
                self.graph,
                op=OP_INDEX[f"{state.kind}_read"],
                path=f"{node.path}.read",
                fields=Fields(dict(state.sizes)),
                inputs={},
                parameters={},
                span=node.span,
                state=appended["state"],
            )
        self.next_states.append(appended["state"])
        written = {port.name for port in append.ports}
        read = {name: value for name, value in appended.items() if name != "state"}
        self.readable[node.path] = read
        return self._attend(
            node, {**{port: value for port, value in inputs.items() if port not in written}, **read}, parameters
        )

    def _attend(
        self,
        node: Node,
        inputs: Mapping[str, fx.Node | Sequence[fx.Node]],
        parameters: Mapping[str, fx.Node],
    ) -> Mapping[str, fx.Node]:
        """The op's form over keys and values that may be read."""
        attend = OP_INDEX[node.op.cached_form]
        return insert_op(
            self.graph,
            op=attend,
            path=node.path,
            fields=Fields({name: node.fields.values.get(name) for name in attend.field_index}),
            inputs=inputs,
            parameters=parameters,
            span=node.span,
            scalars=self.scalars_of(node),
        )


class _Training(_Lowering):
    """Parameters live in modules at the node's path; there is no state."""

    def place_operands(self) -> None:
        return

    def lower_node(self, node: Node) -> Mapping[str, fx.Node]:
        specs = self.typed.parameters[node.path]
        if any(spec.name == "" for spec in specs):
            free = self.graph.create_node("get_attr", node.path, name=identifier(node.path))
            free.meta["type"] = self.typed.types[Ref(node.path, "out")]
            return {"out": free}
        inputs = self.inputs_of(node)
        if not specs and not node.op.reads_training:
            return _checked_insert(self.graph, node, inputs, {}, self.scalars_of(node), None)
        operands: dict[str, Operand] = {
            port: value if isinstance(value, fx.Node) else list(value) for port, value in inputs.items()
        }
        operands.update(self.scalars_of(node))
        first = next(iter(operands), None)
        args = (operands.pop(first),) if first is not None else ()
        call = self.graph.create_node(
            "call_module",
            node.path,
            args=args,  # pyright: ignore[reportArgumentType]
            kwargs=operands,  # pyright: ignore[reportArgumentType]
            name=identifier(node.path),
        )
        types = {port: self.typed.types[Ref(node.path, port)] for port in node.op.output_names(node.fields)}
        call.meta["site"] = Site(path=node.path, op=node.op, fields=node.fields, types=types, span=node.span)
        call.meta["type"] = next(iter(types.values()))
        if len(types) == 1:
            return {next(iter(types)): call}
        outputs: dict[str, fx.Node] = {}
        for index, (port, found) in enumerate(types.items()):
            outputs[port] = self.graph.call_function(operator.getitem, (call, index))
            outputs[port].meta["type"] = found
        return outputs


def _checked_insert(
    graph: fx.Graph,
    node: Node,
    inputs: Mapping[str, fx.Node | Sequence[fx.Node]],
    parameters: Mapping[str, fx.Node],
    scalars: Mapping[str, fx.Node],
    state: fx.Node | None,
) -> dict[str, fx.Node]:
    try:
        return insert_op(
            graph,
            op=node.op,
            path=node.path,
            fields=node.fields,
            inputs=inputs,
            parameters=parameters,
            span=node.span,
            scalars=scalars,
            state=state,
        )
    except (ModuleNotFoundError, AttributeError) as error:
        raise fail(
            "E0603",
            f"op {node.op.name} ({node.path}) has no reference in this version, so the spec can be checked but not run",
            node.span,
            help="`llmc check` and `llmc show` work; running it comes with the op's reference",
        ) from error
