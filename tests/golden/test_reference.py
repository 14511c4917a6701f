"""The oracle can see: no tensor is trivial, logits and attention scores have about unit size, shards are shards."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import torch
from safetensors.torch import load_file

from .comparison import rms
from .reference import Golden


def test_every_tensor_is_random(golden: Golden) -> None:
    for file in golden.folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            if golden.family.derived and name.endswith(golden.family.derived):
                continue
            assert len(tensor.unique()) > 0.99 * tensor.numel(), name
            assert (tensor != 0).all(), name


def test_scores_have_unit_size(golden: Golden) -> None:
    assert 0.4 < rms(next(iter(golden.expected.values()))) < 2.0
    with torch.no_grad():
        attentions = golden.reference(golden.tokens, output_attentions=True).attentions
    last = attentions[0][:, :, -1]  # the last query sees all keys, or its window
    spread = torch.stack([row[row > 0].log().std() for row in last.flatten(0, 1)]).mean()
    is_unscaled = golden.family.params.get("scale_attn_weights") is False or golden.family.spec == "gemma3n"
    assert 0.2 < spread < (5.0 if is_unscaled else 2.5)


def test_exact_run_is_float64(golden: Golden) -> None:
    for name, exact in golden.exact.items():
        assert exact.dtype == torch.float64
        assert 1e-9 < rms(golden.expected[name] - exact) < 1e-5


def test_shards(golden: Golden) -> None:
    files = list(golden.folder.glob("*.safetensors"))
    assert len(files) > 2 if golden.family.is_sharded else len(files) == 1
