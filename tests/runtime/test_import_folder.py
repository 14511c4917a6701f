"""Folders are recognised by config.json: what is used, what is not understood, and what a hostile one gets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmc
from llmc.compiler.pipeline import check
from llmc.runtime.import_folder import families

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.40.0",
    "use_cache": True,
}


def written(folder: Path, **changes: object) -> Path:
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def code_of(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(llmc.LlmcError) as caught:
        call(*args)
    return caught.value.diagnostics[0].code


def test_a_config_becomes_params(tmp_path: Path) -> None:
    imported = llmc.import_folder(written(tmp_path))
    assert imported.spec == "llama"
    assert imported.params["num_kv_heads"] == 2
    assert imported.params["rope_theta"] == 500000.0
    assert imported.params["tie_word_embeddings"] is True
    assert check("llama", imported.params).types["lm_head:out"].features == 97


def test_old_and_new_spellings_of_rope_agree(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = llmc.import_folder(written(tmp_path, rope_scaling={**scaling, "rope_type": "llama3"})).params
    parameters = {**scaling, "rope_type": "llama3", "rope_theta": 500000.0}
    new = llmc.import_folder(written(tmp_path, rope_theta="absent", rope_parameters=parameters)).params
    assert old == new
    assert old["rope_scaling"] == "llama3"


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"sliding_windw": 5}, "E0710", "sliding_windw"),
        ({"rope_parameters": {"rope_type": "default", "surprise": 1}}, "E0710", "surprise"),
        ({"hidden_act": "gelu"}, "E0712", "hidden_act"),
        ({"rope_scaling": {"type": "surprise", "factor": 2.0}}, "E0711", "surprise"),
        ({"model_type": "llamas"}, "E0713", "llama"),
        ({"model_type": None}, "E0713", "model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "E0713", "LlamaForCausalLM"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, changes: dict[str, Any], code: str, word: str) -> None:
    with pytest.raises(llmc.LlmcError) as caught:
        llmc.import_folder(written(tmp_path, **changes))
    first = caught.value.diagnostics[0]
    assert first.code == code
    assert word in f"{first.message} {first.help}"


def test_an_unknown_architecture_names_the_nearest_and_what_that_lacks(tmp_path: Path) -> None:
    with pytest.raises(llmc.LlmcError) as caught:
        llmc.import_folder(written(tmp_path, model_type="unheard_of", surprise_factor=3))
    note = caught.value.diagnostics[0].notes[0].text
    assert "nearest is " in note
    assert "surprise_factor" in note
    assert "hidden_size" not in note


HOSTILE = {
    "negative": {"hidden_size": -48},
    "zero heads": {"num_attention_heads": 0},
    "product beyond 2^63": {"hidden_size": 2**40, "vocab_size": 2**40, "num_attention_heads": 2**20},
    "integer beyond 2^63": {"vocab_size": 10**40},
    "text for a number": {"hidden_size": "48"},
    "list for a number": {"num_hidden_layers": [2]},
    "map for a number": {"rms_norm_eps": {"x": 1}},
    "bool for a number": {"vocab_size": True},
    "fraction of a head": {"num_attention_heads": 3.5},
    "heads that do not divide": {"num_key_value_heads": 3},
    "a million layers": {"num_hidden_layers": 1_000_000_000},
    "number for a name": {"model_type": 5},
    "number for architectures": {"architectures": 5},
    "long text": {"model_type": "x" * 1_000_000},
    "expression": {"hidden_size": "${9**9**9}"},
    "infinite": {"rope_theta": 1e999},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_gets_a_diagnostic(tmp_path: Path, changes: dict[str, Any]) -> None:
    started = time.monotonic()
    folder = written(tmp_path, **changes)
    with pytest.raises(llmc.LlmcError):
        llmc.load(folder)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        "[" * 10_000,
        "\ufeff{}",
        '{"a": "' + "x" * 5_000_000 + '"}',
    ],
)
def test_broken_json_gets_a_diagnostic(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert code_of(llmc.import_folder, tmp_path).startswith("E07")


def test_no_folder_and_no_config(tmp_path: Path) -> None:
    assert code_of(llmc.import_folder, tmp_path) == "E0751"
    assert code_of(llmc.import_folder, tmp_path / "absent") == "E0751"
    assert code_of(llmc.load, tmp_path) in ("E0751", "E0713")


def test_families_are_unambiguous() -> None:
    """No two specs claim the same architecture of the same model_type."""
    claims = [(mapping.model_type, architecture) for _, mapping in families() for architecture in mapping.architectures]
    assert len(claims) == len(set(claims))
