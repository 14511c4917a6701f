"""Generated cases of the kernels in C that treat rows: pointwise loops, norms, layouts, positions, tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.rope.reference import rope_table

from .emitted_case import Case, Found, Given, Parameter, Scalar, Value, reference_of
from .emitted_draws import KINDS, Builder, any_of, dtype_of, gap, ids_below, positive, rows, shape, value, width

SCALINGS: Mapping[str, Mapping[str, object]] = {
    "none": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, "original_max_seq_len": 32},
    "yarn": {"factor": 4.0, "original_max_seq_len": 32, "max_seq_len": 128},
    "proportional": {"rotary_fraction": 0.5},
}


# --- one number after the other ---------------------------------------------------------------------------------------


def _broadcast(draw: st.DrawFn, axes: tuple[int, ...]) -> Value | Parameter:
    """An operand that spreads to the axes of a token: the whole, one number, one axis alone, or a parameter."""
    how = draw(st.sampled_from(["whole", "parameter", "one", "last", "outer"]))
    if how == "parameter":
        return Parameter(shape=axes[-1:])
    if how == "last":
        return Value(shape=(*(1,) * (len(axes) - 1), axes[-1]), gap=gap(draw), draw=positive)
    if how == "outer":
        return Value(shape=(*axes[:-1], 1), gap=gap(draw), draw=positive)
    return Value(shape=(1,) * len(axes) if how == "one" else axes, gap=gap(draw), draw=positive)


def binary(op: str) -> Builder:
    def build(draw: st.DrawFn) -> Case:
        kind = rows(draw)
        axes = shape(draw)
        other = _broadcast(draw, axes) if kind == "tokens" else Value(shape=axes, rows=kind, draw=positive)
        first = Value(shape=axes, rows=kind, gap=gap(draw))
        if op == "div":
            other = Value(shape=axes, rows=kind, draw=positive, gap=gap(draw))
        pair = {"a": first, "b": other} if op in ("sub", "div") or draw(st.booleans()) else {"a": other, "b": first}
        return Case(op=op, operands=pair, rows=kind)

    return build


def lerp(draw: st.DrawFn) -> Case:
    axes = shape(draw)
    operands = {"a": value(draw, axes), "b": _broadcast(draw, axes), "weight": _broadcast(draw, axes)}
    return Case(op="lerp", operands=operands)


def sum_of(draw: st.DrawFn) -> Case:
    axes, kind = shape(draw), rows(draw)
    xs = tuple(value(draw, axes, kind) for _ in range(draw(st.integers(1, 4))))
    scale = draw(st.sampled_from([1.0, -0.3, Scalar(0.7)]))
    return Case(op="sum", operands={"xs": xs, "scale": scale}, rows=kind)


def clamp(draw: st.DrawFn) -> Case:
    kind = rows(draw)
    bounds = {name: any_of(draw, None, -0.5, 0.0, 0.75) for name in ("min", "max")}
    return Case(op="clamp", operands={"x": value(draw, shape(draw), kind), **bounds}, rows=kind, tolerance=0.0)


def scale(draw: st.DrawFn) -> Case:
    kind = rows(draw)
    numbers = {name: draw(st.sampled_from([0.0, 1.0, -2.5, Scalar(0.37)])) for name in ("factor", "offset")}
    return Case(op="scale", operands={"x": value(draw, shape(draw), kind), **numbers}, rows=kind)


def softcap(draw: st.DrawFn) -> Case:
    kind, cap = rows(draw), draw(st.sampled_from([30.0, 0.5, Scalar(2.0)]))
    return Case(op="softcap", operands={"x": value(draw, shape(draw), kind), "cap": cap}, rows=kind)


def activation(draw: st.DrawFn) -> Case:
    kind = rows(draw)
    return Case(
        op="activation", operands={"x": value(draw, shape(draw), kind), "kind": any_of(draw, *KINDS)}, rows=kind
    )


def gated_activation(draw: st.DrawFn) -> Case:
    axes, kind = shape(draw), rows(draw)
    operands = {"gate": value(draw, axes, kind), "up": value(draw, axes, kind), "kind": any_of(draw, *KINDS)}
    return Case(op="gated_activation", operands=operands, rows=kind)


def gated_activation_packed(draw: st.DrawFn) -> Case:
    axes, kind = shape(draw), rows(draw)
    x = value(draw, (*axes[:-1], 2 * axes[-1]), kind)
    return Case(op="gated_activation_packed", operands={"x": x, "kind": any_of(draw, *KINDS)}, rows=kind)


def zeros_like(draw: st.DrawFn) -> Case:
    kind = rows(draw)
    return Case(op="zeros_like", operands={"x": value(draw, shape(draw), kind)}, rows=kind, tolerance=0.0)


# --- a number out of many ---------------------------------------------------------------------------------------------


def reduce(draw: st.DrawFn) -> Case:
    kind, axes = rows(draw), shape(draw)
    heads = draw(st.integers(1, 4))
    head_dim = any_of(draw, None, axes[-1])
    operands = {"kind": any_of(draw, "sum", "mean", "rms", "max"), "head_dim": head_dim, "keep": draw(st.booleans())}
    x = Value(shape=(*axes[:-1], heads * axes[-1]), rows=kind, gap=gap(draw), draw=positive)
    return Case(op="reduce", operands={"x": x, **operands}, rows=kind)


def topk_sparsity(draw: st.DrawFn) -> Case:
    kind, sparsity = rows(draw), draw(st.sampled_from([0.0, 0.5, 0.8]))
    operands = {"x": value(draw, shape(draw), kind), "sparsity": sparsity}
    return Case(op="topk_sparsity", operands=operands, rows=kind, tolerance=1e-5)


def _norm(draw: st.DrawFn, op: str, names: tuple[str, ...], ports: tuple[str, ...] = ("out",)) -> Case:
    """A norm of the whole last axis or of heads, with a weight for each feature or one that heads share."""
    kind, axes = rows(draw), shape(draw)
    size, heads = max(3, axes[-1]), draw(st.integers(1, 3))
    by_head = op in ("rms_norm", "layer_norm", "l2_norm") and draw(st.booleans())
    width = heads * size if by_head else size
    axes = (*axes[:-1], width)
    x: dict[str, object] = (
        {name: value(draw, axes, kind) for name in ("delta", "residual")}
        if op.startswith("add_")
        else {"x": value(draw, axes, kind)}
    )
    if by_head:
        x["head_dim"] = size
    length = size if by_head and draw(st.booleans()) else width
    x |= {name: Parameter(shape=(length,)) for name in names if draw(st.booleans())}
    if op.endswith("rms_norm"):
        x["weight_offset"] = 1.0 if "weight" in x and draw(st.booleans()) else 0.0
    return Case(op=op, operands={**x, "eps": 1e-5}, rows=kind, ports=ports, tolerance=1e-5)


def norm(op: str, *names: str) -> Builder:
    ports = ("out", "sum") if op.startswith("add_") else ("out",)
    return lambda draw: _norm(draw, op, names, ports)


def group_norm(draw: st.DrawFn) -> Case:
    kind, groups, size, axes = rows(draw), draw(st.integers(1, 4)), max(3, width(draw)), shape(draw)
    features = groups * size
    learned = {name: Parameter(shape=(features,)) for name in ("weight", "bias") if draw(st.booleans())}
    x = value(draw, (*axes[:-1], features), kind)
    return Case(
        op="group_norm",
        operands={"x": x, **learned, "num_groups": groups, "eps": 1e-5, "centre": draw(st.booleans())},
        rows=kind,
        tolerance=1e-5,
    )


# --- layouts ----------------------------------------------------------------------------------------------------------


def _sizes(draw: st.DrawFn) -> dict[str, int]:
    return {f"part{i}": width(draw) for i in range(draw(st.integers(1, 3)))}


def split(draw: st.DrawFn) -> Case:
    kind, sizes = rows(draw), _sizes(draw)
    x = value(draw, (sum(sizes.values()),), kind)
    return Case(op="split", operands={"x": x, "sizes": sizes}, rows=kind, ports=tuple(sizes), tolerance=0.0)


def split_heads(draw: st.DrawFn) -> Case:
    kind, sizes = rows(draw), _sizes(draw)
    x = value(draw, (*shape(draw)[:-1], draw(st.integers(1, 4)) * sum(sizes.values())), kind)
    return Case(op="split_heads", operands={"x": x, "sizes": sizes}, rows=kind, ports=tuple(sizes), tolerance=0.0)


def concat(draw: st.DrawFn) -> Case:
    kind, heads, outer = rows(draw), draw(st.integers(1, 3)), shape(draw)[:-1]
    xs = tuple(value(draw, (*outer, heads * width(draw)), kind) for _ in range(draw(st.integers(2, 4))))
    return Case(op="concat", operands={"xs": xs, "heads": heads}, rows=kind, tolerance=0.0)


def slice_features(draw: st.DrawFn) -> Case:
    kind, size, start = rows(draw), width(draw), draw(st.integers(0, 9))
    x = value(draw, (start + size + draw(st.integers(0, 5)),), kind)
    return Case(op="slice", operands={"x": x, "start": start, "size": size}, rows=kind, tolerance=0.0)


def tile(draw: st.DrawFn) -> Case:
    kind = rows(draw)
    operands = {"x": value(draw, shape(draw), kind), "times": draw(st.integers(1, 4))}
    return Case(op="tile", operands=operands, rows=kind, tolerance=0.0)


def reshape(draw: st.DrawFn) -> Case:
    kind, (outer, inner) = rows(draw), (draw(st.integers(1, 4)), width(draw))
    axes = draw(st.sampled_from([(outer * inner,), (outer, inner), (inner, outer), (inner, 1, outer)]))
    keep = {"tokens": 2, "batch": 1, "one": 0}[kind]
    x = value(draw, (outer * inner,), kind)
    return Case(op="reshape", operands={"x": x, "shape": axes, "keep": keep}, rows=kind, tolerance=0.0)


def mix_streams(draw: st.DrawFn) -> Case:
    streams, made = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    operands = {"x": value(draw, (streams * width(draw),)), "weights": value(draw, (made * streams,))}
    return Case(op="mix_streams", operands={**operands, "num_streams": streams})


# --- tables and positions ---------------------------------------------------------------------------------------------


def _embedded(_before: Given, given: Given) -> Found:
    """The product in float64 of the table's numbers and the factor, which is rounded to their type."""
    weight, dtype = cast("Tensor", given["weight"]), cast("torch.dtype", given.pop("dtype"))
    factor = torch.tensor(cast("float", given["scale"])).to(dtype).double()
    plain = reference_of("embedding")(ids=given["ids"], weight=weight, offset=given["offset"])
    return (cast("Tensor", plain) * factor,), ()


def embedding(draw: st.DrawFn) -> Case:
    table, dtype = draw(st.integers(1, 40)), dtype_of(draw)
    offset = draw(st.sampled_from([0, 2]))
    ids = Value(shape=(), ctype="int64_t", draw=ids_below(table))
    weight = Parameter(shape=(table + offset, width(draw)))
    factor = draw(st.sampled_from([1.0, 0.0625, 33.3, Scalar(7.7)]))
    operands = {"ids": ids, "weight": weight, "offset": offset, "scale": factor}

    def reference(before: Given, given: Given) -> Found:
        return _embedded(before, {**given, "dtype": dtype})

    return Case(op="embedding", operands=operands, dtype=dtype, reference=reference, tolerance=1e-7)


def table_of(draw: st.DrawFn) -> Case:
    scaling = draw(st.sampled_from(list(SCALINGS)))
    rotary = 2 * draw(st.sampled_from([1, 4, 5, 16, 33]))
    fields = {"rotary_dim": rotary, "theta": any_of(draw, 1e4, 5e5), "scaling": scaling, **SCALINGS[scaling]}
    return Case(op="rope_table", operands=fields, tolerance=1e-6)


def rope_apply(draw: st.DrawFn) -> Case:
    heads, size = draw(st.integers(1, 5)), 2 * draw(st.integers(1, 40))
    rotary = 2 * draw(st.integers(1, size // 2))

    def turned(axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
        position = torch.randint(0, 5000, axes[:-1], generator=generator)
        return rope_table(position=position, rotary_dim=rotary)

    table = Value(shape=(rotary,), gap=gap(draw), draw=turned)
    fields = {"head_dim": size, "rotary_dim": rotary, "layout": any_of(draw, "half", "interleaved")}
    if rotary == size and draw(st.booleans()):
        del fields["rotary_dim"]
    return Case(op="rope_apply", operands={"x": value(draw, (heads * size,)), "table": table, **fields})


def relative_bias(draw: st.DrawFn) -> Case:
    is_bidirectional, per_side = draw(st.booleans()), draw(st.integers(2, 20))
    reach = per_side // 2 + draw(st.integers(1, 60))
    weight = Parameter(shape=(per_side * (1 + is_bidirectional), draw(st.integers(1, 6))))
    operands = {"weight": weight, "max_distance": reach, "bidirectional": is_bidirectional}
    return Case(op="relative_bias", operands=operands, rows="one", tolerance=0.0)


def geometric(draw: st.DrawFn) -> Case:
    start, ratio = (draw(st.sampled_from([0.5, 2.0, Scalar(0.25), -1.5])) for _ in range(2))
    operands = {"like": Value(shape=(3,)), "size": draw(st.integers(1, 40)), "start": start, "ratio": ratio}
    return Case(op="geometric", operands=operands, rows="one", tolerance=1e-7)


def pool(draw: st.DrawFn) -> Case:
    kind = any_of(draw, "first", "last", "mean", "max")
    return Case(op="pool", operands={"x": value(draw, (width(draw),)), "kind": kind}, rows="batch")


def sinusoidal(draw: st.DrawFn) -> Case:
    fields = {
        "features": draw(st.integers(2, 40)),
        "theta": any_of(draw, 1e4, 100.0),
        "layout": any_of(draw, "interleaved", "half"),
    }
    return Case(op="sinusoidal", operands=fields, tolerance=1e-6)


def position_scale(draw: st.DrawFn) -> Case:
    fields = {
        "scale": any_of(draw, 0.1, 0.0, Scalar(0.4)),
        "period": draw(st.integers(1, 4)),
        "offset": any_of(draw, 0, 1),
    }
    return Case(op="position_scale", operands={"x": value(draw, (width(draw),)), **fields})


NUMBERS: Mapping[str, Builder] = {
    **{op: binary(op) for op in ("add", "sub", "mul", "div")},
    "lerp": lerp,
    "sum": sum_of,
    "clamp": clamp,
    "scale": scale,
    "softcap": softcap,
    "activation": activation,
    "gated_activation": gated_activation,
    "gated_activation_packed": gated_activation_packed,
    "zeros_like": zeros_like,
    "reduce": reduce,
    "topk_sparsity": topk_sparsity,
    "rms_norm": norm("rms_norm", "weight"),
    "add_rms_norm": norm("add_rms_norm", "weight"),
    "layer_norm": norm("layer_norm", "weight", "bias"),
    "add_layer_norm": norm("add_layer_norm", "weight", "bias"),
    "l2_norm": norm("l2_norm"),
    "group_norm": group_norm,
}
LAYOUTS: Mapping[str, Builder] = {
    "split": split,
    "split_heads": split_heads,
    "concat": concat,
    "slice": slice_features,
    "tile": tile,
    "reshape": reshape,
    "mix_streams": mix_streams,
    "embedding": embedding,
    "rope_table": table_of,
    "rope_apply": rope_apply,
    "relative_bias": relative_bias,
    "geometric": geometric,
    "pool": pool,
    "sinusoidal": sinusoidal,
    "position_scale": position_scale,
}
