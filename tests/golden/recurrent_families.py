"""Families whose state does not grow with the tokens, or not in all layers, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family
from .hybrid_families import HYBRIDS


def _family(
    name: str, spec: str, config: str, model: str, keys: Mapping[str, str], params: dict[str, Value], seed: int,
    embedding_std: float = 0.3, bias_std: float = 0.3,
) -> Family:  # fmt: skip
    """A record whose `kwargs` are the params under the keys of transformers."""
    kwargs: dict[str, object] = {keys.get(param, param): value for param, value in params.items()}
    rope = {key: kwargs.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in kwargs}
    if rope:
        kwargs["rope_parameters"] = {"rope_type": "default", **rope}
    return Family(
        name=name, spec=spec, config=config, model=model, params=params, is_sharded=name.endswith("_biases"),
        kwargs={**kwargs, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": None},
        eps=next(name for name in ("norm_eps", "layer_norm_eps", "rms_norm_eps") if name in params), seed=seed,
        embedding_std=embedding_std, bias_std=bias_std,
    )  # fmt: skip


_KEYS = {"num_layers": "num_hidden_layers", "layer_norm_eps": "layer_norm_epsilon", "num_groups": "n_groups"}


def _selective(name: str, spec: str = "mamba", model: str = "Mamba", *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "num_layers": 2, "state_size": 7, "conv_kernel": 4, "expand": 2,
        "time_step_rank": 5, "layer_norm_eps": 2e-3, "use_bias": False, "use_conv_bias": True,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    return _family(name, spec, f"{model}Config", f"{model}ForCausalLM", _KEYS, params, seed)


def _dual(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "num_layers": 2, "state_size": 7, "conv_kernel": 3, "expand": 2,
        "num_heads": 8, "head_dim": 15, "num_groups": 2, "chunk_size": 8, "layer_norm_eps": 2e-3, "use_bias": False,
        "use_conv_bias": True, "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    return _family(name, "mamba2", "Mamba2Config", "Mamba2ForCausalLM", _KEYS, params, seed)


def _alternating(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 4, "num_heads": 5,
        "head_dim": 10, "sliding_window": 6, "max_seq_len": 101, "state_size": 7, "conv_kernel": 3, "expand": 1,
        "time_step_rank": 5, "layer_norm_eps": 2e-3, "use_bias": False, "use_conv_bias": True,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    keys = {**_KEYS, "num_heads": "num_attention_heads", "max_seq_len": "max_position_embeddings"}
    return _family(name, "hydra", "HydraConfig", "HydraForCausalLM", keys, params, seed)


def _delta(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 3, "head_dim": 12,
        "decay_rank": 5, "learning_rate_rank": 6, "value_rank": 7, "gate_rank": 9, "norm_eps": 2e-3, "norm_bias": True,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    keys = {
        "num_layers": "num_hidden_layers", "decay_rank": "decay_low_rank_dim", "learning_rate_rank": "a_low_rank_dim",
        "value_rank": "v_low_rank_dim", "gate_rank": "gate_low_rank_dim",
    }  # fmt: skip
    return _family(name, "rwkv7", "RWKV7Config", "RWKV7ForCausalLM", keys, params, seed)


def _gated_linear(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 3, "num_heads": 3,
        "expand_k": 0.5, "expand_v": 1.0, "norm_eps": 2e-3, "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    keys = {"num_layers": "num_hidden_layers"}
    return _family(name, "gla", "GLAConfig", "GLAForCausalLM", keys, params, seed)


_ATTENTION_KEYS = {
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads",
    "max_seq_len": "max_position_embeddings",
}  # fmt: skip


def _short_convolutions(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "adjusts_width": True, "width_factor": 1.3,
        "width_multiple": 7, "num_layers": 4, "num_heads": 6, "num_kv_heads": 3, "max_seq_len": 101,
        "rope_theta": 337.0, "rms_norm_eps": 2e-3, "conv_kernel": 3, "conv_bias": False, "tie_word_embeddings": False,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"], **changes,
    }  # fmt: skip
    keys = {
        **_ATTENTION_KEYS, "adjusts_width": "block_auto_adjust_ff_dim", "width_factor": "block_ffn_dim_multiplier",
        "width_multiple": "block_multiple_of", "rms_norm_eps": "norm_eps", "conv_kernel": "conv_L_cache",
    }  # fmt: skip
    return _family(name, "lfm2", "Lfm2Config", "Lfm2ForCausalLM", keys, params, seed)


def _gated_delta(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 44, "expert_width": 22, "shared_width": 26,
        "num_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_heads": 6,
        "num_kv_heads": 3, "head_dim": 14, "num_key_heads": 3, "num_value_heads": 6, "key_head_dim": 7,
        "value_head_dim": 5, "conv_kernel": 3, "num_experts": 5, "num_experts_per_token": 2, "dense_layers": [1],
        "max_seq_len": 101, "rms_norm_eps": 2e-3, "rope_theta": 337.0, "partial_rotary_factor": 0.6,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    keys = {
        **_ATTENTION_KEYS, "expert_width": "moe_intermediate_size", "shared_width": "shared_expert_intermediate_size",
        "num_key_heads": "linear_num_key_heads", "num_value_heads": "linear_num_value_heads",
        "key_head_dim": "linear_key_head_dim", "value_head_dim": "linear_value_head_dim",
        "conv_kernel": "linear_conv_kernel_dim", "num_experts_per_token": "num_experts_per_tok",
        "dense_layers": "mlp_only_layers",
    }  # fmt: skip
    return _family(name, "qwen3_next", "Qwen3NextConfig", "Qwen3NextForCausalLM", keys, params, seed, 1.0)


def _shared_transformers(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "adapter_rank": 5, "num_mem_blocks": 2,
        "layer_types": ["hybrid", "linear_attention", "hybrid"], "num_layers": 3, "num_heads": 6,
        "num_kv_heads": 6, "mamba_expand": 2, "num_mamba_heads": 8, "num_groups": 2, "state_size": 7, "conv_kernel": 3,
        "time_step_min": 0.4, "max_seq_len": 101, "rope_theta": 337.0, "rms_norm_eps": 2e-3,
        "use_shared_attention_adapter": False, "use_mem_rope": False, "tie_word_embeddings": True, **changes,
    }  # fmt: skip
    keys = {
        **_ATTENTION_KEYS, "layer_types": "layers_block_type", "num_mamba_heads": "n_mamba_heads",
        "num_groups": "mamba_ngroups", "state_size": "mamba_d_state", "conv_kernel": "mamba_d_conv",
    }  # fmt: skip
    return _family(name, "zamba2", "Zamba2Config", "Zamba2ForCausalLM", keys, params, seed, bias_std=4.0)


def _periodic_attention(name: str, *, seed: int = 0, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 44, "num_layers": 4, "num_heads": 6,
        "num_kv_heads": 3, "attention_period": 3, "attention_offset": 1, "num_experts": 3, "num_experts_per_token": 2,
        "expert_period": 2, "expert_offset": 1, "max_seq_len": 101, "state_size": 7, "conv_kernel": 4, "expand": 2,
        "time_step_rank": 5, "layer_norm_eps": 2e-3, "use_bias": False, "use_conv_bias": True,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    keys = {
        **_ATTENTION_KEYS, "attention_period": "attn_layer_period", "attention_offset": "attn_layer_offset",
        "num_experts_per_token": "num_experts_per_tok", "expert_period": "expert_layer_period",
        "expert_offset": "expert_layer_offset", "state_size": "mamba_d_state", "conv_kernel": "mamba_d_conv",
        "expand": "mamba_expand", "time_step_rank": "mamba_dt_rank", "layer_norm_eps": "rms_norm_eps",
        "use_bias": "mamba_proj_bias", "use_conv_bias": "mamba_conv_bias",
    }  # fmt: skip
    return _family(name, "jamba", "JambaConfig", "JambaForCausalLM", keys, params, seed, 1.0)


RECURRENT: tuple[Family, ...] = (
    _selective("mamba_biases", use_bias=True),
    _selective("mamba_tied", seed=1, num_layers=3, conv_kernel=2, expand=1, use_conv_bias=False,
               tie_word_embeddings=True),
    _selective("falcon_mamba", "falcon_mamba", "FalconMamba", mixer_rms_eps=3e-3),
    _dual("mamba2_biases", use_bias=True),
    _dual("mamba2_limits", num_layers=3, num_groups=4, time_step_limit=[0.3, 0.9], use_conv_bias=False,
          tie_word_embeddings=True),
    _alternating("hydra"),
    _alternating("hydra_wide", num_layers=3, expand=2, sliding_window=9, tie_word_embeddings=True),
    _short_convolutions("lfm2"),
    _short_convolutions("lfm2_conv_biases", conv_bias=True, adjusts_width=False, tie_word_embeddings=True),
    _gated_delta("qwen3_next", seed=1),
    _gated_delta("qwen3_next_dense", num_layers=2, layer_types=["full_attention", "linear_attention"],
                 dense_layers=[0], tie_word_embeddings=True),
    _shared_transformers("zamba2", num_layers=2, layer_types=["hybrid", "hybrid"], num_mem_blocks=1),
    _shared_transformers("zamba2_adapters", seed=2, use_shared_attention_adapter=True, use_mem_rope=True,
                         num_mem_blocks=1),
    _periodic_attention("jamba", seed=2),
    _periodic_attention("jamba_biases", seed=4, use_bias=True, num_layers=3, attention_period=2, attention_offset=0),
    _delta("rwkv7", seed=1),
    _delta("rwkv7_tied", num_layers=2, head_dim=20, norm_bias=False, tie_word_embeddings=True),
    _gated_linear("gla", seed=2),
    _gated_linear("gla_tied", seed=3, num_layers=2, num_heads=5, expand_k=1.5, expand_v=2.0, tie_word_embeddings=True),
    *HYBRIDS,
)  # fmt: skip
each_recurrent = pytest.mark.parametrize("golden", RECURRENT, ids=lambda family: family.name, indirect=True)
