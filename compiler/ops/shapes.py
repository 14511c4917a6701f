"""Shape rules that several ops share: the same type, broadcast, a fixed size, equal parts."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Dim, Fields, Inputs, ShapeProblem, TensorType


def same_as_input(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    """The shape rule of elementwise ops: the output is typed as the first input."""
    return {"out": next(iter(inputs.values()))}


def known(dim: Dim, what: str, at: str) -> int:
    """The dim as a number; a `ShapeProblem` where it is only known at run time."""
    if isinstance(dim, str):
        raise ShapeProblem(f"{what} must be a fixed size, but it is {dim}", at)
    return dim


def divides(parts: int, width: int, at: str) -> None:
    """Raises `ShapeProblem` at the field `at` where its value `parts` does not divide the width."""
    if width % parts:
        raise ShapeProblem(f"{at} {parts} does not divide the input width {width}", at)


def broadcast(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    """The shape rule of two operands `a` and `b`: axes are equal or 1, counted from the last, as in torch."""
    a, b = inputs["a"], inputs["b"]
    longer, shorter = (a.shape, b.shape) if len(a.shape) >= len(b.shape) else (b.shape, a.shape)
    padded = (1,) * (len(longer) - len(shorter)) + shorter
    try:
        shape = tuple(_one_axis(x, y) for x, y in zip(longer, padded, strict=True))
    except ValueError:
        raise ShapeProblem(
            f"these two cannot be combined: {a} and {b}", "b", help="make both widths equal, e.g. by a linear"
        ) from None
    return {"out": TensorType(shape=shape, dtype=a.dtype)}


def _one_axis(a: Dim, b: Dim) -> Dim:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise ValueError
