"""The table: one record for each family and variant that must equal transformers, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from llmc.compiler.ops.declaration import Value

from .chunked_families import CHUNKED
from .dense_families import DECODERS, DENSE_ENCODERS
from .expert_families import EXPERTS
from .family import VOCAB, Family
from .family_keys import LLAMA_KEYS, rope_kwargs
from .stream_families import STREAMS


def _gpt2(name: str, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "num_heads": 3, "num_layers": 2,
        "intermediate_size": 76, "max_seq_len": 101,
        "activation": "gelu_tanh", "layer_norm_eps": 2e-3, "tie_word_embeddings": True, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "embedding_dropout": 0.0,
        "attention_dropout": 0.0, "residual_dropout": 0.0,
        **changes,
    }  # fmt: skip
    spelled = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}[str(params["activation"])]
    kwargs = {
        "vocab_size": VOCAB, "n_embd": params["hidden_size"], "n_head": params["num_heads"],
        "n_layer": params["num_layers"],
        "n_inner": params["intermediate_size"], "n_positions": params["max_seq_len"], "activation_function": spelled,
        "layer_norm_epsilon": params["layer_norm_eps"], "tie_word_embeddings": params["tie_word_embeddings"],
        "scale_attn_weights": params["scale_attn_weights"],
        "scale_attn_by_inverse_layer_idx": params["scale_attn_by_inverse_layer_idx"],
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    }  # fmt: skip
    return Family(
        name=name, spec="gpt2", config="GPT2Config", model="GPT2LMHeadModel", kwargs=kwargs, params=params,
        eps="layer_norm_eps", is_sharded=name == "gpt2_three_layers", seed=3, embedding_std=0.6, bias_std=0.1,
    )  # fmt: skip


def _llama(name: str, model: str = "Llama", /, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 2,
        "num_heads": 6, "num_kv_heads": 3,
        "head_dim": 14, "max_seq_len": 101, "rope_theta": 337.0, "rms_norm_eps": 2e-3, "attention_dropout": 0.0,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    return Family(
        name=name, spec=model.lower(), config=f"{model}Config", model=f"{model}ForCausalLM",
        kwargs=rope_kwargs(params, LLAMA_KEYS), params=params, eps="rms_norm_eps",
        is_sharded=name in ("llama_biases", "mistral_window"),
    )  # fmt: skip


def _phi(name: str, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 2,
        "num_heads": 6, "num_kv_heads": 3,
        "max_seq_len": 101, "rope_theta": 337.0, "partial_rotary_factor": 0.4, "layer_norm_eps": 2e-3,
        "activation": "gelu_tanh", "embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0,
        "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    spelled = {
        "activation": "hidden_act", "layer_norm_eps": "layer_norm_eps", "embedding_dropout": "embd_pdrop",
        "residual_dropout": "resid_pdrop",
    }  # fmt: skip
    kwargs = {spelled.get(key, key): value for key, value in rope_kwargs(params, LLAMA_KEYS).items()}
    kwargs["hidden_act"] = {"gelu_tanh": "gelu_new", "gelu": "gelu"}[str(params["activation"])]
    return Family(
        name=name, spec="phi", config="PhiConfig", model="PhiForCausalLM", kwargs=kwargs, params=params,
        eps="layer_norm_eps", is_sharded=name == "phi_partial", seed=41 if name == "phi_tied" else 0, bias_std=0.1,
    )  # fmt: skip


def _phi3(name: str, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 2,
        "num_heads": 6, "num_kv_heads": 3,
        "max_seq_len": 101, "rope_theta": 337.0, "partial_rotary_factor": 1.0, "rms_norm_eps": 2e-3,
        "attention_dropout": 0.0, "residual_dropout": 0.0, "tie_word_embeddings": False,
        "sliding_window": None, **changes,
    }  # fmt: skip
    kwargs = rope_kwargs(
        {key: value for key, value in params.items() if key != "rope_original_max_seq_len"}, LLAMA_KEYS
    )
    kwargs["resid_pdrop"] = kwargs.pop("residual_dropout")
    if "rope_original_max_seq_len" in params:
        kwargs["original_max_position_embeddings"] = params["rope_original_max_seq_len"]
    return Family(
        name=name, spec="phi3", config="Phi3Config", model="Phi3ForCausalLM", kwargs=kwargs, params=params,
        eps="rms_norm_eps", is_sharded=name == "phi3_window",
    )  # fmt: skip


SHORT_FACTORS: list[Value] = [1.0, 1.05, 1.1, 1.2, 1.3]
LONG_FACTORS: list[Value] = [1.0, 1.7, 2.9, 3.3, 4.1]
LLAMA3: Mapping[str, Value] = {
    "rope_scaling": "llama3", "rope_factor": 8.0, "rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0,
    "rope_original_max_seq_len": 64,
}  # fmt: skip

CAUSAL: tuple[Family, ...] = (
    _gpt2("gpt2_three_layers", num_layers=3),
    _gpt2("gpt2_untied", activation="gelu", tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True),
    _gpt2("gpt2_one_layer", num_layers=1, num_heads=5, activation="relu", scale_attn_weights=False),
    _llama("llama_biases", attention_bias=True, mlp_bias=True),
    _llama("llama_tied_llama3", num_layers=3, tie_word_embeddings=True, **LLAMA3),
    _llama("llama_one_layer", num_layers=1, rope_scaling="linear", rope_factor=2.5, attention_bias=True),
    _llama("mistral_window", "Mistral", sliding_window=5),
    _llama(
        "mistral_tied", "Mistral", num_layers=3, num_heads=9, head_dim=6, sliding_window=9, tie_word_embeddings=True,
    ),
    _phi("phi_partial"),
    _phi("phi_tied", num_layers=3, activation="gelu", partial_rotary_factor=0.6, tie_word_embeddings=True),
    _phi3("phi3_window", sliding_window=6, partial_rotary_factor=0.8),
    _phi3(
        "phi3_longrope", num_layers=3, tie_word_embeddings=True, rope_scaling="longrope", rope_original_max_seq_len=90,
        rope_short_factor=SHORT_FACTORS, rope_long_factor=LONG_FACTORS,
    ),
    *DECODERS,
    *EXPERTS,
    *CHUNKED,
    *STREAMS,
)  # fmt: skip


def _bert(name: str, spec: str, model: str, *, tied: bool | None = None, **changes: Value) -> Family:
    params: dict[str, Value] = {
        "vocab_size": VOCAB, "hidden_size": 60, "intermediate_size": 76, "num_layers": 2,
        "num_heads": 3, "max_seq_len": 41,
        "type_vocab_size": 3, "activation": "gelu", "layer_norm_eps": 2e-3, "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **changes,
    }  # fmt: skip
    spelled = {
        **LLAMA_KEYS, "hidden_dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob",
        "activation": "hidden_act",
    }  # fmt: skip
    kwargs = {spelled.get(key, key): value for key, value in params.items()}
    kwargs["hidden_act"] = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}[str(params["activation"])]
    if tied is not None:
        kwargs["tie_word_embeddings"] = params["tie_word_embeddings"] = tied
    return Family(
        name=name, spec=spec, config="BertConfig", model=model, kwargs=kwargs, params=params, eps="layer_norm_eps",
        is_sharded=name == "bert_three_layers",
    )  # fmt: skip


ENCODERS: tuple[Family, ...] = (
    _bert("bert", "bert", "BertModel"),
    _bert("bert_three_layers", "bert", "BertModel", num_layers=3, num_heads=5, activation="gelu_tanh"),
    _bert("bert_mlm", "bert_mlm", "BertForMaskedLM", tied=True),
    _bert("bert_mlm_untied", "bert_mlm", "BertForMaskedLM", tied=False, num_layers=1, activation="relu"),
    _bert("bert_classifier", "bert_classifier", "BertForSequenceClassification", num_labels=5, classifier_dropout=0.0),
    *DENSE_ENCODERS,
)
FAMILIES = (*CAUSAL, *ENCODERS)
each_causal = pytest.mark.parametrize("golden", CAUSAL, ids=lambda family: family.name, indirect=True)
each_encoder = pytest.mark.parametrize("golden", ENCODERS, ids=lambda family: family.name, indirect=True)


def by_name(name: str) -> Family:
    """The record of a name."""
    return next(family for family in FAMILIES if family.name == name)
