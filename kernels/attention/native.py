"""Attention in C: keeps keys and values, and attends over them."""

from __future__ import annotations

from typing import cast

import torch

from ..native.node import CacheView, NativeNode, NotNative, Place, StateBuffers, fields_of
from .fields import Attend
from .reference import alibi_slopes
from .reference import relative_bias as bias_table

ATTEND, APPEND = "llmc_attend(t, &a);", "llmc_append(t, &a);"


def append(node: NativeNode) -> None:
    """`kv_full_append` and `kv_window_append`: a view; the attention that reads it stores the new rows."""
    _view(node, CacheView(state=node.state(), new=(node.input("k"), node.input("v"))))


def cross_kv_append(node: NativeNode) -> None:
    """`cache.reference.cross_kv_append`, into buffers of the right size."""
    k, v, state = node.input("k"), node.input("v"), node.state()
    values: dict[str, object] = {
        "batch": "pass->batch",
        "tokens": "pass->tokens",
        "kv_heads": node.field("heads"),
        "key_dim": node.field("key_dim"),
        "value_dim": node.field("value_dim"),
        "position": "pass->position",
        **_new_rows(k, v),
        **_cache(state),
    }
    _write(node, values, "llmc_keep(t, &a);")


def cross_kv_read(node: NativeNode) -> None:
    """`cache.reference.cross_kv_read`: a view without new rows."""
    _view(node, CacheView(state=node.state(), new=()))


def relative_bias(node: NativeNode) -> None:
    """`reference.relative_bias`: each distance's bucket is a constant."""
    weight, y = node.input("weight"), node.output()
    buckets, heads = weight.shape
    reach, is_bidirectional = cast("int", node.field("max_distance")), cast("bool", node.field("bidirectional"))
    numbers = torch.arange(float(buckets))[:, None]
    table = bias_table(weight=numbers, max_distance=reach, bidirectional=is_bidirectional)[0]
    bucket = node.constant("bucket", cast("list[float]", table.tolist()))  # pyright: ignore[reportUnknownMemberType]
    node.row(
        f"for (int h = 0; h < {heads}; h++) for (int i = 0; i < {len(table)}; i++)\n"
        f"  {y.pointer}[h * {len(table)} + i] = {weight.pointer}[(int){bucket}[i] * {heads} + h];",
        rows="one",
    )


def _view(node: NativeNode, view: CacheView) -> None:
    for port in ("keys", "values", "key_position"):
        node.alias(port, view)


def attend_cached(node: NativeNode) -> None:
    """`reference.attend_cached`."""
    _attend(node, node.view("keys"))


def attention(node: NativeNode) -> None:
    """`reference.attention`: over the call's own rows."""
    _attend(node, None)


def _attend(node: NativeNode, view: CacheView | None) -> None:
    """Where this call alone reads a full cache, it stores first and then reads all in one place; else it reads what was
    held, then its own rows, and stores them last if at all."""
    if view is None:
        k, v = node.input("k"), node.input("v")
        heads = k.width // fields_of(node, Attend).head_dim
        _write(node, {**_rule(node), "kv_heads": heads, **_new_rows(k, v), "reads_new": 1}, ATTEND)
        return
    state = view.state
    values = {**_rule(node), "kv_heads": state.sizes["heads"], **_cache(state)}
    if not view.new:  # rows of the stream that read one row of the state are more tokens of it
        values |= {"batch": "pass->batch / pass->sharing", "tokens": "pass->tokens * pass->sharing"}
        _write(node, values, ATTEND)
        return
    values |= _new_rows(*view.new)
    if state.kind == "kv_full" and state.stores == "1":
        _write(node, values, f"{APPEND}\n{ATTEND}")
    else:
        values |= {"is_ring": int(state.kind == "kv_window"), "reads_new": 1}
        _write(node, values, f"{ATTEND}\nif ({state.stores}) {APPEND}")


def _rule(node: NativeNode) -> dict[str, object]:
    """The queries, the result, and what a query sees of which key."""
    if node.has("bias"):
        raise NotNative("a bias on the scores is not written in C yet")
    given, q, out = fields_of(node, Attend), node.input("q"), node.output()
    head_dim = given.head_dim
    heads = q.width // head_dim
    values: dict[str, object] = {
        "q": q.pointer,
        "q_stride": q.stride,
        "out": out.pointer,
        "batch": "pass->batch",
        "tokens": "pass->tokens",
        "heads": heads,
        "key_dim": head_dim,
        "value_dim": given.v_head_dim or head_dim,
        "position": "pass->position",
        "lengths": "pass->lengths",
        "is_causal": int(given.mask == "causal"),
        "window": given.window or 0,
        "chunk": given.chunk or 0,
        "scale": f"(float){head_dim**-0.5!r}" if given.scale is None else f"(float){node.number('scale')}",
        "softcap": "0" if given.softcap is None else f"(float){node.number('softcap')}",
    }
    if given.alibi:
        slopes = cast("list[float]", alibi_slopes(heads=heads).tolist())  # pyright: ignore[reportUnknownMemberType]
        values["slopes"] = node.constant("slopes", slopes)
    if node.has("distance_bias"):
        bias = node.input("distance_bias")
        values |= {"distance_bias": bias.pointer, "reach": bias.shape[1] // 2}
    if node.has("sink"):
        values["sink"] = node.input("sink").pointer
    return values


def _new_rows(k: Place, v: Place) -> dict[str, object]:
    return {"k": k.pointer, "k_stride": k.stride, "v": v.pointer, "v_stride": v.stride}


def _cache(state: StateBuffers) -> dict[str, object]:
    """Of a state in C. What is given once is kept in the model's type, other keys in what the request wants."""
    names = ("keys", "values", "key_position")
    return {
        **dict(zip(names, state.pointers, strict=False)),
        "slots": state.slots,
        "cache_type": "LLMC_MODEL_TYPE" if state.kind == "cross_kv" else "(int)pass->cache_type",
    }


def _write(node: NativeNode, values: dict[str, object], calls: str) -> None:
    fields = ",\n  ".join(f".{name} = {value}" for name, value in values.items())
    node.region(f"{{ llmc_attention a = {{\n  {fields}}};\n{calls} }}")
