"""On a GPU: models of real widths, few layers: every kernel that is picked compiles and runs, and gives the same twice.

A kernel that does not compile is set aside with a warning, which is an error here.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import llmc
from llmc.compiler.ops.declaration import Value

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: make gpu"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]
TWO: Mapping[str, Value] = {"num_layers": 2}
MODELS: tuple[tuple[str, Mapping[str, Value]], ...] = (
    ("llama3_1_8b", TWO), ("gemma2_9b", TWO), ("gemma3_1b", TWO), ("gpt_oss_20b", TWO), ("qwen3_8b", TWO),
    ("qwen3_moe", {**TWO, "num_experts": 32}), ("mixtral_8x7b", TWO), ("bloom_7b1", TWO), ("falcon_7b", TWO),
    ("deepseek_v2_lite", {"num_layers": 3}), ("mamba", TWO), ("mamba2", TWO), ("trident_3b", TWO), ("chimera", TWO),
    ("hydra", {"num_layers": 4}), ("rwkv7", TWO), ("gla", TWO), ("phi3_mini", TWO), ("olmo2_7b", TWO),
)  # fmt: skip


@pytest.mark.parametrize(("spec", "params"), MODELS, ids=[spec for spec, _ in MODELS])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_prompt_and_decoding(spec: str, params: Mapping[str, Value], dtype: str) -> None:
    model = llmc.load(spec, params=dict(params), device="cuda", dtype=dtype, seed=1)
    prompts = [[5, 9, 2] * 100, [7, 1]]
    options = {"max_new_tokens": 24, "ignore_eos": True}
    first = [row.tokens for row in model.generate(prompts, **options)]
    assert [row.tokens for row in model.generate(prompts, **options)] == first
    assert all(len(tokens) == 24 for tokens in first)
