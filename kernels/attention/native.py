"""Attention in C: appends rows to a cache and attends over it."""

from __future__ import annotations

from typing import cast

from ..native.node import CacheView, NativeNode, NotNative, Place, StateBuffers
from .reference import alibi_slopes


def append(node: NativeNode) -> None:
    """`kv_full_append` and `kv_window_append`: a view; the attention that reads it stores the new rows."""
    view = CacheView(state=node.state(), new=(node.input("k"), node.input("v")))
    for port in ("keys", "values", "key_position"):
        node.alias(port, view)


def attend_cached(node: NativeNode) -> None:
    """`reference.attend_cached`."""
    _attend(node, node.view("keys"))


def attention(node: NativeNode) -> None:
    """`reference.attention`: over the call's own rows."""
    _attend(node, None)


def _attend(node: NativeNode, view: CacheView | None) -> None:
    if node.has("bias"):
        raise NotNative("a bias on the scores is not written in C yet")
    q, out = node.input("q"), node.output()
    key_dim = cast("int", node.field("head_dim"))
    value_dim = cast("int | None", node.field("v_head_dim")) or key_dim
    k, v = view.new if view is not None else (node.input("k"), node.input("v"))
    kv_heads = k.width // key_dim
    scale = "(float)" + node.number("scale") if node.field("scale") is not None else f"(float){key_dim**-0.5!r}"
    values = {
        "q": q.pointer,
        "q_stride": q.stride,
        "out": out.pointer,
        "batch": "pass->batch",
        "tokens": "pass->tokens",
        "heads": q.width // key_dim,
        "kv_heads": kv_heads,
        "key_dim": key_dim,
        "value_dim": value_dim,
        "position": "pass->position",
        "lengths": "pass->lengths",
        **_new_rows(k, v),
        "is_causal": int(node.field("mask") == "causal"),
        "window": node.field("window") or 0,
        "chunk": node.field("chunk") or 0,
        "scale": scale,
        "softcap": "0" if node.field("softcap") is None else "(float)" + node.number("softcap"),
    }
    if node.field("alibi"):
        slopes = cast("list[float]", alibi_slopes(heads=q.width // key_dim).tolist())  # pyright: ignore[reportUnknownMemberType]
        values["slopes"] = node.constant("slopes", slopes)
    if node.has("sink"):
        values["sink"] = node.input("sink").pointer
    if view is None:
        _write(node, {**values, "reads_new": 1}, ("llmc_attend",))
        return
    is_ring = view.state.kind == "kv_window"
    cached = {**values, **_cache(view.state), "is_ring": int(is_ring), "reads_new": int(is_ring)}
    _write(node, cached, ("llmc_attend", "llmc_append") if is_ring else ("llmc_append", "llmc_attend"))


def _new_rows(k: Place, v: Place) -> dict[str, object]:
    return {"k": k.pointer, "k_stride": k.stride, "v": v.pointer, "v_stride": v.stride}


def _cache(state: StateBuffers) -> dict[str, object]:
    keys, values = state.pointers
    return {"keys": keys, "values": values, "slots": state.slots, "cache_type": "(int)pass->cache_type"}


def _write(node: NativeNode, values: dict[str, object], functions: tuple[str, ...]) -> None:
    fields = ",\n  ".join(f".{name} = {value}" for name, value in values.items())
    calls = "\n".join(f"{function}(t, &a);" for function in functions)
    node.region(f"{{ llmc_attention a = {{\n  {fields}}};\n{calls} }}")
