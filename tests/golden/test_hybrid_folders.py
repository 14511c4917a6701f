"""Folders as their makers publish them: other keys in config.json than transformers writes, derived tensors or none."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import llmc

from .conftest import Goldens
from .family import Family
from .hybrid_families import HYBRIDS
from .running import require_golden, run_program
from .test_weight_faults import all_tensors

Config = dict[str, Any]
LETTERS = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}


def with_a_pattern(config: Config) -> None:
    layers = config.pop("layers_block_type")
    config.update(
        hybrid_override_pattern="".join(LETTERS[layer] for layer in layers),
        num_hidden_layers=len(layers),
        time_step_rank=5,
    )


def with_a_map_of_layers(config: Config) -> None:
    layers = config.pop("layer_types")
    config["linear_attn_config"] = {
        "full_attn_layers": [at for at, layer in enumerate(layers, 1) if layer == "full_attention"],
        "kda_layers": [at for at, layer in enumerate(layers, 1) if layer == "linear_attention"],
        "head_dim": config.pop("linear_head_dim"),
        "num_heads": config.pop("linear_num_heads"),
        "short_conv_kernel_size": config.pop("linear_conv_kernel_dim"),
    }
    config["first_k_dense_replace"] = config.pop("mlp_layer_types").index("sparse")
    config.update(mla_use_nope=True, moe_layer_freq=1, moe_router_activation_func="sigmoid", rope_theta=10000.0)


def with_names_of_layer_norms(config: Config) -> None:
    for ours, theirs in (("full_attn", "full_attention"), ("linear_attn", "linear_attention"), ("mlp", "mlp")):
        for factor in ("alpha", "beta"):
            config[f"layernorm_{theirs}_{factor}"] = config.pop(f"{ours}_{factor}_factor")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("nemotron_h", with_a_pattern),
        ("nemotron_h_latent", with_a_pattern),
        ("kimi_linear", with_a_map_of_layers),
        ("minimax", with_names_of_layer_norms),
    ],
)
def test_published_spelling(goldens: Goldens, tmp_path: Path, name: str, edit: Callable[[Config], None]) -> None:
    """The same numbers; saved again, the folder says the same once more."""
    golden = goldens(next(family for family in HYBRIDS if family.name == name))
    config: Config = json.loads((golden.folder / "config.json").read_text())
    edit(config)
    folder, saved = tmp_path / "published", tmp_path / "saved"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor for name, tensor in all_tensors(golden.folder).items() if not derived(golden.family, name)}
    save_file(tensors, folder / "model.safetensors")
    model = llmc.load(folder)
    require_golden(golden, run_program(model, golden.tokens))
    model.save(saved)
    again = run_program(llmc.load(saved), golden.tokens)["logits"]
    assert torch.equal(again, run_program(model, golden.tokens)["logits"])


def derived(family: Family, name: str) -> bool:
    return bool(family.derived) and name.endswith(family.derived)
