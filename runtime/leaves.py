"""The modules at the ends of the tree: they own parameters, or behave differently in training.

Where torch has a class for it, the leaf is a subclass, so that adapters and sharding recognise it. What it computes is
`compute`: the op's reference, or the kernel that the compiler picked for training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..compiler.ops.declaration import Fields, Op, ParameterSpec
from ..kernels.embedding.reference import embedding
from ..kernels.linear.reference import linear
from ..kernels.norm.reference import layer_norm, rms_norm
from ..kernels.registry import resolve_reference
from ..kernels.ternary.reference import ternary_linear


class _Unfilled(nn.Module):
    """Does not fill a parameter that has no memory: torch's way of doing nothing there imports its tracer."""

    def reset_parameters(self) -> None:
        """Fill the parameters afresh, as torch's class does."""
        if not next(self.parameters(recurse=False)).is_meta:
            super().reset_parameters()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


class Linear(_Unfilled, nn.Linear):
    """Weight `[O, I]`, optional bias `[O]`."""

    compute: Callable[..., Tensor] = staticmethod(linear)

    def forward(self, input: Tensor) -> Tensor:
        """input `[..., I]` -> `[..., O]`."""
        return self.compute(x=input, weight=self.weight, bias=self.bias)


class TernaryLinear(_Unfilled, nn.Linear):
    """Weight `[O, I]` and optional bias `[O]` as trained; the forward rounds weights and activations."""

    compute: Callable[..., Tensor] = staticmethod(ternary_linear)

    def __init__(self, width: int, features: int, *, bias: bool, activation_bits: int | None) -> None:
        super().__init__(width, features, bias=bias)  # pyright: ignore[reportUnknownMemberType]
        self.activation_bits = activation_bits

    def forward(self, input: Tensor) -> Tensor:
        """input `[..., I]` -> `[..., O]`."""
        return self.compute(x=input, weight=self.weight, bias=self.bias, activation_bits=self.activation_bits)


class Embedding(_Unfilled, nn.Embedding):
    """Weight `[rows, features]`; ids are shifted by `offset`, rows multiplied by `scale`."""

    compute: Callable[..., Tensor] = staticmethod(embedding)

    def __init__(self, rows: int, features: int, *, offset: int, scale: float) -> None:
        super().__init__(rows, features)  # pyright: ignore[reportUnknownMemberType]
        self.offset, self.scale = offset, scale

    def forward(self, input: Tensor) -> Tensor:
        """ids `[B, T]` int64 -> `[B, T, features]`."""
        return self.compute(ids=input, weight=self.weight, offset=self.offset, scale=self.scale)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the whole last axis."""

    compute: Callable[..., Tensor] = staticmethod(layer_norm)

    def forward(self, input: Tensor) -> Tensor:
        """The shape of the input."""
        return self.compute(x=input, weight=self.weight, bias=self.bias, eps=self.eps)


class RMSNorm(nn.RMSNorm):
    """RMS norm over the whole last axis; `weight_offset` is added to the stored weight."""

    compute: Callable[..., Tensor] = staticmethod(rms_norm)

    def __init__(self, width: int, *, eps: float, weight_offset: float) -> None:
        super().__init__(width, eps=eps)  # pyright: ignore[reportUnknownMemberType]
        self.weight_offset = weight_offset

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return self.compute(x=x, weight=self.weight, eps=cast("float", self.eps), weight_offset=self.weight_offset)


class ReferenceModule(nn.Module):
    """Any other op: its parameters, and what it computes as the forward."""

    def __init__(self, op: Op, fields: Fields, specs: tuple[ParameterSpec, ...]) -> None:
        super().__init__()
        self.op_name = op.name
        self.first_port = op.ports[0].name if op.ports else ""
        self.reads_training = op.reads_training
        self.compute = resolve_reference(op.reference)
        self.operands = {
            name: fields[name] for name in op.operands if fields.values.get(name) != op.field_index[name].default
        }
        self.names = tuple(spec.name for spec in specs)
        for spec in specs:
            self.register_parameter(spec.name, nn.Parameter(torch.empty(spec.shape)))

    def forward(self, first: Tensor | None = None, **inputs: Tensor) -> object:
        """`first` is the first port, if the op has any; the others, and ambient tensors, come by name."""
        arguments: dict[str, object] = {**self.operands, **inputs}
        if first is not None:
            arguments[self.first_port] = first
        arguments.update((name, self._parameters[name]) for name in self.names)
        if self.reads_training:
            arguments["training"] = self.training
        return self.compute(**arguments)

    def extra_repr(self) -> str:
        return ", ".join([self.op_name, *(f"{name}={value}" for name, value in self.operands.items())])


def make_leaf(
    op: Op, fields: Fields, specs: tuple[ParameterSpec, ...], compute: Callable[..., object] | None = None
) -> nn.Module:
    """The module of one node, on the current default device, uninitialised. `compute` takes the reference's place."""
    leaf = _make(op, fields, specs)
    if compute is not None:
        leaf.compute = compute  # pyright: ignore[reportArgumentType]
    return leaf


def _make(op: Op, fields: Fields, specs: tuple[ParameterSpec, ...]) -> nn.Module:
    shapes = {spec.name: spec.shape for spec in specs}
    match op.name:
        case "linear":
            out, width = shapes["weight"]
            return Linear(width, out, bias="bias" in shapes)
        case "ternary_linear":
            out, width = shapes["weight"]
            return TernaryLinear(width, out, bias="bias" in shapes, activation_bits=fields.opt_int("activation_bits"))
        case "embedding":
            return Embedding(*shapes["weight"], offset=fields.int("offset"), scale=fields.float("scale"))
        case "layer_norm" if "weight" in shapes and fields.opt_int("head_dim") is None:
            return LayerNorm(list(shapes["weight"]), eps=fields.float("eps"), bias="bias" in shapes)
        case "rms_norm" if "weight" in shapes and fields.opt_int("head_dim") is None:
            offset = fields.float("weight_offset")
            return RMSNorm(shapes["weight"][0], eps=fields.float("eps"), weight_offset=offset)
        case "dropout":
            return nn.Dropout(fields.float("p"))
        case _:
            return ReferenceModule(op, fields, specs)
