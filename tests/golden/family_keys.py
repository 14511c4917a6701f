"""From params of ours to the keys of transformers, for families whose rotary keys stand in `rope_parameters`."""

from __future__ import annotations

from collections.abc import Mapping

from llmc.compiler.ops.declaration import Value

LLAMA_KEYS: Mapping[str, str] = {
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads",
    "max_seq_len": "max_position_embeddings",
}  # fmt: skip
_ROPE_KEYS: Mapping[str, str] = {
    "rope_theta": "rope_theta", "rope_scaling": "rope_type", "rope_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor", "rope_high_freq_factor": "high_freq_factor",
    "rope_original_max_seq_len": "original_max_position_embeddings", "rope_short_factor": "short_factor",
    "rope_long_factor": "long_factor", "rope_beta_fast": "beta_fast", "rope_beta_slow": "beta_slow",
    "rope_mscale": "mscale", "rope_mscale_all_dim": "mscale_all_dim", "partial_rotary_factor": "partial_rotary_factor",
}  # fmt: skip


def rope_kwargs(params: Mapping[str, Value], keys: Mapping[str, str]) -> dict[str, object]:
    """Each param under its key of `keys`, or its own name; without scaling, `rope_parameters` is theta alone."""
    kwargs: dict[str, object] = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
    rope: dict[str, object] = {"rope_type": "default"}
    is_unscaled = params.get("rope_scaling") == "none"
    for name, value in params.items():
        if name not in _ROPE_KEYS:
            kwargs[keys.get(name, name)] = value
        elif name == "rope_theta" or not is_unscaled:
            rope[_ROPE_KEYS[name]] = value
    return {**kwargs, "rope_parameters": rope}
