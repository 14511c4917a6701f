"""What follows prompts of unequal lengths, in a model whose end needs more than a row's last token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmc

SPEC = """
llmc: 1
name: convolved
params: {vocab_size: 37, hidden_size: 16, kernel: 3, max_seq_len: 64}
graph:
  in: tokens
  nodes:
    embed: {op: embedding, in: tokens, rows: vocab_size, features: hidden_size}
    conv: {op: short_conv, in: embed, kernel: kernel, bias: false}
    norm: {op: rms_norm, in: conv, eps: 1e-6}
    lm_head: {op: linear, in: norm, features: vocab_size}
  out: {logits: lm_head}
"""
PROMPTS = [[3, 14, 15], [9], [2, 7, 1, 8, 28, 18, 2]]


@pytest.mark.parametrize("switch", ["", "LLMC_NATIVE", "LLMC_PASSES"])
@pytest.mark.parametrize("beams", [1, 3])
def test_are_those_after_each_row(switch: str, beams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if switch:
        monkeypatch.setenv(switch, "0")
    spec = tmp_path / "convolved.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    model = llmc.load(spec, seed=4)
    options = {"max_new_tokens": 5, "ignore_eos": True, "num_beams": beams}
    together = [one.tokens for one in model.generate(PROMPTS, **options)]
    assert together == [model.generate(prompt, **options).tokens for prompt in PROMPTS]
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        logits = model(torch.tensor([prompt]))
        assert isinstance(logits, torch.Tensor)
        assert beams > 1 or tokens[0] == int(logits[0, -1].argmax())
