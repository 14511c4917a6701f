"""What an op declares: fields, ports, shape rule, parameters, state, costs, and the name of its reference.

A declaration imports no torch, so that `check` stays light. The reference named here is called with keyword arguments
only: port names, parameter names, ambient names, the state, and the fields that `operands` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal, TypeAlias, cast

Dim: TypeAlias = int | str
"""A size: a number, or a symbol known only at run time (`B` batch, `T` tokens of this call, `S` cached tokens)."""

DType: TypeAlias = Literal["float", "float32", "int64", "int32", "bool"]
"""`float` is the model's own dtype, chosen at load."""

Value: TypeAlias = "None | bool | int | float | str | list[Value] | dict[str, Value]"
FieldKind: TypeAlias = Literal["int", "float", "bool", "str", "int_list", "float_list", "int_map"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """Shape and dtype of a value that flows along an edge, e.g. `[B, T, 4096] float`."""

    shape: tuple[Dim, ...]
    dtype: DType = "float"

    def __str__(self) -> str:
        return f"[{', '.join(str(d) for d in self.shape)}] {self.dtype}"

    @property
    def features(self) -> Dim:
        """The last axis. Raises `ShapeProblem` where there is none."""
        if not self.shape:
            raise ShapeProblem("a value without axes has no features", help="give it a shape of at least one axis")
        return self.shape[-1]

    def with_features(self, features: int) -> TensorType:
        """The same leading axes with another last one."""
        return TensorType(shape=(*self.shape[:-1], features), dtype=self.dtype)

    def count(self, sizes: Mapping[str, int]) -> int:
        """Number of elements once every symbol has a size."""
        return prod(d if isinstance(d, int) else sizes[d] for d in self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of a node. `kind` is its declared type; where it is not `str`, `${}` may be left off an expression."""

    name: str
    kind: FieldKind
    doc: str
    default: Value = None
    is_required: bool = False
    is_nullable: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    is_scalar: bool = False
    """Differs between instances of one definition without splitting it: it travels as an operand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input of an op. The first ports also take the names of `in:`, in order."""

    name: str
    doc: str
    is_optional: bool = False
    is_variadic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """How a fresh parameter is filled. `normal` uses `value` as its standard deviation."""

    kind: Literal["normal", "zeros", "ones", "constant", "log_arange", "uniform"]
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """A tensor owned by a node; its checkpoint path is `<node path>.<name>`, or the node path itself where `name` is
    empty."""

    name: str
    shape: tuple[int, ...]
    init: Init
    is_transposed: bool = False
    """The checkpoint stores the two axes the other way round (Conv1D layout)."""
    dtype: DType = "float"
    is_trained: bool = True
    """False: a number that training sets by other means than gradients; saved all the same."""
    reads_rows: int | None = None
    """So many entries of the first axis are read for one token; None: all. Experts."""
    packed_bytes: int | None = None
    """Bytes in the op's packed storage; None: it has none, and is stored in the model's dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec:
    """What a node keeps between tokens: a kind of `kernels.states.STATES`, with the sizes that kind asks for."""

    kind: str
    sizes: Mapping[str, int]
    name: str = "state"

    def __hash__(self) -> int:
        return hash((self.kind, self.name, tuple(sorted(self.sizes.items()))))


class ShapeProblem(Exception):
    """A shape rule was broken. `at` names the port or field to point at."""

    def __init__(self, message: str, at: str | None = None, *, help: str | None = None) -> None:
        super().__init__(message)
        self.message, self.at, self.help = message, at, help


@dataclass(frozen=True, slots=True)
class Fields:
    """The evaluated fields of one node, with typed access."""

    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def int(self, name: str) -> int:
        return cast("int", self.values[name])

    def opt_int(self, name: str) -> int | None:
        return cast("int | None", self.values[name])

    def float(self, name: str) -> float:
        return cast("float", self.values[name])

    def opt_float(self, name: str) -> float | None:
        return cast("float | None", self.values[name])

    def bool(self, name: str) -> bool:
        return cast("bool", self.values[name])

    def str(self, name: str) -> str:
        return cast("str", self.values[name])

    def int_map(self, name: str) -> Mapping[str, int]:
        return cast("Mapping[str, int]", self.values[name])


Inputs: TypeAlias = Mapping[str, TensorType]
Sizes: TypeAlias = Mapping[str, int]


def no_parameters(_fields: Fields, _inputs: Inputs) -> tuple[ParameterSpec, ...]:
    return ()


def no_states(_fields: Fields, _inputs: Inputs) -> tuple[StateSpec, ...]:
    return ()


def no_flops(_fields: Fields, _inputs: Inputs, _sizes: Sizes) -> float:
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One op of the language, or (`is_internal`) one that only passes create."""

    name: str
    summary: str
    ports: tuple[Port, ...]
    infer: Callable[[Fields, Inputs], Mapping[str, TensorType]]
    """Types of the outputs, in port order; raises `ShapeProblem`."""
    reference: str
    """`<family module>:<function>` under `llmc.kernels`."""
    fields: tuple[Field, ...] = ()
    outputs: tuple[str, ...] = ("out",)
    outputs_field: str = ""
    """The `int_map` field whose keys name the outputs, where they are the node's own choice."""
    parameters: Callable[[Fields, Inputs], tuple[ParameterSpec, ...]] = no_parameters
    states: Callable[[Fields, Inputs], tuple[StateSpec, ...]] = no_states
    flops: Callable[[Fields, Inputs, Sizes], float] = no_flops
    operands: tuple[str, ...] = ()
    """Fields that the reference takes as keyword arguments; the others only shape the node."""
    ambient: tuple[str, ...] = ()
    """Ambient tensors that the reference takes by name: those of the token axis that the first port lies on."""
    ambient_of: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Further ones, operand -> (ambient tensor, port on whose axis it is): left out where that is the first port's."""
    hints: tuple[str, ...] = ()
    """Operands that passes add, which change no number: what a kernel would else find out by itself."""
    reads_training: bool = False
    """The reference takes `training: bool`: dropout."""
    cached_form: str = ""
    """The internal op that reads keys and values from a cache; empty: the reference takes and gives its state."""
    cached_ports: tuple[str, ...] = ()
    """Inputs that `cache: PATH` takes from the node at PATH instead of from the spec."""
    is_for_training: bool = False
    """Where the model gives its outputs, it does so in training only: inference does not compute them."""
    is_internal: bool = False
    is_tokenwise: bool = True
    """Row t of every output depends on row t of the inputs only: such a node may run on the last token alone."""
    field_index: Mapping[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "field_index", {f.name: f for f in self.fields})

    def port(self, name: str) -> Port | None:
        """The port of that name, if any."""
        return next((p for p in self.ports if p.name == name), None)

    def output_names(self, fields: Fields) -> tuple[str, ...]:
        """The output ports of a node with these fields."""
        return tuple(fields.int_map(self.outputs_field)) if self.outputs_field else self.outputs

    def __hash__(self) -> int:
        return hash(self.name)
