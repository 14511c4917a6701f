"""Dense decoders and encoders beyond the first seven, for the golden table, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family

_SIZES: Mapping[str, Value] = {
    "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 3, "num_heads": 6, "num_kv_heads": 3,
    "max_seq_len": 101, "rope_theta": 337.0, "attention_dropout": 0.0,
}  # fmt: skip
_KEYS: Mapping[str, str] = {
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads",
    "max_seq_len": "max_position_embeddings", "rope_theta": "rope_parameters.rope_theta",
    "partial_rotary_factor": "rope_parameters.partial_rotary_factor", "rope_scaling": "rope_parameters.rope_type",
    "rope_factor": "rope_parameters.factor", "rope_beta_fast": "rope_parameters.beta_fast",
    "rope_beta_slow": "rope_parameters.beta_slow", "rope_attention_factor": "rope_parameters.attention_factor",
    "rope_original_max_seq_len": "rope_parameters.original_max_position_embeddings", "activation": "hidden_act",
}  # fmt: skip
_SPELLED: Mapping[str, Mapping[str, str]] = {
    "gptj": {"gelu_tanh": "gelu_new"}, "codegen": {"gelu_tanh": "gelu_new"}, "albert": {"gelu_tanh": "gelu_new"},
    "gpt_neox": {"gelu_tanh": "gelu_fast"},
}  # fmt: skip
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def _kwargs(
    spec: str, params: Mapping[str, Value], keys: Mapping[str, str], fixed: Mapping[str, object]
) -> dict[str, object]:
    """The keys of transformers for our params; dotted ones lie in maps."""
    spelled = _SPELLED.get(spec, {"gelu_tanh": "gelu_pytorch_tanh"})
    kwargs: dict[str, object] = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": None, **fixed}
    for name, value in params.items():
        *outer, last = keys.get(name, _KEYS.get(name, name)).split(".")
        holder = kwargs
        for part in outer:
            holder = cast("dict[str, object]", holder.setdefault(part, {}))
        holder[last] = spelled.get(value, value) if name.endswith("activation") and isinstance(value, str) else value
    rope = cast("dict[str, object]", kwargs.get("rope_parameters", {}))
    if "rope_theta" in rope:
        rope.setdefault("rope_type", "default")
    return kwargs


_SCALED = (
    "attention_softcap", "final_logit_softcap", "query_pre_attn_scalar", "embedding_multiplier", "residual_multiplier",
    "attention_multiplier", "logits_scaling", "logit_scale", "clip_qkv", "rope_theta", "rope_local_theta",
    "rope_factor",
)  # fmt: skip
"""Params whose value times 1.1 is a mistake."""
_OTHER: Mapping[str, Value] = {
    "gelu": "gelu_tanh", "gelu_tanh": "gelu", "relu": "gelu", "silu": "gelu",
}  # fmt: skip
_INERT = {"llama_dynamic": ("rope_factor",)}
"""Within the trained length a dynamic factor does nothing; test_dense.py goes beyond it."""


def _mistakes(name: str, params: Mapping[str, Value], eps: str) -> dict[str, Mapping[str, Mapping[str, Value]]]:
    """By name, the params or the part of the spec that are wrong."""
    scale = "query_pre_attn_scalar" if "query_pre_attn_scalar" in params else "head_dim"
    factor = next((p for p in ("attention_multiplier", "attention_scale") if p in params), f"1 / sqrt({scale})")
    layout = "half" if name in ("gptj", "codegen", "cohere2") else "interleaved"
    overlays: dict[str, dict[str, Value]] = {"attention_scale_x1.1": {"attend": {"scale": f"1.1 * {factor}"}}}
    if "rope_theta" in params or "rotary_dim" in params:
        overlays["rope_pairs"] = {"q_rope": {"layout": layout}, "k_rope": {"layout": layout}}
    changes: dict[str, dict[str, Value]] = {"eps_x10": {eps: 2e-2}}
    for param in _SCALED:
        value = params.get(param)
        if isinstance(value, int | float) and param not in _INERT.get(name, ()):
            changes[f"{param}_x1.1"] = {param: 1.1 * value if isinstance(value, float) else value + 1}
    for param, step in (("sliding_window", 1), ("local_attention", 2), ("rotary_dim", 2)):
        value = params.get(param)
        if isinstance(value, int):
            changes |= {f"{param}{change:+}": {param: value + change} for change in (-step, step)}
    for param in ("rope_beta_fast", "rope_beta_slow"):
        if isinstance(value := params.get(param), float):
            changes[f"{param}_x4"] = {param: 4 * value}
    for param in ("activation", "head_activation"):
        if (used := params.get(param)) is not None:
            changes[f"other_{param}"] = {param: _OTHER[str(used)]}
    if (fraction := params.get("partial_rotary_factor")) is not None:
        changes["rotary_part"] = {"partial_rotary_factor": 0.6 if fraction != 0.6 else 0.8}
    overlaid: dict[str, Mapping[str, Mapping[str, Value]]] = {
        key: {"overlay": {"blocks": {"attention": {"nodes": nodes}}}} for key, nodes in overlays.items()
    }
    return overlaid | {key: {"params": change} for key, change in changes.items()}


def _family(
    name: str,
    spec: str,
    model: str,
    params: Mapping[str, Value],
    *,
    keys: Mapping[str, str] | None = None,
    fixed: Mapping[str, object] | None = None,
    eps: str = "layer_norm_eps",
    head: str = "ForCausalLM",
    config: str | None = None,
    seed: int = 0,
    embedding_std: float = 0.3,
    bias_std: float = 0.1,
    first_position: int | None = None,
    inert: tuple[str, ...] = (),
) -> Family:
    sizes = {key: value for key, value in _SIZES.items() if key not in params}
    eps_value: Mapping[str, Value] = {} if spec == "opt" else {eps: 2e-3}
    chosen = {key: value for key, value in {**sizes, **eps_value, **params}.items() if value != "absent"}
    return Family(
        name=name, spec=spec, config=f"{config or model}Config", model=f"{model}{head}",
        kwargs=_kwargs(spec, chosen, keys or {}, fixed or {}), params=chosen, eps=eps, is_sharded=name == spec,
        seed=seed, embedding_std=embedding_std, bias_std=bias_std, first_position=first_position,
        inert=inert, mistakes=_mistakes(name, chosen, eps),
    )  # fmt: skip


ABSENT: Value = "absent"
"""In place of a size: this family has none of that name."""

# The square root of Gemma's hidden size is whole, since transformers rounds it to float32 in its float64 run.
DECODERS: tuple[Family, ...] = (
    _family(
        "llama_yarn", "llama", "Llama", eps="rms_norm_eps",
        params={"head_dim": 14, "rope_scaling": "yarn", "rope_factor": 3.7, "rope_original_max_seq_len": 90,
                "rope_beta_fast": 3.0, "rope_beta_slow": 0.6, "tie_word_embeddings": False,
                "attention_bias": False, "mlp_bias": False},
    ),
    _family(
        "llama_dynamic", "llama", "Llama", eps="rms_norm_eps",
        params={"head_dim": 14, "rope_scaling": "dynamic", "rope_factor": 2.3, "tie_word_embeddings": False,
                "attention_bias": False, "mlp_bias": False},
    ),
    _family(
        "diffllama", "diffllama", "DiffLlama", eps="rms_norm_eps",
        params={"head_dim": 14, "num_heads": 8, "num_kv_heads": 4, "tie_word_embeddings": False,
                "attention_bias": False},
    ),
    _family(
        "diffllama_biases", "diffllama", "DiffLlama", eps="rms_norm_eps", seed=5,
        params={"head_dim": 10, "num_heads": 4, "num_kv_heads": 4, "num_layers": 2, "tie_word_embeddings": True,
                "attention_bias": True},
    ),
    _family(
        "qwen2", "qwen2", "Qwen2", eps="rms_norm_eps",
        params={"tie_word_embeddings": True, "use_sliding_window": False, "max_window_layers": 28},
    ),
    _family(
        "qwen2_window", "qwen2", "Qwen2", eps="rms_norm_eps",
        params={"tie_word_embeddings": False, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    _family(
        "qwen3", "qwen3", "Qwen3", eps="rms_norm_eps",
        params={"head_dim": 14, "attention_bias": True, "tie_word_embeddings": False, "use_sliding_window": False,
                "max_window_layers": 28},
    ),
    _family(
        "gemma2", "gemma2", "Gemma2", eps="rms_norm_eps", 
        keys={"activation": "hidden_activation", "attention_softcap": "attn_logit_softcapping",
              "final_logit_softcap": "final_logit_softcapping"},
        params={"hidden_size": 49, "num_heads": 7, "num_kv_heads": 1, "head_dim": 14, "query_pre_attn_scalar": 23,
                "activation": "gelu_tanh", "attention_softcap": 3.0,
                "final_logit_softcap": 5.0, "sliding_window": 6, "tie_word_embeddings": True, "attention_bias": True},
        seed=3,
    ),
    _family(
        "gemma3", "gemma3", "Gemma3", config="Gemma3Text", eps="rms_norm_eps",
        keys={"activation": "hidden_activation", "attention_softcap": "attn_logit_softcapping",
              "final_logit_softcap": "final_logit_softcapping",
              "rope_theta": "rope_parameters.full_attention.rope_theta",
              "rope_scaling": "rope_parameters.full_attention.rope_type",
              "rope_factor": "rope_parameters.full_attention.factor",
              "rope_local_theta": "rope_parameters.sliding_attention.rope_theta"},
        params={"hidden_size": 49, "num_heads": 7, "num_kv_heads": 1, "head_dim": 14, "query_pre_attn_scalar": 90,
                "final_logit_softcap": 4.0, "activation": "gelu_tanh",
                "rope_scaling": "linear", "rope_factor": 2.5,
                "rope_local_theta": 43.0, "sliding_window": 6, "tie_word_embeddings": True,
                "attention_bias": False, "layer_types": [LOCAL, GLOBAL, LOCAL]},
    ),
    _family(
        "olmo2", "olmo2", "Olmo2", eps="rms_norm_eps", params={"attention_bias": False, "tie_word_embeddings": False},
    ),
    _family(
        "starcoder2", "starcoder2", "Starcoder2", keys={"layer_norm_eps": "norm_epsilon"},
        params={"activation": "gelu_tanh", "sliding_window": 7, "use_bias": True, "residual_dropout": 0.0,
                "embedding_dropout": 0.0, "tie_word_embeddings": True},
        seed=0,
    ),
    _family(
        "gpt_neox", "gpt_neox", "GPTNeoX",
        params={"num_kv_heads": ABSENT, "activation": "gelu", "partial_rotary_factor": 0.4, "hidden_dropout": 0.0,
                "attention_bias": True, "use_parallel_residual": True, "tie_word_embeddings": False},
        seed=9,
    ),
    _family(
        "gpt_neox_sequential", "gpt_neox", "GPTNeoX",
        params={"num_kv_heads": ABSENT, "activation": "gelu_tanh", "partial_rotary_factor": 1.0, "hidden_dropout": 0.0,
                "attention_bias": False, "use_parallel_residual": False, "tie_word_embeddings": False, "num_layers": 2},
    ),
    _family(
        "codegen", "codegen", "CodeGen",
        keys={"hidden_size": "n_embd", "intermediate_size": "n_inner", "num_layers": "n_layer", "num_heads": "n_head",
              "max_seq_len": "n_positions", "activation": "activation_function", "attention_dropout": "attn_pdrop",
              "embedding_dropout": "embd_pdrop", "residual_dropout": "resid_pdrop",
              "layer_norm_eps": "layer_norm_epsilon"},
        params={"num_heads": 4, "num_kv_heads": ABSENT, "rope_theta": ABSENT, "rotary_dim": 6,
                "activation": "gelu_tanh", "embedding_dropout": 0.0, "residual_dropout": 0.0,
                "tie_word_embeddings": False},
        seed=0, embedding_std=0.6, bias_std=0.05,
    ),
    _family(
        "gptj", "gptj", "GPTJ",
        keys={"hidden_size": "n_embd", "intermediate_size": "n_inner", "num_layers": "n_layer", "num_heads": "n_head",
              "max_seq_len": "n_positions", "activation": "activation_function", "attention_dropout": "attn_pdrop",
              "embedding_dropout": "embd_pdrop", "residual_dropout": "resid_pdrop",
              "layer_norm_eps": "layer_norm_epsilon"},
        params={"num_kv_heads": ABSENT, "rope_theta": ABSENT, "rotary_dim": 6, "activation": "gelu_tanh",
                "embedding_dropout": 0.0, "residual_dropout": 0.0, "tie_word_embeddings": False},
        seed=4,
    ),
    *(
        _family(
            name, "opt", "OPT",
            keys={"intermediate_size": "ffn_dim", "embedding_size": "word_embed_proj_dim",
                  "activation": "activation_function", "norm_first": "do_layer_norm_before",
                  "norm_affine": "layer_norm_elementwise_affine", "hidden_dropout": "dropout",
                  "use_bias": "enable_bias", "remove_final_norm": "_remove_final_layer_norm"},
            params={"num_kv_heads": ABSENT, "rope_theta": ABSENT, "activation": "relu", "norm_affine": True,
                    "hidden_dropout": 0.0, "use_bias": True, "embedding_size": 60, "norm_first": True,
                    "remove_final_norm": False, "tie_word_embeddings": False, **changes},
            inert=("k_proj.bias",), seed=2 if name == "opt" else 0,
        )
        for name, changes in cast("dict[str, dict[str, Value]]", {
            "opt": {},
            "opt_post_norm": {"norm_first": False, "embedding_size": 44, "num_layers": 2},
        }).items()
    ),
    *(
        _family(
            name, "bloom", "Bloom",
            keys={"num_layers": "n_layer", "num_heads": "n_head", "max_seq_len": "seq_length",
                  "layer_norm_eps": "layer_norm_epsilon",
                  "residual_after_norm": "apply_residual_connection_post_layernorm"},
            params={"num_kv_heads": ABSENT, "rope_theta": ABSENT, "intermediate_size": ABSENT, "hidden_dropout": 0.0,
                    "residual_after_norm": name == "bloom_residual", "tie_word_embeddings": False,
                    "num_layers": 2 if name == "bloom_residual" else 3},
        )
        for name in ("bloom", "bloom_residual")
    ),
    _family(
        "mpt", "mpt", "Mpt",
        keys={"hidden_size": "d_model", "num_layers": "n_layers", "num_heads": "n_heads", "max_seq_len": "max_seq_len",
              "layer_norm_eps": "layer_norm_epsilon", "attention_scale": "attn_config.softmax_scale",
              "clip_qkv": "attn_config.clip_qkv", "attention_dropout": "attn_config.attn_pdrop"},
        params={"num_kv_heads": ABSENT, "rope_theta": ABSENT, "intermediate_size": ABSENT, "attention_scale": 0.4,
                "clip_qkv": 1.3, "attention_dropout": 0, "tie_word_embeddings": False},
    ),
    *(
        _family(
            name, "falcon", "Falcon",
            keys={"intermediate_size": "ffn_hidden_size", "num_kv_heads": "num_kv_heads", "activation": "activation",
                  "layer_norm_eps": "layer_norm_epsilon", "use_bias": "bias"},
            params={"attention_dropout": ABSENT, "activation": "gelu", "hidden_dropout": 0.0, "use_bias": False,
                    "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False,
                    "tie_word_embeddings": False, **changes},
            seed={"falcon_groups": 4, "falcon_sequential": 1}.get(name, 0),
        )
        for name, changes in cast("dict[str, dict[str, Value]]", {
            "falcon": {},
            "falcon_groups": {"new_decoder_architecture": True, "use_bias": True},
            "falcon_sequential": {"parallel_attn": False, "multi_query": False, "num_kv_heads": 6, "num_layers": 2},
        }).items()
    ),
    _family(
        "stablelm", "stablelm", "StableLm",
        params={"activation": "silu", "partial_rotary_factor": 0.4, "hidden_dropout": 0.0, "use_qkv_bias": True,
                "qk_layernorm": False, "use_parallel_residual": False, "tie_word_embeddings": False},
    ),
    _family(
        "stablelm_parallel", "stablelm", "StableLm",
        params={"activation": "silu", "partial_rotary_factor": 0.6, "hidden_dropout": 0.0, "use_qkv_bias": False,
                "qk_layernorm": True, "use_parallel_residual": True, "tie_word_embeddings": False, "num_layers": 2},
    ),
    _family(
        "cohere2", "cohere2", "Cohere2",
        params={"attention_bias": True, "sliding_window": 6, "logit_scale": 0.6, "tie_word_embeddings": True,
                "layer_types": [LOCAL, GLOBAL, LOCAL]},
        inert=("layers.1.self_attn.k_proj.bias",),
    ),
    _family(
        "granite", "granite", "Granite", eps="rms_norm_eps",
        params={"attention_bias": False, "mlp_bias": True, "embedding_multiplier": 1.7, "residual_multiplier": 0.6,
                "attention_multiplier": 0.4, "logits_scaling": 0.7, "tie_word_embeddings": False},
    ),
)  # fmt: skip

DENSE_ENCODERS: tuple[Family, ...] = (
    _family(
        "roberta", "roberta", "Roberta", head="ForMaskedLM",
        keys={"num_positions": "max_position_embeddings", "attention_dropout": "attention_probs_dropout_prob",
              "hidden_dropout": "hidden_dropout_prob"},
        params={"num_kv_heads": ABSENT, "rope_theta": ABSENT, "max_seq_len": ABSENT, "num_positions": 43,
                "pad_token_id": 1, "type_vocab_size": 3, "activation": "gelu", "hidden_dropout": 0.0,
                "tie_word_embeddings": True},
        first_position=2, seed=2,
    ),
    *(
        _family(
            name, "albert", "Albert", head="ForMaskedLM",
            keys={"num_groups": "num_hidden_groups", "group_size": "inner_group_num",
                  "attention_dropout": "attention_probs_dropout_prob", "hidden_dropout": "hidden_dropout_prob"},
            params={"num_kv_heads": ABSENT, "rope_theta": ABSENT, "max_seq_len": 41, "embedding_size": 28,
                    "type_vocab_size": 3, "activation": "gelu_tanh", "hidden_dropout": 0.0,
                    "tie_word_embeddings": True, **changes},
            inert=("attention.key.bias",),
        )
        for name, changes in cast("dict[str, dict[str, Value]]", {
            "albert": {"num_groups": 1, "group_size": 1},
            "albert_groups": {"num_groups": 2, "group_size": 2, "num_layers": 4},
        }).items()
    ),
    _family(
        "modernbert", "modernbert", "ModernBert", head="ForMaskedLM",
        keys={"rope_theta": "rope_parameters.full_attention.rope_theta", "layer_norm_eps": "norm_eps",
              "rope_local_theta": "rope_parameters.sliding_attention.rope_theta", "activation": "hidden_activation",
              "head_activation": "classifier_activation", "head_bias": "classifier_bias"},
        params={"num_kv_heads": ABSENT, "max_seq_len": 41, "rope_local_theta": 43.0, "local_attention": 9,
                "activation": "gelu", "head_activation": "gelu", "norm_bias": True, "attention_bias": True,
                "mlp_bias": False, "head_bias": True, "decoder_bias": True, "embedding_dropout": 0.0,
                "mlp_dropout": 0.0, "tie_word_embeddings": True, "layer_types": [GLOBAL, LOCAL, LOCAL]},
    ),
)  # fmt: skip
