"""Families with several residual streams, and last layers that read the keys of earlier ones, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family

_KEYS: Mapping[str, str] = {
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads",
    "max_seq_len": "max_position_embeddings", "activation_sparsity": "activation_sparsity_pattern",
    "num_streams": "altup_num_inputs", "per_layer_vocab_size": "vocab_size_per_layer_input",
    "per_layer_size": "hidden_size_per_layer_input", "final_logit_softcap": "final_logit_softcapping",
}  # fmt: skip
_ROPE_KEYS: Mapping[str, str] = {"rope_theta": "full_attention", "rope_local_theta": "sliding_attention"}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def _kwargs(params: Mapping[str, Value]) -> dict[str, object]:
    """The keys of transformers for our params."""
    kwargs: dict[str, object] = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
    rope: dict[str, object] = {}
    for name, value in params.items():
        if name in _ROPE_KEYS:
            rope[_ROPE_KEYS[name]] = {"rope_type": "default", "rope_theta": value}
        else:
            kwargs[_KEYS.get(name, name)] = value
    return {**kwargs, "rope_parameters": rope}


Change = Mapping[str, Mapping[str, Value]]


def _param(**changes: Value) -> Change:
    return {"params": changes}


def _node(block: str, node: str, **changes: Value) -> Change:
    """Fields of one node of a block."""
    return {"overlay": {"blocks": {block: {"nodes": {node: changes}}}}}


def _mistakes(params: Mapping[str, Value]) -> dict[str, Change]:
    """By name, the params or the part of the spec that are wrong."""
    window, types = int(str(params["sliding_window"])), params["layer_types"]
    assert isinstance(types, list)
    dense: list[Value] = [0.0] * len(types)
    earliest = "model.layers.${where(own_types, layer_types[layer])[0]}.self_attn.attend"
    of_readers = {
        "scale_of_readers_x1.1": _node("attention", "attend_shared", scale=1.1),
        "keys_of_another_layer": _node("attention", "attend_shared", cache=earliest),
    }
    return {
        **(of_readers if params["num_kv_shared_layers"] else {}),
        "eps_x10": _param(rms_norm_eps=2e-2),
        "rope_theta_x1.1": _param(rope_theta=370.7),
        "rope_local_theta_x1.1": _param(rope_local_theta=47.3),
        "window-1": _param(sliding_window=window - 1),
        "window+1": _param(sliding_window=window + 1),
        "softcap_x1.1": _param(final_logit_softcap=1.1 * float(str(params["final_logit_softcap"]))),
        "less_sparse": _param(activation_sparsity=[0.8, *dense[1:]]),
        "not_sparse": _param(activation_sparsity=dense),
        "rope_pairs": {
            "overlay": {
                "blocks": {"attention": {"nodes": {f"{x}_rope": {"layout": "interleaved"} for x in ("q", "k")}}}
            }
        },
        "scale_x1.1": _node("attention", "attend", scale=1.1),
        "eps_of_values": _node("attention", "v_norm", eps=1.0),
        "magnitude_floor": _node("project", "floored", min=100.0),
        "router_not_scaled": _node("modalities", "scaled", factor=1.0),
        "sublayers_not_halved": _node("layer", "after_attn", scale=1.0),
        "erf_gelu": _param(activation="gelu"),
        "per_layer_not_halved": {"overlay": {"graph": {"nodes": {"per_layer": {"scale": 1.0}}}}},
    }


def _gemma3n(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": [76, 68, 76, 52, 76, 68], "num_layers": 6,
        "num_heads": 4, "num_kv_heads": 2, "head_dim": 10, "max_seq_len": 101, "sliding_window": 7,
        "layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL, LOCAL, LOCAL], "rope_theta": 337.0, "rope_local_theta": 43.0,
        "num_kv_shared_layers": 3, "activation_sparsity": [0.9, 0.0, 0.7, 0.0, 0.8, 0.0], "num_streams": 4,
        "laurel_rank": 6, "per_layer_vocab_size": VOCAB, "per_layer_size": 16, "final_logit_softcap": 3.0,
        "rms_norm_eps": 2e-3, "tie_word_embeddings": True, **changes,
    }  # fmt: skip
    return Family(
        name=name, spec="gemma3n", config="Gemma3nTextConfig", model="Gemma3nForCausalLM", kwargs=_kwargs(params),
        params=params, eps="rms_norm_eps", seed=seed, is_sharded=name == "gemma3n", mistakes=_mistakes(params),
    )  # fmt: skip


# The square roots of both hidden sizes are whole, since transformers rounds them to float32 in its float64 run.
STREAMS: tuple[Family, ...] = (
    _gemma3n("gemma3n"),
    _gemma3n(
        "gemma3n_own_keys", num_layers=3, intermediate_size=[76, 68, 52], layer_types=[LOCAL, GLOBAL, LOCAL],
        num_kv_shared_layers=0, activation_sparsity=[0.9, 0.7, 0.0], num_streams=3, tie_word_embeddings=False,
    ),
)  # fmt: skip
