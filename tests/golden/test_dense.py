"""What the shared golden tests do not reach: longer contexts than trained, and keys of published config.json files."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import llmc
from llmc.compiler.pipeline import read
from llmc.runtime.import_folder import import_folder

from .comparison import tolerance
from .conftest import Goldens
from .families import VOCAB, by_name
from .reference import make_reference
from .running import RUNS, Run

SHORT = 23
"""The trained length of a model that reads more tokens than that."""


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_dynamic_frequencies_beyond_the_trained_length(tmp_path: Path, run: Run) -> None:
    """transformers takes the longest length that it has seen, llmc that of each row: a fresh reference agrees."""
    family = by_name("llama_dynamic")
    short = replace(family, kwargs={**family.kwargs, "max_position_embeddings": SHORT})
    make_reference(short).save_pretrained(tmp_path)
    model = llmc.load(tmp_path, params={"max_seq_len": 101, "rope_original_max_seq_len": SHORT})
    for length in (SHORT, SHORT + 1, 37, 61):
        tokens = torch.randint(0, VOCAB, (2, length))
        with torch.no_grad():
            expected = make_reference(short)(tokens).logits
        assert (run(model, tokens)["logits"] - expected).abs().max() < tolerance(expected)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "cohere2"])
def test_the_layers_kinds_follow_from_their_period(goldens: Goldens, tmp_path: Path, name: str) -> None:
    """Early configs say no `layer_types`; with the period that gives the same list they make the same model."""
    golden = goldens(by_name(name))
    config = json.loads((golden.folder / "config.json").read_text())
    listed = config.pop("layer_types")
    if name != "gemma2":
        config["sliding_window_pattern"] = 2
    config.pop("_sliding_window_pattern", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_folder(tmp_path)
    spec, _ = read(imported.spec, dict(imported.params))
    assert spec.environment["layer_types"] == listed


PUBLISHED: Mapping[str, Mapping[str, object]] = {
    "qwen2_5_0_5b": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "qwen3_0_6b": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    },
    "gemma2_2b": {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0,
        "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2",
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000,
    },
    "gemma3_1b": {
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": None, "cache_implementation": "hybrid", "final_logit_softcapping": None,
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
        "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "vocab_size": 262144,
    },
    "command_r7b": {
        "architectures": ["Cohere2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "cache_implementation": "hybrid", "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "layer_norm_eps": 1e-05, "layer_switch": 4, "logit_scale": 0.25,
        "max_position_embeddings": 132096, "model_type": "cohere2", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj", "rope_scaling": None, "rope_theta": 50000, "rotary_pct": 1.0,
        "sliding_window": 4096, "sliding_window_pattern": 4, "use_embedding_sharing": True,
        "use_gated_activation": True, "use_parallel_block": True, "use_parallel_embedding": True, "vocab_size": 256000,
    },
    "pythia_70m": {
        "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 512, "intermediate_size": 2048,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8,
        "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
        "use_parallel_residual": True, "vocab_size": 50304,
    },
    "bloom_560m": {
        "apply_residual_connection_post_layernorm": False, "architectures": ["BloomForCausalLM"],
        "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
        "hidden_dropout": 0.0, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True, "model_type": "bloom",
        "n_embed": 1024, "n_inner": None, "n_layer": 24, "num_attention_heads": 16, "offset_alibi": 100,
        "pretraining_tp": 1, "seq_length": 2048, "skip_bias_add": True, "skip_bias_add_qkv": False,
        "slow_but_exact": False, "unk_token_id": 0, "vocab_size": 250880,
    },
    "falcon_7b": {
        "alibi": False, "architectures": ["FalconForCausalLM"], "attention_dropout": 0.0, "bias": False,
        "hidden_dropout": 0.0, "hidden_size": 4544, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
        "multi_query": True, "new_decoder_architecture": False, "num_attention_heads": 71, "num_hidden_layers": 32,
        "parallel_attn": True, "vocab_size": 65024,
    },
    "starcoder2_3b": {
        "activation_function": "gelu", "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True, "embedding_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072, "intermediate_size": 12288, "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2", "norm_epsilon": 1e-05,
        "norm_type": "layer_norm", "num_attention_heads": 24, "num_hidden_layers": 30, "num_key_value_heads": 2,
        "residual_dropout": 0.0, "rope_theta": 999999.4420358813, "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True, "sliding_window": 4096, "use_bias": True, "vocab_size": 49152,
    },
    "opt_350m": {
        "_remove_final_layer_norm": False, "activation_dropout": 0.0, "activation_function": "relu",
        "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "do_layer_norm_before": False, "dropout": 0.1,
        "ffn_dim": 4096, "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
        "model_type": "opt", "num_attention_heads": 16, "num_hidden_layers": 24, "prefix": "</s>",
        "vocab_size": 50272, "word_embed_proj_dim": 512,
    },
    "roberta_base": {
        "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12, "num_hidden_layers": 12,
        "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
    },
    "albert_base_v2": {
        "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "classifier_dropout_prob": 0.1,
        "down_scale_factor": 1, "embedding_size": 128, "gap_size": 0, "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0, "hidden_size": 768, "inner_group_num": 1, "intermediate_size": 3072,
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "albert", "net_structure_type": 0,
        "num_attention_heads": 12, "num_hidden_groups": 1, "num_hidden_layers": 12, "num_memory_blocks": 0,
        "type_vocab_size": 2, "vocab_size": 30000,
    },
    "modernbert_base": {
        "architectures": ["ModernBertForMaskedLM"], "attention_bias": False, "attention_dropout": 0.0,
        "classifier_activation": "gelu", "classifier_bias": False, "classifier_dropout": 0.0,
        "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": True,
        "deterministic_flash_attn": False, "embedding_dropout": 0.0, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "gradient_checkpointing": False, "hidden_activation": "gelu",
        "hidden_size": 768, "initializer_cutoff_factor": 2.0, "intermediate_size": 1152, "layer_norm_eps": 1e-05,
        "local_attention": 128, "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False,
        "mlp_dropout": 0.0, "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05,
        "num_attention_heads": 12, "num_hidden_layers": 22, "position_embedding_type": "absolute",
        "sep_token_id": 50282, "tie_word_embeddings": True, "vocab_size": 50368,
    },
}  # fmt: skip
"""By preset, its config.json as the Hub has it: older than `rope_parameters` and `layer_types`."""
UNSEEN = frozenset({"sliding_window", "max_window_layers"})
"""Params of Qwen that mean nothing while `use_sliding_window` is false."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_the_preset(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    imported = import_folder(tmp_path)
    found, preset = (read(spec, params)[0].environment for spec, params in
                     ((imported.spec, dict(imported.params)), (name, {})))  # fmt: skip
    ignored = UNSEEN if "use_sliding_window" in preset else frozenset[str]()
    assert {key: value for key, value in found.items() if key not in ignored} == {
        key: value for key, value in preset.items() if key not in ignored
    }
