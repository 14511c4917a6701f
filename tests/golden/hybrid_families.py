"""Families that mix attention with recurrences of several kinds, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family

_KEYS: Mapping[str, str] = {
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads",
    "max_seq_len": "max_position_embeddings", "num_experts_per_token": "num_experts_per_tok",
}  # fmt: skip
_SIZES: Mapping[str, Value] = {
    "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 44, "num_heads": 6, "num_kv_heads": 3,
    "max_seq_len": 101, "tie_word_embeddings": False,
}  # fmt: skip
_LINEAR, _FULL = "linear_attention", "full_attention"

Change: TypeAlias = Mapping[str, Mapping[str, Value]]


def _param(**changes: Value) -> Change:
    return {"params": changes}


def _node(block: str, node: str, **changes: Value) -> Change:
    """Fields of one node of a block."""
    return {"overlay": {"blocks": {block: {"nodes": {node: changes}}}}}


def _kwargs(params: Mapping[str, Value], keys: Mapping[str, str]) -> dict[str, object]:
    """The keys of transformers for our params."""
    kwargs: dict[str, object] = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
    for name, value in params.items():
        if name == "rope_theta":
            kwargs["rope_parameters"] = {"rope_type": "default", "rope_theta": value}
        else:
            kwargs[keys.get(name, _KEYS.get(name, name))] = value
    return kwargs


_MIXER: Mapping[str, Change] = {
    "no_activation_after_conv": _node("mixer", "conv1d", activation="identity"),
    "step_not_softplus": _node("mixer", "soft_dt", kind="exp"),
    "log_decay_taken_as_it_is": _node("mixer", "scan", decay_form="log"),
    "read_scaled": _node("mixer", "scan", scale=1.1),
}


def _in_block(changes: Mapping[str, Change], block: str) -> dict[str, Change]:
    """The same changes to a block of another name."""
    return {
        name: {"overlay": {"blocks": {block: change["overlay"]["blocks"]["mixer"]}}}  # type: ignore[index]
        for name, change in changes.items()
    }


def _parallel(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "num_layers": 2, "head_dim": 14, "rope_theta": 337.0, "rms_norm_eps": 2e-3, "attention_dropout": 0.0,
        "attention_bias": False, "mlp_bias": False, "mamba_expand": 2, "ssm_size": 80, "num_mamba_heads": 8,
        "mamba_head_dim": 10, "num_groups": 2, "state_size": 7, "conv_kernel": 3, "chunk_size": 8,
        "time_step_limit": [0.3, 0.9], "mamba_norm": True, "norm_before_gate": True, "use_conv_bias": True,
        "mamba_bias": False, "mamba_out_bias": False, "embedding_multiplier": 1.7, "lm_head_multiplier": 0.8,
        "attention_in_multiplier": 1.3, "attention_out_multiplier": 0.7, "key_multiplier": 1.4,
        "ssm_in_multiplier": 0.9, "ssm_out_multiplier": 1.2, "ssm_multipliers": [1.1, 0.8, 1.3, 0.7, 1.6],
        "mlp_multipliers": [1.5, 0.6], **changes,
    }  # fmt: skip
    keys = {
        "ssm_size": "mamba_d_ssm", "num_mamba_heads": "mamba_n_heads", "mamba_head_dim": "mamba_d_head",
        "num_groups": "mamba_n_groups", "state_size": "mamba_d_state", "conv_kernel": "mamba_d_conv",
        "chunk_size": "mamba_chunk_size", "mamba_norm": "mamba_rms_norm",
        "norm_before_gate": "mamba_norm_before_gate", "use_conv_bias": "mamba_conv_bias",
        "mamba_bias": "mamba_proj_bias", "mamba_out_bias": "projectors_bias",
    }  # fmt: skip
    multipliers = {
        f"{key}_x1.1": _param(**{key: 1.1 * float(str(params[key]))}) for key in params if key.endswith("_multiplier")
    }
    vectors: dict[str, Change] = {}
    for key in ("ssm_multipliers", "mlp_multipliers"):
        values = params[key]
        assert isinstance(values, list)
        for index in range(len(values)):
            other: list[Value] = [float(str(value)) * (1.1 if at == index else 1.0) for at, value in enumerate(values)]
            vectors[f"{key}_{index}"] = _param(**{key: other})
    return Family(
        name=name, spec="falcon_h1", config="FalconH1Config", model="FalconH1ForCausalLM",
        kwargs=_kwargs(params, keys), params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            **_MIXER, **multipliers, **vectors,
            **({"gate_on_the_other_side": _param(norm_before_gate=not params["norm_before_gate"]),
                "norm_over_all_groups": _node("mixer", "norm", num_groups=1)} if params["mamba_norm"] else {}),
            "one_branch_after_the_other": _node("layer", "attention_in", **{"in": "ssm_out"}),
        },
    )  # fmt: skip


def _pattern(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "layer_types": [_LINEAR, "moe", _FULL, "mlp"], "head_dim": 14, "layer_norm_eps": 2e-3,
        "attention_dropout": 0.0, "num_mamba_heads": 8, "mamba_head_dim": 10, "num_groups": 2, "state_size": 7,
        "conv_kernel": 3, "chunk_size": 8, "time_step_min": 0.4, "use_bias": False, "use_conv_bias": True,
        "mlp_bias": False, "num_experts": 12, "num_experts_per_token": 3, "expert_width": 20, "shared_width": 26,
        "latent_size": None, "num_expert_groups": 4, "top_expert_groups": 2, "normalise_router_weights": True,
        "router_scale": 1.7, **changes,
    }  # fmt: skip
    keys = {
        "layer_types": "layers_block_type", "layer_norm_eps": "layer_norm_epsilon",
        "num_mamba_heads": "mamba_num_heads", "num_groups": "n_groups", "state_size": "ssm_state_size",
        "num_experts": "n_routed_experts",
        "expert_width": "moe_intermediate_size", "shared_width": "moe_shared_expert_intermediate_size",
        "latent_size": "moe_latent_size", "num_expert_groups": "n_group", "top_expert_groups": "topk_group",
        "normalise_router_weights": "norm_topk_prob", "router_scale": "routed_scaling_factor",
    }  # fmt: skip
    layers = params["layer_types"]
    assert isinstance(layers, list)
    of_experts: dict[str, Change] = {
        "one_expert_more": _param(num_experts_per_token=4),
        "all_groups": _param(top_expert_groups=params["num_expert_groups"]),
        "other_normalisation": _param(normalise_router_weights=not params["normalise_router_weights"]),
        "router_scale": _param(router_scale=1.8),
        "experts_relu": _node("moe", "experts", activation="relu"),
    }
    return Family(
        name=name, spec="nemotron_h", config="NemotronHConfig", model="NemotronHForCausalLM",
        kwargs=_kwargs(params, keys), params=params, eps="layer_norm_eps", seed=seed,
        mistakes={
            **_in_block(_MIXER, "mamba"),
            "norm_over_all_groups": _node("mamba", "norm", num_groups=1),
            "least_step": _param(time_step_min=0.36),
            "relu": _node("mlp", "act_fn", kind="relu"),
            **(of_experts if "moe" in layers else {}),
        },
    )  # fmt: skip


def _lightning(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "num_layers": 3, "layer_types": [_LINEAR, _FULL, _LINEAR], "head_dim": 14, "rope_theta": 337.0,
        "rms_norm_eps": 2e-3, "attention_dropout": 0.0, "block_size": 8, "num_experts": 5, "num_experts_per_token": 2,
        "sliding_window": None, "full_alpha": 1.3, "full_beta": 0.8, "linear_alpha": 0.9, "linear_beta": 1.2,
        "mlp_alpha": 1.4, "mlp_beta": 0.7, **changes,
    }  # fmt: skip
    layers = params["layer_types"]
    assert isinstance(layers, list)
    factors = [key for key in params if key.endswith(("_alpha", "_beta"))]
    keys = {key: f"{key.replace('full_', 'full_attn_').replace('linear_', 'linear_attn_')}_factor" for key in factors}
    return Family(
        name=name, spec="minimax", config="MiniMaxConfig", model="MiniMaxForCausalLM",
        kwargs=_kwargs(params, {**keys, "num_experts": "num_local_experts"}), params=params, eps="rms_norm_eps",
        seed=seed, derived=("slope_rate", "query_decay", "key_decay", "diagonal_decay"),
        mistakes={
            **{f"{key}_x1.1": _param(**{key: 1.1 * float(str(params[key]))}) for key in factors},
            **({"decay_of_layer_0": {"overlay": {"blocks": {"lightning": {"params": {"slowing": 1.0}}}}}}
               if _LINEAR in layers[1:] else {}),
            "slower_decay": _node("lightning", "log_decay", ratio="0.9 * ratio"),
            "norm_eps": _node("lightning", "norm", eps=1e-2),
            "not_activated": _node("lightning", "act_fn", kind="identity"),
            "gate_tanh": _node("lightning", "gate", kind="tanh"),
            "one_expert_more": _param(num_experts_per_token=3),
            "weights_not_normalised": _node("moe", "gate", normalise=False),
            "residual_not_normed": _node("layer", "kept", **{"in": "x"}),
            "window": _param(sliding_window=8 if params["sliding_window"] else 36),
        },
    )  # fmt: skip


_DELTA: Mapping[str, Change] = {
    "keys_of_any_length": _node("mixer", "k", eps=0.1),
    "queries_unscaled": _node("mixer", "scan", scale=1.0),
    "no_activation_after_conv": _node("mixer", "conv1d", activation="identity"),
    "strength_tanh": _node("mixer", "opened", kind="tanh"),
    "decay_inverted": _node("mixer", "log_decay", factor=-0.8),
}


def _negative_delta(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **_SIZES, "num_layers": 3, "layer_types": [_LINEAR, _FULL, _LINEAR], "rope_theta": 337.0, "rms_norm_eps": 2e-3,
        "attention_bias": False, "attention_dropout": 0.0, "num_key_heads": 3, "num_value_heads": 6, "key_head_dim": 7,
        "value_head_dim": 5, "conv_kernel": 3, "allows_negative": True, **changes,
    }  # fmt: skip
    keys = {
        "num_key_heads": "linear_num_key_heads", "num_value_heads": "linear_num_value_heads",
        "key_head_dim": "linear_key_head_dim", "value_head_dim": "linear_value_head_dim",
        "conv_kernel": "linear_conv_kernel_dim", "allows_negative": "linear_allow_neg_eigval",
    }  # fmt: skip
    return Family(
        name=name, spec="olmo_hybrid", config="OlmoHybridConfig", model="OlmoHybridForCausalLM",
        kwargs=_kwargs(params, keys), params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            **_in_block(_DELTA, "delta_net"),
            "norm_eps": _node("delta_net", "o_norm", eps=1e-2),
            "gate_sigmoid": _node("delta_net", "gate", kind="sigmoid"),
            "other_reach": _param(allows_negative=not params["allows_negative"]),
            "norm_before_attention": {"overlay": {"blocks": {"layer": {"nodes": {
                "post_attention_layernorm": {"in": "x"}, "self_attn": {"in": "post_attention_layernorm"},
                "after_attn": {"in": ["x", "self_attn"]},
            }}}}},
        },
    )  # fmt: skip


def _channel_delta(name: str, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        **{key: value for key, value in _SIZES.items() if key != "tie_word_embeddings"}, "num_kv_heads": 6,
        "num_layers": 3, "layer_types": [_LINEAR, _FULL, _LINEAR], "mlp_types": ["dense", "sparse", "sparse"],
        "rms_norm_eps": 2e-3, "q_lora_rank": None, "kv_lora_rank": 18, "nope_head_dim": 10, "rope_head_dim": 6,
        "v_head_dim": 14, "num_delta_heads": 4, "delta_head_dim": 9, "conv_kernel": 3, "expert_width": 20,
        "num_experts": 12, "num_experts_per_token": 3, "num_shared_experts": 2, "num_expert_groups": 4,
        "top_expert_groups": 2, "normalise_router_weights": True, "router_scale": 1.7, "attention_bias": False,
        **changes,
    }  # fmt: skip
    keys = {
        "mlp_types": "mlp_layer_types", "nope_head_dim": "qk_nope_head_dim", "rope_head_dim": "qk_rope_head_dim",
        "num_delta_heads": "linear_num_heads", "delta_head_dim": "linear_head_dim",
        "conv_kernel": "linear_conv_kernel_dim", "expert_width": "moe_intermediate_size",
        "num_experts": "num_local_experts", "num_shared_experts": "n_shared_experts", "num_expert_groups": "n_group",
        "top_expert_groups": "topk_group", "normalise_router_weights": "norm_topk_prob",
        "router_scale": "routed_scaling_factor",
    }  # fmt: skip
    return Family(
        name=name, spec="kimi_linear", config="KimiLinearConfig", model="KimiLinearForCausalLM",
        kwargs=_kwargs(params, keys), params=params, eps="rms_norm_eps", seed=seed,
        mistakes={
            **{key: value for key, value in _in_block(_DELTA, "delta_attention").items() if key != "strength_tanh"},
            "strength_tanh": _node("delta_attention", "beta", kind="tanh"),
            "gate_silu": _node("delta_attention", "gate", kind="silu"),
            "scale_x1.1": _node(
                "attention", "attend", scale="1.1 * attention_mscale / sqrt(nope_head_dim + rope_head_dim)"
            ),
            "latent_eps": _node("attention", "kv_a_layernorm", eps=1e-2),
            "one_expert_more": _param(num_experts_per_token=4),
            "all_groups": _param(top_expert_groups=params["num_expert_groups"]),
            "other_normalisation": _param(normalise_router_weights=not params["normalise_router_weights"]),
            "router_scale": _param(router_scale=1.8),
        },
    )  # fmt: skip


HYBRIDS: tuple[Family, ...] = (
    _parallel("falcon_h1"),
    _parallel("falcon_h1_biases", num_layers=3, attention_bias=True, mlp_bias=True, mamba_bias=True,
              mamba_out_bias=True, norm_before_gate=False),
    _parallel("falcon_h1_no_norm", mamba_norm=False, ssm_size=None, mamba_head_dim=15, use_conv_bias=False,
              tie_word_embeddings=True),
    _pattern("nemotron_h"),
    _pattern("nemotron_h_latent", 1, layer_types=["moe", _LINEAR, _FULL], latent_size=30, use_bias=True, mlp_bias=True,
             normalise_router_weights=False),
    _lightning("minimax"),
    _lightning("minimax_window", 4, num_layers=2, layer_types=[_LINEAR, _FULL], sliding_window=7,
               tie_word_embeddings=True, full_alpha=0.4, linear_alpha=0.3, mlp_alpha=0.5),
    _negative_delta("olmo_hybrid", 2),
    _negative_delta("olmo_hybrid_no_positions", num_layers=2, layer_types=[_LINEAR, _FULL], rope_theta=None,
                    num_key_heads=6, value_head_dim=11, attention_bias=True, allows_negative=False,
                    tie_word_embeddings=True),
    _channel_delta("kimi_linear"),
    _channel_delta("kimi_linear_low_rank", num_layers=2, layer_types=[_FULL, _LINEAR], mlp_types=["sparse", "dense"],
                   q_lora_rank=22, attention_bias=True, normalise_router_weights=False),
)  # fmt: skip
