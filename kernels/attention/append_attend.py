"""`append_attend` by launches of their own: norms, an append that rotates, attention; for prompts and for what one
launch does not serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from ..cache.reference import KvState
from ..kernel import Request, resolve
from ..rope.fields import RopeLayout
from . import sdpa


def serves(request: Request) -> str | None:
    """None, or why the append or the attention cannot be a Triton kernel."""
    append = f"cache.triton_append:{'serves_rope' if 'table' in request.shapes else 'serves'}"
    attend = f"attention.triton_{'decode' if request.phase == 'decode' else 'attention'}:serves"
    refused = resolve(append)(request) or resolve(attend)(_attending(request))
    return cast("str | None", refused)


def serves_sdpa(request: Request) -> str | None:
    """None, or why `scaled_dot_product_attention` cannot attend."""
    return sdpa.serves(_attending(request))


def _attending(request: Request) -> Request:
    """The attention alone, as `attend_cached` asks."""
    heads, key_dim, value_dim = (cast("int", request.fields[name]) for name in ("heads", "key_dim", "value_dim"))
    shapes = {**request.shapes, "keys": ("B", heads, "S", key_dim), "values": ("B", heads, "S", value_dim)}
    fields = {**request.fields, "head_dim": key_dim, "v_head_dim": value_dim}
    return replace(request, op="attend_cached", fields=fields, shapes=shapes)


def append_attend(
    *,
    state: KvState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    ring: int | None = None,
    table: Tensor | None = None,
    rotary_dim: int | None = None,
    layout: RopeLayout = "half",
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    norm_eps: float = 0.0,
    norm_offset: float = 0.0,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
    is_static: bool = False,
) -> tuple[Tensor, KvState]:
    """Arguments and result are those of the reference. Triton kernels: of norms, of the append, of attention."""
    attend = "triton_decode" if position.shape[1] == 1 else "triton_attention"
    return _apart("norm.triton_rms_norm", "cache.triton_append", f"attention.{attend}", locals())


def append_attend_sdpa(
    *,
    state: KvState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    ring: int | None = None,
    table: Tensor | None = None,
    rotary_dim: int | None = None,
    layout: RopeLayout = "half",
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    norm_eps: float = 0.0,
    norm_offset: float = 0.0,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
    is_static: bool = False,
) -> tuple[Tensor, KvState]:
    """Arguments and result are those of the reference; attention is torch's operator."""
    return _apart("norm.reference", "cache.reference", "attention.sdpa", locals())


def _apart(norms: str, appends: str, attends: str, given: dict[str, Any]) -> tuple[Tensor, KvState]:
    """The three steps, by the functions of these modules that have the names of the ops."""
    q, k, dim = given["q"], given["k"], given["key_dim"]
    if given["q_norm_weight"] is not None:
        norm = cast("Callable[..., Tensor]", resolve(f"{norms}:rms_norm"))
        options = {"eps": given["norm_eps"], "weight_offset": given["norm_offset"], "head_dim": dim}
        q, k = (norm(x=x, weight=given[f"{name}_norm_weight"], **options) for name, x in (("q", q), ("k", k)))
    added = {
        name: given[name]
        for name in ("state", "v", "position", "lengths", "heads", "key_dim", "value_dim", "is_static")
    }
    added |= {} if given["ring"] is None else {"window": given["ring"]}
    name = "kv_full_append" if given["ring"] is None else "kv_window_append"
    if given["table"] is not None:
        name = f"rope_{name}"
        added |= {"q": q} | {name: given[name] for name in ("table", "rotary_dim", "layout")}
    append = cast("Callable[..., tuple[Any, ...]]", resolve(f"{appends}:{name}"))
    state, keys, values, at, *turned = append(k=k, **added)
    fields = {name: given[name] for name in ("window", "chunk", "scale", "softcap", "alibi", "distance_bias", "sink")}
    attend = cast("Callable[..., Tensor]", resolve(f"{attends}:attend_cached"))
    out = attend(
        q=turned[0] if turned else q, keys=keys, values=values, key_position=at, position=given["position"],
        head_dim=dim, v_head_dim=given["value_dim"], **fields,
    )  # fmt: skip
    return out, state
