"""Families with experts and latent attention for the golden table, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family
from .family_keys import LLAMA_KEYS, rope_kwargs

_SIZES: Mapping[str, Value] = {
    "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 44, "num_layers": 2, "num_heads": 6, "num_kv_heads": 3,
    "max_seq_len": 101, "rope_theta": 337.0, "rms_norm_eps": 2e-3, "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}  # fmt: skip


def _kwargs(params: Mapping[str, Value], keys: Mapping[str, str]) -> dict[str, object]:
    """The keys of transformers for our params."""
    return rope_kwargs(params, {**LLAMA_KEYS, "num_experts_per_token": "num_experts_per_tok", **keys})


Change: TypeAlias = Mapping[str, Mapping[str, Value]]


def _param(**changes: Value) -> Change:
    return {"params": changes}


def _node(block: str, node: str, **changes: Value) -> Change:
    """Fields of one node of a block."""
    return {"overlay": {"blocks": {block: {"nodes": {node: changes}}}}}


_ATTENTION: Mapping[str, Change] = {
    "eps_x10": _param(rms_norm_eps=2e-2),
    "rope_theta_x1.1": _param(rope_theta=370.7),
    "scale_x1.1": _node("attention", "attend", scale="1.1 / sqrt(head_dim)"),
    "q_rope_interleaved": _node("attention", "q_rope", layout="interleaved"),
    "k_rope_interleaved": _node("attention", "k_rope", layout="interleaved"),
}


def _mixtral(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "head_dim": 14, "num_experts": 5, "num_experts_per_token": 2, "sliding_window": None, **changes,
    }  # fmt: skip
    return Family(
        name=name, spec="mixtral", config="MixtralConfig", model="MixtralForCausalLM",
        kwargs=_kwargs(params, {"num_experts": "num_local_experts"}), params=params, eps="rms_norm_eps",
        is_sharded=name == "mixtral", seed=seed,
        mistakes={
            **_ATTENTION,
            "one_expert_more": _param(num_experts_per_token=int(str(params["num_experts_per_token"])) + 1),
            "one_expert_less": _param(num_experts_per_token=int(str(params["num_experts_per_token"])) - 1),
            "weights_not_normalised": _node("moe", "gate", normalise=False),
            "sigmoid_scores": _node("moe", "gate", score="sigmoid"),
            "window": _param(sliding_window=8 if params["sliding_window"] else 36),
        },
    )  # fmt: skip


_DEEPSEEK_KEYS: Mapping[str, str] = {
    "expert_width": "moe_intermediate_size", "num_dense_layers": "first_k_dense_replace",
    "nope_head_dim": "qk_nope_head_dim", "rope_head_dim": "qk_rope_head_dim", "num_experts": "n_routed_experts",
    "num_shared_experts": "n_shared_experts", "num_expert_groups": "n_group", "top_expert_groups": "topk_group",
    "normalise_router_weights": "norm_topk_prob", "router_scale": "routed_scaling_factor",
    "rope_interleaved": "rope_interleave",
}  # fmt: skip
_LATENT_SCALE_WRONG = "1.1 * attention_mscale * attention_mscale / sqrt(nope_head_dim + rope_head_dim)"
_YARN: Mapping[str, Value] = {
    "rope_scaling": "yarn", "rope_factor": 8.0, "rope_original_max_seq_len": 16, "rope_beta_fast": 9.0,
    "rope_beta_slow": 0.5, "rope_mscale": 0.7, "rope_mscale_all_dim": 0.4,
}  # fmt: skip


def _deepseek_v3(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **{key: value for key, value in _SIZES.items() if key != "attention_dropout"}, "num_kv_heads": 6,
        "num_layers": 3, "expert_width": 28, "num_dense_layers": 1,
        "q_lora_rank": 22, "kv_lora_rank": 18, "nope_head_dim": 10, "rope_head_dim": 6, "v_head_dim": 14,
        "num_experts": 12, "num_experts_per_token": 3, "num_shared_experts": 2, "num_expert_groups": 4,
        "top_expert_groups": 2, "normalise_router_weights": True, "router_scale": 1.7, "rope_interleaved": True,
        "attention_bias": False, "num_mtp_layers": 0, **_YARN, **changes,
    }  # fmt: skip
    return Family(
        name=name, spec="deepseek_v3", config="DeepseekV3Config", model="DeepseekV3ForCausalLM",
        kwargs=_kwargs(params, _DEEPSEEK_KEYS), params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            "eps_x10": _param(rms_norm_eps=2e-2),
            "rope_theta_x1.1": _param(rope_theta=370.7),
            "rope_pairs": _param(rope_interleaved=not params["rope_interleaved"]),
            "scale_x1.1": _node("attention", "attend", scale=_LATENT_SCALE_WRONG),
            "one_expert_more": _param(num_experts_per_token=4),
            "all_groups": _param(top_expert_groups=params["num_expert_groups"]),
            "group_by_best": _node("moe", "gate", group_score="max"),
            "softmax_scores": _node("moe", "gate", score="softmax"),
            "other_normalisation": _param(normalise_router_weights=not params["normalise_router_weights"]),
            "router_scale": _param(router_scale=1.8),
        },
    )  # fmt: skip


def _deepseek_v2(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **{key: value for key, value in _SIZES.items() if key != "attention_dropout"}, "num_kv_heads": 6,
        "num_layers": 3, "expert_width": 28, "num_dense_layers": 1,
        "q_lora_rank": 22, "kv_lora_rank": 18, "nope_head_dim": 10, "rope_head_dim": 6, "v_head_dim": 14,
        "num_experts": 12, "num_experts_per_token": 3, "num_shared_experts": 2, "num_expert_groups": 4,
        "top_expert_groups": 2, "routing": "group_limited", "router_scale": 1.7, "attention_bias": False, **_YARN,
        **changes,
    }  # fmt: skip
    kwargs = _kwargs(params, {**_DEEPSEEK_KEYS, "routing": "topk_method"})
    kwargs["topk_method"] = {"group_limited": "group_limited_greedy"}.get(str(params["routing"]), params["routing"])
    return Family(
        name=name, spec="deepseek_v2", config="DeepseekV2Config", model="DeepseekV2ForCausalLM", kwargs=kwargs,
        params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            "eps_x10": _param(rms_norm_eps=2e-2),
            "rope_pairs": _param(rope_interleaved=False),
            "scale_x1.1": _node("attention", "attend", scale=_LATENT_SCALE_WRONG),
            "one_expert_more": _param(num_experts_per_token=4),
            **({} if params["routing"] == "greedy" else {"other_routing": _param(routing="greedy")}),
            "weights_normalised": _param(normalise_router_weights=True),
            "router_scale": _param(router_scale=1.8),
        },
    )  # fmt: skip


def _qwen3_moe(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "num_layers": 3, "head_dim": 14, "expert_width": 28, "num_experts": 7, "num_experts_per_token": 3,
        "normalise_router_weights": True, "sparse_step": 1, "dense_layers": [1], "use_sliding_window": False,
        "attention_bias": False, **changes,
    }  # fmt: skip
    keys = {
        "expert_width": "moe_intermediate_size", "normalise_router_weights": "norm_topk_prob",
        "sparse_step": "decoder_sparse_step", "dense_layers": "mlp_only_layers",
    }  # fmt: skip
    return Family(
        name=name, spec="qwen3_moe", config="Qwen3MoeConfig", model="Qwen3MoeForCausalLM",
        kwargs=_kwargs(params, keys), params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            **_ATTENTION,
            "one_expert_more": _param(num_experts_per_token=4),
            "other_normalisation": _param(normalise_router_weights=not params["normalise_router_weights"]),
            "eps_of_queries_x10": _node("attention", "q_norm", eps=2e-2),
        },
    )  # fmt: skip


def _olmoe(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "num_experts": 7, "num_experts_per_token": 3, "normalise_router_weights": False, "clip_qkv": 0.8,
        "attention_bias": False, **changes,
    }  # fmt: skip
    return Family(
        name=name, spec="olmoe", config="OlmoeConfig", model="OlmoeForCausalLM",
        kwargs=_kwargs(params, {"normalise_router_weights": "norm_topk_prob"}), params=params, eps="rms_norm_eps",
        seed=seed, mistakes={
            **_ATTENTION,
            "one_expert_more": _param(num_experts_per_token=4),
            "other_normalisation": _param(normalise_router_weights=not params["normalise_router_weights"]),
            "not_clipped": _param(clip_qkv=None if params["clip_qkv"] else 0.8),
        },
    )  # fmt: skip


def _gpt_oss(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "num_layers": 3, "head_dim": 14, "num_experts": 5, "num_experts_per_token": 2, "swiglu_limit": 0.9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 7,
        "attention_bias": True, "rope_truncate": False, **{k: v for k, v in _YARN.items() if "mscale" not in k},
        **changes,
    }  # fmt: skip
    kwargs = _kwargs(params, {"num_experts": "num_local_experts"})
    rope = kwargs["rope_parameters"]
    assert isinstance(rope, dict)
    rope["truncate"] = kwargs.pop("rope_truncate")
    return Family(
        name=name, spec="gpt_oss", config="GptOssConfig", model="GptOssForCausalLM", kwargs=kwargs, params=params,
        eps="rms_norm_eps", seed=seed,
        mistakes={
            "eps_x10": _param(rms_norm_eps=2e-2),
            "rope_theta_x1.1": _param(rope_theta=370.7),
            "scale_x1.1": _node("attention", "attend", scale="1.1 / sqrt(head_dim)"),
            "window": _param(sliding_window=8),
            "truncated_ramp": _param(rope_truncate=True),
            "one_expert_more": _param(num_experts_per_token=3),
            "scores_over_all": _node("moe", "router", score_over="all"),
            "halves": _node("moe", "experts", packing="halves"),
            "limit": _param(swiglu_limit=1.1),
            "no_offset": _node("moe", "experts", up_offset=0.0),
            "silu": _node("moe", "experts", activation="silu"),
        },
    )  # fmt: skip


def _chimera(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **{key: value for key, value in _SIZES.items() if key != "attention_dropout"}, "num_layers": 3,
        "num_heads": 8, "num_kv_heads": 4, "head_dim": 14, "num_experts": 5, "num_experts_per_token": 2,
        "attention_bias": False,
        **changes,
    }  # fmt: skip
    return Family(
        name=name, spec="chimera", config="ChimeraConfig", model="ChimeraForCausalLM",
        kwargs=_kwargs(params, {"num_experts": "num_local_experts"}), params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            "eps_x10": _param(rms_norm_eps=2e-2),
            "rope_theta_x1.1": _param(rope_theta=370.7),
            "scale_x1.1": _node("attention", "attend", scale="1.1 / sqrt(head_dim)"),
            "scale_of_second_x1.1": _node("attention", "attend_noise", scale="1.1 / sqrt(head_dim)"),
            "one_expert_more": _param(num_experts_per_token=3),
            "values_not_paired": _node("attention", "v_pairs", heads=1),
            "lambda_init": _node("attention", "weight", offset=0.2),
            "not_rescaled": _node("attention", "rescaled", factor=1.0),
            "no_head_norm": _node("attention", "groupnorm", head_dim="head_dim"),
        },
    )  # fmt: skip


EXPERTS: tuple[Family, ...] = (
    _chimera("chimera"),
    _chimera("chimera_biases", 5, num_layers=2, num_kv_heads=8, head_dim=10, attention_bias=True),
    _deepseek_v2("deepseek_v2"),
    _deepseek_v2(
        "deepseek_v2_greedy",
        num_layers=2,
        routing="greedy",
        num_expert_groups=None,
        top_expert_groups=None,
        q_lora_rank=None,
        num_dense_layers=0,
        rope_scaling="none",
    ),
    _qwen3_moe("qwen3_moe"),
    _olmoe("olmoe"),
    _gpt_oss("gpt_oss"),
    _deepseek_v3("deepseek_v3"),
    _deepseek_v3(
        "deepseek_v3_plain",
        num_layers=2,
        q_lora_rank=None,
        rope_interleaved=False,
        normalise_router_weights=False,
        attention_bias=True,
        rope_scaling="none",
    ),
    _mixtral("mixtral"),
    _mixtral("mixtral_window", num_layers=3, num_experts=4, num_experts_per_token=3, sliding_window=7),
)
