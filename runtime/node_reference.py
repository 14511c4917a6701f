"""What a node's reference computes on given operands, in float64 and in the program's own precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, fx

from ..compiler.lowered import Lowered, site_of, type_of
from ..compiler.native.sharing import CACHED
from ..kernels.linear.packed_reference import rounded_activation
from ..kernels.linear.reference import linear
from ..kernels.moe.fields import Experts
from ..kernels.moe.packed_reference import INWARD, packed_experts

HIGH = torch.float64


@dataclass(frozen=True, slots=True)
class Both:
    """What only the reference has computed: in float64, and in the program's precision."""

    high: object
    low: object

    def part(self, index: int) -> Both:
        """One of several outputs."""
        return Both(cast("Sequence[object]", self.high)[index], cast("Sequence[object]", self.low)[index])


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix as kernels multiply with it, and its format."""

    weight: Tensor
    format: str


def run_reference(
    lowered: Lowered,
    node: fx.Node,
    values: Mapping[fx.Node, object],
    *,
    low: torch.dtype,
    packed: Mapping[str, Packed] = MappingProxyType({}),
) -> Both:
    """One node of a definition on what is known of its operands: tensors as ours left them, or `Both`.

    low: the program's precision; packed: by argument, the node's matrices that are. Operands are not written to.
    """
    results: list[object] = []
    for precision in (HIGH, low):
        given = {name: _operand(lowered, value, values, precision) for name, value in node.kwargs.items()}
        given |= {name: matrix.weight.to(precision) for name, matrix in packed.items()}
        results.append(_call(node, given, {name: matrix.format for name, matrix in packed.items()}))
    state = node.kwargs.get("state")
    if isinstance(state, fx.Node) and not isinstance(values[state], Both):
        results[1] = _as_stored(node, results[1], values[state])
    return Both(*results)


def _call(node: fx.Node, given: dict[str, object], formats: Mapping[str, str]) -> object:
    """The reference on operands whose packed matrices are unpacked."""
    function, op = cast("Callable[..., object]", node.target), site_of(node).op.name
    if not formats:
        return function(**given)
    if op == "experts":
        in_format = next((formats[name] for name in INWARD if name in formats), "")
        record = Experts(**cast("dict[str, Any]", given))
        return packed_experts(record, in_format=in_format, down_format=formats.get("down_proj", ""))
    x = cast("Tensor", given["x"])
    given["x"] = rounded_activation(x, formats["weight"]).to(x.dtype)
    if op == "ternary_linear":  # both roundings are done
        function = cast("Callable[..., object]", linear)
        given.pop("activation_bits", None)
    return function(**given)


def _operand(lowered: Lowered, value: object, values: Mapping[fx.Node, object], precision: torch.dtype) -> object:
    """What the reference is given for one argument: a copy, because it may write to a state."""
    if isinstance(value, (list, tuple)):
        return [_operand(lowered, one, values, precision) for one in cast("Sequence[object]", value)]
    if not isinstance(value, fx.Node):
        return value
    known = values[value]
    if isinstance(known, Both):
        return known.high if precision is HIGH else known.low
    if str(value.target) in lowered.states:
        return converted(known, precision if precision in (HIGH, torch.float32) else None)
    is_exact = type_of(value).dtype != "float"
    return converted(known, torch.promote_types(precision, torch.float32) if is_exact else precision)


def converted(value: object, dtype: torch.dtype | None) -> object:
    """A copy whose floating-point numbers have this dtype, or their own; of a tensor, or of all in a list or tuple."""
    if isinstance(value, Tensor):
        return value.to(dtype if dtype is not None and value.is_floating_point() else value.dtype, copy=True)
    if isinstance(value, tuple):
        return tuple(converted(one, dtype) for one in cast("tuple[object, ...]", value))
    if isinstance(value, list):
        return [converted(one, dtype) for one in cast("list[object]", value)]
    return value


def _as_stored(node: fx.Node, result: object, state: object) -> object:
    """The result, where what it keeps and what is read of that are rounded to the state's dtype."""
    shorter = [one.dtype for one in cast("tuple[Tensor, ...]", state) if one.dtype.itemsize < torch.float32.itemsize]
    if not shorter:
        return result
    if len(site_of(node).types) == 1:
        return _rounded(result, shorter[0])
    return tuple(
        _rounded(value, shorter[0]) if name == "state" or CACHED in found.shape else value
        for value, (name, found) in zip(cast("Sequence[object]", result), site_of(node).types.items(), strict=True)
    )


def _rounded(value: object, dtype: torch.dtype) -> object:
    if isinstance(value, tuple):
        return tuple(_rounded(one, dtype) for one in cast("tuple[object, ...]", value))
    assert isinstance(value, Tensor)
    return value.to(dtype).to(value.dtype) if value.is_floating_point() else value
