"""Families whose state does not grow with the tokens, or not in all layers, in awkward sizes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from llmc.compiler.ops.declaration import Value

from .family import VOCAB, Family


def _family(
    name: str, spec: str, config: str, model: str, keys: Mapping[str, str], params: dict[str, Value], seed: int
) -> Family:
    """A record whose `kwargs` are the params under the keys of transformers."""
    kwargs = {keys.get(param, param): value for param, value in params.items()}
    return Family(
        name=name, spec=spec, config=config, model=model, params=params, is_sharded=name.endswith("_biases"),
        kwargs={**kwargs, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": None},
        eps="norm_eps" if "norm_eps" in params else "layer_norm_eps", seed=seed,
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
    _delta("rwkv7", seed=1),
    _delta("rwkv7_tied", num_layers=2, head_dim=20, norm_bias=False, tie_word_embeddings=True),
)  # fmt: skip
each_recurrent = pytest.mark.parametrize("golden", RECURRENT, ids=lambda family: family.name, indirect=True)
