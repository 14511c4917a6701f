"""Families whose layers see chunks of the context, or all of it without positions, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family
from .family_keys import LLAMA_KEYS, rope_kwargs

_KEYS: Mapping[str, str] = {
    **LLAMA_KEYS, "dense_width": "intermediate_size_mlp",
    "num_experts": "num_local_experts", "num_experts_per_token": "num_experts_per_tok",
    "moe_step": "interleave_moe_layer_step", "nope_step": "no_rope_layer_interval", "rope_layers": "no_rope_layers",
    "chunk_size": "attention_chunk_size", "temperature_tuning": "attn_temperature_tuning",
    "temperature_scale": "attn_scale", "temperature_period": "floor_scale",
}  # fmt: skip


def _mistakes(params: Mapping[str, Value]) -> dict[str, Mapping[str, Mapping[str, Value]]]:
    """By name, the params or the part of the spec that are wrong."""
    changes: dict[str, dict[str, Value]] = {
        "eps_x10": {"rms_norm_eps": 2e-2},
        "rope_theta_x1.1": {"rope_theta": 370.7},
        "chunk-1": {"chunk_size": int(str(params["chunk_size"])) - 1},
        "chunk+1": {"chunk_size": int(str(params["chunk_size"])) + 1},
        "no_chunk": {"chunk_size": None},
        "other_qk_norm": {"use_qk_norm": not params["use_qk_norm"]},
        "one_expert_more": {"num_experts_per_token": int(str(params["num_experts_per_token"])) + 1},
    }
    if params["temperature_tuning"]:
        changes["no_temperature"] = {"temperature_tuning": False}
        changes["temperature_x1.1"] = {"temperature_scale": 1.1 * float(str(params["temperature_scale"]))}
        changes["temperature_period+1"] = {"temperature_period": int(str(params["temperature_period"])) + 1}
    overlays: dict[str, dict[str, dict[str, Value]]] = {
        "scale_x1.1": {"attention": {"attend": {"scale": "1.1 / sqrt(head_dim)"}}},
        "window_for_chunk": {"attention": {"attend": {"window": "chunk_size if is_chunked else null", "chunk": None}}},
        "rope_halves": {"attention": {"q_rope": {"layout": "half"}, "k_rope": {"layout": "half"}}},
        "rope_on_q_only": {"attention": {"k_rope": {"when": False}}},
        "softmax_scores": {"moe": {"router": {"score": "softmax"}}},
        "weighted_outputs": {"moe": {"experts": {"weighs": "output"}}},
        "interleaved_gates": {"moe": {"experts": {"packing": "interleaved"}}},
    }
    if params["temperature_tuning"]:
        overlays["temperature_from_0"] = {"attention": {"q_scaled": {"offset": 0}}}
    return {
        **{name: {"params": change} for name, change in changes.items()},
        **{
            name: {"overlay": {"blocks": {block: {"nodes": nodes} for block, nodes in blocks.items()}}}
            for name, blocks in overlays.items()
        },
    }


def _llama4(name: str, seed: int = 0, inert: tuple[str, ...] = (), **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 44, "dense_width": 76, "num_layers": 4,
        "num_heads": 6, "num_kv_heads": 3, "head_dim": 14, "num_experts": 5, "num_experts_per_token": 1,
        "moe_step": 2, "nope_step": 3, "chunk_size": 11, "use_qk_norm": True, "temperature_tuning": True,
        "temperature_scale": 0.3, "temperature_period": 9, "max_seq_len": 101, "rope_theta": 337.0,
        "rms_norm_eps": 2e-3, "attention_dropout": 0.0, "attention_bias": False, "tie_word_embeddings": False,
        **changes,
    }  # fmt: skip
    return Family(
        name=name, spec="llama4", config="Llama4TextConfig", model="Llama4ForCausalLM",
        kwargs=rope_kwargs(params, _KEYS), params=params, eps="rms_norm_eps", seed=seed, inert=inert,
        mistakes=_mistakes(params), bias_std=0.1,
    )  # fmt: skip


CHUNKED: tuple[Family, ...] = (
    _llama4("llama4"),
    _llama4(
        "llama4_lists", num_layers=3, rope_layers=[1, 0, 1], moe_layers=[0, 2], num_experts_per_token=2,
        layer_types=["chunked_attention", "chunked_attention", "full_attention"], use_qk_norm=False,
        temperature_tuning=False, attention_bias=True, tie_word_embeddings=True, rope_scaling="llama3",
        rope_factor=8.0, rope_low_freq_factor=1.0, rope_high_freq_factor=1.0, rope_original_max_seq_len=64,
        inert=("layers.1.self_attn.k_proj.bias",),
    ),
)  # fmt: skip
