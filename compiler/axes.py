"""Token axes: which tokens a value has one entry for, and the ambient tensors that belong to each axis.

The stream's axis is `T`. A model input of shape `[B, S_encoder, …]` has an axis of its own, and so has what is computed
from it. Every axis has its own `position` and `lengths`, and an op reads those of the axis that its input lies on.
"""

from __future__ import annotations

from collections.abc import Mapping

from .ops.declaration import Op, TensorType

STREAM = "T"
"""The axis of the tokens that a call brings."""

AMBIENT: Mapping[str, TensorType] = {
    "position": TensorType(shape=("B", STREAM), dtype="int64"),
    "lengths": TensorType(shape=("B",), dtype="int64"),
}
"""Tensors that any op may read by declaring them: the position of each token in its row (-1 where it is padding), and
the number of tokens each row has already cached. Here as the stream has them."""

_OF = "_of_"


def axis_of(found: TensorType) -> str:
    """The token axis of a value: the symbol of its second dimension; the stream's where there is none."""
    second = found.shape[1] if len(found.shape) > 1 else STREAM
    return second if isinstance(second, str) else STREAM


def ambient_name(name: str, axis: str) -> str:
    """What a definition calls an ambient tensor of an axis: `position`, `position_of_S_encoder`."""
    return name if axis == STREAM else f"{name}{_OF}{axis}"


def ambient_parts(name: str) -> tuple[str, str]:
    """The ambient tensor and the axis that `ambient_name` made a name of."""
    kind, _, axis = name.partition(_OF)
    return kind, axis or STREAM


def ambient_type(name: str) -> TensorType:
    """The type of an ambient tensor by the name that `ambient_name` gave it."""
    kind, axis = ambient_parts(name)
    return TensorType(shape=tuple(axis if dim == STREAM else dim for dim in AMBIENT[kind].shape), dtype="int64")


def is_of_stream(name: str) -> bool:
    """Whether an ambient tensor is the stream's."""
    return name in AMBIENT


def ambient_rank(name: str) -> tuple[bool, int, str]:
    """Where an ambient tensor comes among the operands of a definition: the stream's first."""
    return not is_of_stream(name), list(AMBIENT).index(name.partition(_OF)[0]), name


def looks_ambient(name: str) -> bool:
    """Whether a name is one that `ambient_name` gives, so that a port cannot have it."""
    kind, of, _ = name.partition(_OF)
    return bool(of) and kind in AMBIENT


def node_axis(op: Op, inputs: Mapping[str, TensorType]) -> str:
    """The axis of a node: that of its first input."""
    first = inputs.get(op.ports[0].name) if op.ports else None
    return STREAM if first is None else axis_of(first)


def ambient_operands(op: Op, inputs: Mapping[str, TensorType]) -> dict[str, str]:
    """By operand of the op, the name of the ambient tensor it reads, given the types of its inputs by port."""
    own = node_axis(op, inputs)
    found = {name: ambient_name(name, own) for name in op.ambient}
    for operand, (name, port) in op.ambient_of.items():
        axis = axis_of(inputs[port]) if port in inputs else own
        if axis != own:
            found[operand] = ambient_name(name, axis)
    return found
