"""What a model costs before anything is allocated: parameters, FLOPs, bytes of weights and of state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..kernels.states import STATES
from .axes import STREAM, node_axis
from .ir import INPUT, Call, Model, TypedDefinition
from .ops.declaration import ParameterSpec, Sizes, StateSpec, TensorType

ITEMSIZE: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "float8_e4m3fn": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePlan:
    """The state of one node: its kind and sizes, and bytes for one row at a given context."""

    path: str
    spec: StateSpec
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a model at one batch, context and dtype. Tied tensors count once; `state_bytes` is the batch's."""

    parameters: int
    weight_bytes: int
    active_parameters: int
    """Those that one token reads: all but an encoder's, and of the experts only as many as it is sent to."""
    packed_weight_bytes: int
    """Bytes of the weights where those that can be packed (ternary ones) are."""
    decode_flops: float
    """Of one decoded token of every row, at a full context."""
    prefill_flops: float
    """Of a prompt that fills the context."""
    state_bytes: int
    states: tuple[StatePlan, ...]
    batch: int
    context: int
    dtype: str


def plan(
    model: Model,
    ties: Mapping[str, str],
    *,
    batch: int = 1,
    context: int,
    dtype: str = "float32",
    cache_dtype: str | None = None,
) -> Plan:
    """Add up every call. `ties` maps a parameter path to the path that owns its tensor; cache_dtype: of keys and
    values, where it differs."""
    cached = ITEMSIZE[cache_dtype or dtype]
    itemsize = ITEMSIZE[dtype]
    owned = {path: spec for path, spec in parameters(model).items() if path not in ties}
    idle = off_stream(model, ties)
    counted = {path: prod(spec.shape) for path, spec in owned.items()}
    decode = {"B": batch, "T": 1, "S": context}
    prefill = {"B": batch, "T": context, "S": context}
    extra = {symbol for port in model.inputs for symbol in port.type.shape if isinstance(symbol, str)}
    for sizes in (decode, prefill):
        sizes.update({symbol: context for symbol in extra if symbol not in sizes})
    states = tuple(
        StatePlan(path=path, spec=spec, bytes=state_bytes(spec, batch, context, cached if is_short else itemsize))
        for path, spec in model_states(model)
        for is_short in [spec.kind in STATES and STATES[spec.kind].may_be_shorter]
    )
    return Plan(
        parameters=sum(counted.values()),
        weight_bytes=sum(counted.values()) * itemsize,
        active_parameters=sum(_active(spec) for path, spec in owned.items() if path not in idle),
        packed_weight_bytes=sum(_packed_bytes(spec, itemsize) for spec in owned.values()),
        decode_flops=flops(model, decode, is_decode=True),
        prefill_flops=flops(model, prefill),
        state_bytes=sum(state.bytes for state in states),
        states=states,
        batch=batch,
        context=context,
        dtype=dtype,
    )


def off_stream(model: Model, ties: Mapping[str, str]) -> set[str]:
    """Parameters that only nodes beside the stream own: an encoder's, which a decoded token does not read."""
    on_stream = {
        name: [n.path for n in typed.definition.nodes if node_axis(n.op, input_types(typed, n.path)) == STREAM]
        for name, typed in model.definitions.items()
    }
    read: set[str] = set()
    for call in model.calls:
        specs = model.definitions[call.definition].parameters
        for node in on_stream[call.definition]:
            paths = [parameter_path(call, node, spec.name) for spec in specs[node]]
            read |= {ties.get(path, path) for path in paths}
    return parameters(model).keys() - read


def _active(spec: ParameterSpec) -> int:
    count = prod(spec.shape)
    return count if spec.reads_rows is None else count // spec.shape[0] * spec.reads_rows


def _packed_bytes(spec: ParameterSpec, itemsize: int) -> int:
    return prod(spec.shape) * itemsize if spec.packed_bytes is None else spec.packed_bytes


def parameters(model: Model) -> dict[str, ParameterSpec]:
    """Every parameter by checkpoint path, shared ones once."""
    found: dict[str, ParameterSpec] = {}
    for call in model.calls:
        for node, specs in model.definitions[call.definition].parameters.items():
            for spec in specs:
                found.setdefault(parameter_path(call, node, spec.name), spec)
    return found


def parameter_path(call: Call, node: str, name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight`."""
    path = call.binding.absolute(node)
    return f"{path}.{name}" if name else path


def model_states(model: Model) -> list[tuple[str, StateSpec]]:
    """Every state with the absolute path of its node, in order of execution; consumers of another's state have none."""
    return [
        (f"{call.binding.prefix}.{node}" if call.binding.prefix else node, spec)
        for call in model.calls
        for node, specs in model.definitions[call.definition].states.items()
        for spec in specs
        if node not in call.binding.caches
    ]


def state_bytes(spec: StateSpec, batch: int, context: int, itemsize: int) -> int:
    """Bytes of one state; 0 where its kind cannot be allocated yet."""
    kind = STATES.get(spec.kind)
    return 0 if kind is None else kind.bytes(spec.sizes, batch, context, itemsize)


def flops(model: Model, sizes: Sizes, *, is_decode: bool = False) -> float:
    """Floating-point operations of one call of the model, each definition counted once and multiplied.

    `is_decode` leaves out what lies on another axis than the stream's: it was computed at the first call.
    """
    per_definition = {name: _definition_flops(typed, sizes, is_decode) for name, typed in model.definitions.items()}
    return sum(per_definition[call.definition] for call in model.calls)


def _definition_flops(typed: TypedDefinition, sizes: Sizes, is_decode: bool) -> float:
    return sum(
        node.op.flops(node.fields, input_types(typed, node.path), sizes)
        for node in typed.definition.nodes
        if not is_decode or node_axis(node.op, input_types(typed, node.path)) == STREAM
    )


def input_types(typed: TypedDefinition, path: str) -> dict[str, TensorType]:
    """The types of a node's inputs by port."""
    node = next(node for node in typed.definition.nodes if node.path == path)
    found: dict[str, TensorType] = {}
    for port, value in node.inputs.items():
        if port in node.op.ambient:
            continue
        for index, ref in enumerate(value if isinstance(value, tuple) else (value,)):
            given = typed.inputs[ref.port] if ref.node == INPUT else typed.type_of(ref)
            found[f"{port}.{index}" if index else port] = given if isinstance(given, TensorType) else given[0]
    return found
