"""Saving loses nothing, also where a spec says too little to write a config.json."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmc
from llmc.specs.diagnostics import LlmcError

SPEC = Path(__file__).parent.parent / "bad" / "parent_decoder.yaml"
"""A legal spec without `config:`."""


def test_weights_are_written_without_a_config(tmp_path: Path) -> None:
    model = llmc.load(SPEC, seed=3)
    with pytest.raises(LlmcError) as caught:
        model.save(tmp_path / "out")
    assert caught.value.diagnostics[0].code == "E0714"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    again = llmc.load(SPEC, weights=tmp_path / "out")
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(tokens), again(tokens))
