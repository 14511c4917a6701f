"""The inputs of a call beside its tokens: which there are, their shapes, and the ambient tensors of their axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compiler.axes import STREAM, ambient_name, axis_of
from ..compiler.ir import INPUT, GraphInput, Model, Ref
from ..specs.diagnostics import did_you_mean, fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A token axis beside the stream, the input that brings its tokens, and the name that its mask is given by."""

    name: str
    source: GraphInput
    mask: str


def axes(inputs: Iterable[GraphInput]) -> tuple[Axis, ...]:
    """The axes of a model's inputs, without the stream's."""
    found: dict[str, Axis] = {}
    for port in inputs:
        name = axis_of(port.type)
        if name != STREAM and name not in found:
            found[name] = Axis(name=name, source=port, mask=mask_name(port.name))
    return tuple(found.values())


def mask_name(name: str) -> str:
    """What the mask of an input is called: `tokens` has `attention_mask`, `encoder_tokens` `encoder_attention_mask`."""
    prefix = name.removesuffix("tokens").removesuffix("_")
    return f"{prefix}_attention_mask" if prefix else "attention_mask"


def prompt_input(inputs: Iterable[GraphInput]) -> GraphInput | None:
    """The input that a prompt goes to where it is not the stream itself: the first ids that are given once."""
    return next((p for p in inputs if p.rate == "once" and p.type.dtype == "int64" and p.default is None), None)


def check_named(
    inputs: Sequence[GraphInput],
    named: Mapping[str, Tensor],
    batch: int,
    *,
    is_later: bool,
    rows_of: Callable[[str], int | None],
) -> None:
    """Raises E0804 for an input that the model does not have, lacks or got already, E0803 for one that does not fit.

    is_later: the cache holds what is given once; rows_of: entries of the table that the ids of an input are looked up
    in, None where there is none.
    """
    declared = {port.name: port for port in inputs}
    masks = {axis.mask: axis.source for axis in axes(inputs)}
    for name in named:
        port = declared.get(name) or masks.get(name)
        if port is None:
            raise fail("E0804", f"this model has no input {name!r}", help=did_you_mean(name, {*declared, *masks}))
        if is_later and port.rate == "once":
            raise fail(
                "E0804",
                f"{name} is given once, with the first tokens, and this cache holds it",
                help="leave it out, or begin anew with cache.reset() or another cache",
            )
    for port in inputs[1:]:
        if port.name in named:
            _check_shape(port, named[port.name], batch)
        elif port.default is None and not (is_later and port.rate == "once"):
            raise fail("E0804", f"this model needs its input {port.name!r}")
    _check_ids(inputs, named, rows_of)


def _check_shape(port: GraphInput, value: Tensor, batch: int) -> None:
    wanted = [batch if dim == "B" else dim for dim in port.type.shape]
    fits = value.dim() == len(wanted) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(wanted, value.shape, strict=True)
    )
    is_of_ids = port.type.dtype == "int64"
    if port.rate == "once" and (not fits or 0 in value.shape or is_of_ids != (value.dtype == torch.int64)):
        raise fail(
            "E0803",
            f"{port.name} is {list(value.shape)} {value.dtype}, but with {batch} rows of tokens it must be "
            f"[{', '.join(map(str, wanted))}] {port.type.dtype}",
        )


def _check_ids(inputs: Sequence[GraphInput], named: Mapping[str, Tensor], rows_of: Callable[[str], int | None]) -> None:
    """Ids of what is given once lie within every table that they are looked up in."""
    for port in inputs:
        if port.rate != "once" or port.name not in named or port.type.dtype != "int64":
            continue
        low, high = (int(value) for value in torch.aminmax(named[port.name]))
        rows = rows_of(port.name)
        if low < 0 or (rows is not None and high >= rows):
            raise fail("E0803", f"{port.name} holds the id {low if low < 0 else high}, but its table has {rows} rows")


def table_rows(model: Model, name: str) -> int | None:
    """Rows of the smallest embedding that reads an input; None where none does."""
    return min(_tables(model, name), default=None)


def _tables(model: Model, name: str) -> Iterator[int]:
    """Rows of the embeddings that read an input."""
    for call in model.calls:
        for port, value in call.inputs.items():
            if value == name:
                for node in model.definitions[call.definition].definition.nodes:
                    if node.op.name == "embedding" and node.inputs.get("ids") == Ref(INPUT, port):
                        yield node.fields.int("rows") + node.fields.int("offset")


def made_up(model: Model, tokens: Tensor, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random values for the inputs without a default: ids out of their tables, or normal numbers in float32.

    tokens `[B, T]` are the stream's; an axis of unknown size gets `count` entries.
    """
    found: dict[str, Tensor] = {}
    for port in model.inputs[1:]:
        if port.default is not None:
            continue
        sizes = {"B": len(tokens), STREAM: tokens.shape[1]}
        shape = [dim if isinstance(dim, int) else sizes.get(dim, count) for dim in port.type.shape]
        if port.type.dtype == "int64":
            rows = table_rows(model, port.name) or 2
            found[port.name] = torch.randint(0, rows, shape, generator=generator)
        else:
            found[port.name] = torch.randn(shape, generator=generator)
    return found


def positions(tokens: Tensor, attention_mask: Tensor | None, mask: str = "attention_mask") -> Tensor:
    """The position of each token in its row, -1 where it is padding. `[B, T, …]` -> `[B, T]` int64."""
    if attention_mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], tokens.shape[1])
    if attention_mask.shape != tokens.shape[:2]:
        what = mask.removesuffix("attention_mask") + "tokens"
        raise fail("E0803", f"{mask} is {list(attention_mask.shape)}, {what} are {list(tokens.shape[:2])}")
    is_token = attention_mask.bool()
    return torch.where(is_token, is_token.cumsum(dim=1) - 1, -1)


def other_ambient(inputs: Iterable[GraphInput], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Positions and lengths of every axis beside the stream whose input is given."""
    found: dict[str, Tensor] = {}
    for axis in axes(inputs):
        source = named.get(axis.source.name)
        if source is not None:
            found[ambient_name("position", axis.name)] = positions(source, named.get(axis.mask), axis.mask)
            found[ambient_name("lengths", axis.name)] = torch.zeros(
                len(source), dtype=torch.int64, device=source.device
            )
    return found
