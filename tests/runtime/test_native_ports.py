"""A block whose output port is named like an input, in machine code: each port has its own place in memory."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmc

SPEC = """
llmc: 1
name: ports
summary: A port that passes through, and one that is collected
params: {max_seq_len: 64}
blocks:
  project:
    in: [x, like]
    nodes:
      linear: {op: linear, in: x, features: 24, init_std: 0.5}
      out: {op: mul, in: [linear, like]}
    out: {like: like, stream: out}
graph:
  in: tokens
  nodes:
    embed: {op: embedding, in: tokens, rows: 29, features: 24, init_std: 1.0}
    attend: {op: attention, in: [embed, embed, embed], head_dim: 6}
    project: {block: project, repeat: REPEAT, in: [attend, attend]}
    streams: {op: concat, in: [attend, "project:stream"]}
    lm_head: {op: linear, in: streams, features: 29}
  out: {logits: lm_head}
"""


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_the_program_equals_the_modules(tmp_path: Path, repeat: int) -> None:
    file = tmp_path / "ports.yaml"
    file.write_text(SPEC.replace("REPEAT", str(repeat)))
    model, tokens = llmc.load(file, seed=1), torch.arange(10).view(2, 5)
    with torch.enable_grad():
        expected = model(tokens).detach()
    assert (model(tokens, cache=model.new_cache(2, 5)) - expected).abs().max() < 1e-5
