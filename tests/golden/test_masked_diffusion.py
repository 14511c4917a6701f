"""A masked-diffusion language model against a float64 forward written from the paper (Nie et al. 2025)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import llmc
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError

from .running import RUNS, Run

VOCAB, MASK, WIDTH, HEADS, KV_HEADS, LAYERS, INNER = 97, 96, 60, 6, 3, 3, 76
HEAD = WIDTH // HEADS
THETA, EPS = 337.0, 2e-3
CONFIG = {
    "model_type": "llada", "architectures": ["LLaDAModelLM"], "vocab_size": VOCAB, "embedding_size": VOCAB,
    "d_model": WIDTH, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "n_layers": LAYERS, "mlp_hidden_size": INNER,
    "max_sequence_length": 101, "rope_theta": THETA, "rms_norm_eps": EPS, "mask_token_id": MASK, "mlp_ratio": 4,
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "attention_dropout": 0.0,
    "attention_layer_norm": False, "attention_layer_norm_with_affine": True, "bias_for_layer_norm": False,
    "block_group_size": 1, "block_type": "llama", "embedding_dropout": 0.0, "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
    "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True, "multi_query_attention": None,
    "precision": "amp_bf16", "residual_dropout": 0.0, "rope": True, "rope_full_precision": True, "scale_logits": False,
    "weight_tying": False, "pad_token_id": 95, "eos_token_id": 95,
}  # fmt: skip
"""The keys of the published config.json."""
SHAPES = {
    "attn_norm.weight": (WIDTH,), "ff_norm.weight": (WIDTH,), "q_proj.weight": (WIDTH, WIDTH),
    "k_proj.weight": (KV_HEADS * HEAD, WIDTH), "v_proj.weight": (KV_HEADS * HEAD, WIDTH),
    "attn_out.weight": (WIDTH, WIDTH), "ff_proj.weight": (INNER, WIDTH), "up_proj.weight": (INNER, WIDTH),
    "ff_out.weight": (WIDTH, INNER),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the published names and every tensor random."""
    path = tmp_path_factory.mktemp("masked_diffusion")
    generator = torch.Generator().manual_seed(0)
    outer = {"wte.weight": (VOCAB, WIDTH), "ln_f.weight": (WIDTH,), "ff_out.weight": (VOCAB, WIDTH)}
    shapes = outer | {f"blocks.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        value = 1 + 0.3 * noise if len(shape) == 1 else noise * (0.3 if name == "wte.weight" else shape[1] ** -0.5)
        tensors[f"model.transformer.{name}"] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return llmc.load(folder)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt()


def turned(x: Tensor) -> Tensor:
    """Each pair (i, i + HEAD / 2) of x `[B, T, heads, HEAD]` turned by its position."""
    half = HEAD // 2
    angle = torch.arange(x.shape[1])[:, None, None] * THETA ** (-torch.arange(half, dtype=torch.float64) / half)
    left, right = x[..., :half], x[..., half:]
    return torch.cat((left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()), dim=-1)


def oracle(tensors: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits `[B, T, VOCAB]` in float64: a pre-norm decoder whose attention has no mask."""
    wide = {name.removeprefix("model.transformer."): tensor.double() for name, tensor in tensors.items()}
    x = wide["wte.weight"][tokens]
    for layer in range(LAYERS):
        own = {name: wide[f"blocks.{layer}.{name}"] for name in SHAPES}
        normed = rms_norm(x, own["attn_norm.weight"])
        q, k, v = (
            (normed @ own[f"{name}_proj.weight"].T).unflatten(-1, (-1, HEAD)) for name in ("q", "k", "v")
        )  # [B, T, heads, HEAD]
        k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=2) for part in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", turned(q), turned(k)) * HEAD**-0.5
        seen = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(-2)
        x = x + seen @ own["attn_out.weight"].T
        normed = rms_norm(x, own["ff_norm.weight"])
        gate = torch.nn.functional.silu(normed @ own["ff_proj.weight"].T)
        x = x + (gate * (normed @ own["up_proj.weight"].T)) @ own["ff_out.weight"].T
    return rms_norm(x, wide["ln_f.weight"]) @ wide["ff_out.weight"].T


def random_tokens(length: int) -> Tensor:
    return torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("length", [1, 37, 101])
def test_equals_the_oracle(folder: Path, model: LanguageModel, run: Run, length: int) -> None:
    tokens = random_tokens(length)
    expected = oracle(load_file(folder / "model.safetensors"), tokens)
    assert 0.4 < expected.pow(2).mean().sqrt() < 2.0
    assert (run(model, tokens)["logits"] - expected).abs().max() < 2e-5


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_the_row_alone(folder: Path, model: LanguageModel, run: Run, side: str) -> None:
    tokens = random_tokens(23)
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, :9], mask[1, 9:] = side == "right", side == "left"
    expected = oracle(load_file(folder / "model.safetensors"), tokens[1][mask[1]][None])[0]
    assert (run(model, tokens, mask)["logits"][1][mask[1]] - expected).abs().max() < 2e-5


@pytest.mark.parametrize(
    "nodes",
    [{"attend": {"window": 20}}, {"attend": {"scale": "1.1 / sqrt(head_dim)"}},
     {"q_rope": {"layout": "interleaved"}, "k_rope": {"layout": "interleaved"}}],
    ids=["window", "scale", "pairs"],
)  # fmt: skip
def test_a_mutant_fails(folder: Path, tmp_path: Path, nodes: dict[str, object]) -> None:
    spec = tmp_path / "mutant.yaml"
    overlay = {"blocks": {"attention": {"nodes": nodes}}}
    spec.write_text(json.dumps({"llmc": 1, "name": "mutant", "extends": "llada", **overlay}))
    params = {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": INNER, "num_layers": LAYERS,
        "num_heads": HEADS, "num_kv_heads": KV_HEADS, "max_seq_len": 101, "rope_theta": THETA, "rms_norm_eps": EPS,
    }  # fmt: skip
    tokens = random_tokens(37)
    expected = oracle(load_file(folder / "model.safetensors"), tokens)
    with torch.no_grad():
        found = llmc.load(spec, weights=folder, params=params)(tokens)
    assert (found - expected).abs().max() > 1e-3


def test_export_keeps_names_tensors_and_config(folder: Path, model: LanguageModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    saved, original = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in original.items())
    config = json.loads((tmp_path / "config.json").read_text())
    assert {key: config[key] for key in ("d_model", "n_kv_heads", "mlp_hidden_size", "rope_theta", "weight_tying")} == {
        key: CONFIG[key] for key in ("d_model", "n_kv_heads", "mlp_hidden_size", "rope_theta", "weight_tying")
    }
    tokens = random_tokens(11)
    with torch.no_grad():
        assert torch.equal(llmc.load(tmp_path)(tokens), model(tokens))


def unmasked(tensors: dict[str, Tensor], prompt: list[int], blocks: list[tuple[int, int]]) -> list[int]:
    """The paper's deterministic sampling on the oracle's logits: in each of the blocks (size, passes), at each pass the
    most certain masked tokens stay."""
    tokens = torch.tensor([prompt])
    for size, passes in blocks:
        start = tokens.shape[1]
        later = sum(width for width, _ in blocks) - (start - len(prompt)) - size
        tokens = torch.cat((tokens, torch.full((1, size), MASK)), dim=1)
        for step in range(passes):
            text = torch.cat((tokens, torch.full((1, later), MASK)), dim=1)
            logits = oracle(tensors, text)[:, : start + size]
            logits[..., MASK] = -torch.inf
            certainty, best = logits.softmax(-1).max(-1)
            is_open = (tokens == MASK) & (torch.arange(start + size) >= start)
            count = size * (step + 1) // passes - size * step // passes
            chosen = certainty.masked_fill(~is_open, -1.0)[0].topk(count).indices
            tokens[0, chosen] = best[0, chosen]
    return tokens[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [random_tokens(9)[0].tolist(), random_tokens(23)[1].tolist(), [MASK, 3]]


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, [(32, 32)]),
        ({"max_new_tokens": 36}, [(32, 32), (4, 4)]),
        ({"steps": 8}, [(32, 8)]),
        ({"steps": 5, "block_size": 100}, [(32, 5)]),
        ({"steps": 1}, [(32, 1)]),
        ({"steps": 16, "block_size": 8}, [(8, 4)] * 4),
        ({"steps": 2, "block_size": 12}, [(12, 1), (12, 1), (8, 1)]),
    ],
    ids=str,
)
def test_generation_gives_the_oracles_tokens(
    folder: Path, model: LanguageModel, prompts: list[list[int]], options: dict[str, int],
    blocks: list[tuple[int, int]],
) -> None:  # fmt: skip
    """Prompts of unequal lengths, one of which holds a mask that is none of ours to fill."""
    tensors = load_file(folder / "model.safetensors")
    found = model.generate(prompts, **{"max_new_tokens": 32, **options}, ignore_eos=True)
    for prompt, row in zip(prompts, found, strict=True):
        assert row.tokens == unmasked(tensors, prompt, blocks)
        assert MASK not in row.tokens
        assert (row.finish_reason, row.prompt_tokens) == ("length", len(prompt))
    assert len({token for row in found for token in row.tokens}) > 8


def test_an_end_token_ends_a_row(model: LanguageModel, prompts: list[list[int]]) -> None:
    whole = model.generate(prompts, max_new_tokens=24, block_size=8, ignore_eos=True)
    end = whole[0].tokens[3]
    found = model.generate(prompts, max_new_tokens=24, block_size=8, ignore_eos=True, stop_ids=[end])
    for row, before in zip(found, whole, strict=True):
        length = before.tokens.index(end) + 1 if end in before.tokens else 24
        assert row.tokens == before.tokens[:length]
        assert row.finish_reason == ("stop" if end in before.tokens else "length")


def test_logprobs_and_draws(model: LanguageModel, prompts: list[list[int]]) -> None:
    row = model.generate(prompts[0], max_new_tokens=8, block_size=4, ignore_eos=True, logprobs=2)
    assert row.logprobs is not None
    assert [entry[0][0] for entry in row.logprobs] == row.tokens
    assert all(own == likeliest for own, likeliest, _ in row.logprobs)
    drawn = [
        model.generate(prompts[0], max_new_tokens=16, ignore_eos=True, temperature=3.0, seed=seed).tokens
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(MASK not in tokens for tokens in drawn)


def test_a_causal_mutant_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "mutant.yaml"
    overlay = {"blocks": {"attention": {"nodes": {"attend": {"mask": "causal"}}}}}
    spec.write_text(json.dumps({"llmc": 1, "name": "mutant", "extends": "llada", **overlay}))
    with pytest.raises(LlmcError, match="E0810"):
        llmc.check(spec)


def test_settings_that_cannot_be(model: LanguageModel) -> None:
    with pytest.raises(LlmcError, match="E0855"):
        model.generate([1, 2], steps=0)
    with pytest.raises(LlmcError, match="E0810"):
        llmc.load("llada", params={"vocab_size": 97, "hidden_size": 12, "num_layers": 1, "num_heads": 2}).generate([1])
    with pytest.raises(LlmcError, match="E0807"):
        llmc.load("llama_tiny").generate([1, 2], steps=4)
