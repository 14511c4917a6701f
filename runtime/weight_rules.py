"""What each kind of weight rule does to tensors, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..compiler.ops.declaration import ParameterSpec
from ..compiler.weight_map import WeightRule, fill, match

Shape = tuple[int, ...]


def source_names(rule: WeightRule, holes: Mapping[str, str], available: set[str] | None) -> tuple[str, ...]:
    """The checkpoint names of a rule once the parameter's holes are known.

    A hole that only the source has (`{expert}`) runs from 0 as far as `value`, the number of parts, says; else as far
    as the checkpoint has names.
    """
    names = [fill(source, holes) for source in rule.sources]
    if rule.how in ("stack", "concat") and any("{" in name for name in names):
        count = int(rule.value) if rule.value else _count_matches(names[0], available)
        return tuple(_numbered(name, i) for i in range(count) for name in names)
    return tuple(names)


def _numbered(pattern: str, index: int) -> str:
    start, end = pattern.index("{"), pattern.index("}")
    return f"{pattern[:start]}{index}{pattern[end + 1 :]}"


def _count_matches(pattern: str, available: set[str] | None) -> int:
    return sum(1 for name in available or () if match(pattern, name) is not None)


def _stored_shape(spec: ParameterSpec) -> Shape:
    return spec.shape[::-1] if spec.is_transposed else spec.shape


def source_shapes(rule: WeightRule | None, spec: ParameterSpec, count: int) -> list[Shape | None]:
    """The shape of each source tensor; None where the rule cannot know it."""
    shape = _stored_shape(spec)
    if rule is None:
        return [shape] * count
    match rule.how:
        case "transpose":
            return [shape[::-1]] * count
        case "stack":
            return [shape[: rule.axis] + shape[rule.axis + 1 :]] * count
        case "concat" if rule.sizes:
            return [(*shape[: rule.axis], size, *shape[rule.axis + 1 :]) for size in rule.sizes]
        case "permute":
            inverse = sorted(range(len(rule.order)), key=rule.order.__getitem__)
            return [tuple(shape[i] for i in inverse)] * count
        case "split" if rule.sizes:
            return [(*shape[: rule.axis], sum(rule.sizes), *shape[rule.axis + 1 :])] * count
        case "concat":
            return [(*shape[: rule.axis], shape[rule.axis] // count, *shape[rule.axis + 1 :])] * count
        case "split":
            return [None] * count
        case _:
            return [shape] * count


def imported(rule: WeightRule | None, spec: ParameterSpec, parts: Sequence[Tensor]) -> Tensor:
    """The parameter that the checkpoint tensors make."""
    tensor = parts[0] if rule is None else _apply(rule, parts)
    return tensor.T.contiguous() if spec.is_transposed else tensor


def _apply(rule: WeightRule, parts: Sequence[Tensor]) -> Tensor:
    match rule.how:
        case "concat":
            return torch.cat(list(parts), dim=rule.axis)
        case "stack":
            return torch.stack(list(parts), dim=rule.axis)
        case "transpose":
            return parts[0].T.contiguous()
        case "permute":
            return parts[0].permute(rule.order).contiguous()
        case "fold":
            return parts[0] + rule.value
        case "scale":
            return parts[0] * rule.value
        case "split":
            start = sum(rule.sizes[: rule.part or 0])
            return parts[0].narrow(rule.axis, start, rule.sizes[rule.part or 0])
        case _:
            return parts[0]


def exported(rule: WeightRule | None, spec: ParameterSpec, tensor: Tensor, count: int) -> list[Tensor]:
    """The checkpoint tensors that the parameter makes: the inverse of `imported`. `split` is undone by its caller."""
    stored = tensor.T.contiguous() if spec.is_transposed else tensor
    if rule is None:
        return [stored]
    match rule.how:
        case "concat":
            return list(torch.split(stored, list(rule.sizes) or stored.shape[rule.axis] // count, dim=rule.axis))
        case "stack":
            return list(stored.unbind(dim=rule.axis))
        case "transpose":
            return [stored.T.contiguous()]
        case "permute":
            inverse = sorted(range(len(rule.order)), key=rule.order.__getitem__)
            return [stored.permute(inverse).contiguous()]
        case "fold":
            return [stored - rule.value]
        case "scale":
            return [stored / rule.value]
        case _:
            return [stored]
