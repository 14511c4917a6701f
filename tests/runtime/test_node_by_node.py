"""`verify` finds a planted fault and names the node: ten faults in ten places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import llmc
from llmc.runtime.model import LanguageModel
from llmc.runtime.node_by_node import Comparison, compare
from llmc.runtime.reference_trace import Meeting, reference_trace

TOKENS = torch.randint(0, 97, (1, 24), generator=torch.Generator().manual_seed(1))
LAYER = "model.layers.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference")
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=64, attention_bias=True, rms_norm_eps=1e-3,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.dim() > 1 else 1.0, 0.3)
    model.save_pretrained(path)  # pyright: ignore[reportUnknownMemberType]
    return path


@pytest.fixture(scope="module")
def trace(folder: Path) -> dict[str, Meeting]:
    return reference_trace(folder, TOKENS)


def with_spec(folder: Path, tmp_path: Path, blocks: str) -> LanguageModel:
    """The folder's weights under a spec that changes some fields."""
    path = tmp_path / "changed.yaml"
    path.write_text(f"llmc: 1\nname: changed\nsummary: a fault\nextends: llama\n{blocks}")
    return llmc.load(path, weights=folder, params=dict(llmc.import_folder(folder).params))


def first_parted(model: LanguageModel, trace: dict[str, Meeting]) -> Comparison | None:
    return next((one for one in compare(model, TOKENS, trace) if one.has_parted), None)


def test_an_equal_model_never_parts(folder: Path, trace: dict[str, Meeting]) -> None:
    found = compare(llmc.load(folder), TOKENS, trace)
    assert len(found) > 3 * 10
    assert max(one.ratio for one in found) < 1e-5


def layer_override(field: str, value: str) -> str:
    return (
        "graph:\n  nodes:\n    model.layers:\n      overrides:\n"
        f"        - {{at: layer == 1, set: {{{field}: {value}}}}}\n"
    )


@pytest.mark.parametrize(
    ("field", "value", "node"),
    [
        ("self_attn.k_rope.layout", "interleaved", f"{LAYER}.self_attn.k_rope"),
        ("self_attn.q_rope.theta", "9000.0", f"{LAYER}.self_attn.q_rope"),
        ("self_attn.attend.window", "5", f"{LAYER}.self_attn.attend"),
        ("self_attn.attend.scale", "0.4", f"{LAYER}.self_attn.attend"),
        ("input_layernorm.weight_offset", "1.0", f"{LAYER}.input_layernorm"),
        ("post_attention_layernorm.eps", "0.1", f"{LAYER}.post_attention_layernorm"),
        ("mlp.act_fn.kind", "gelu", f"{LAYER}.mlp.act_fn"),
    ],
)
def test_a_wrong_field_of_one_layer(
    folder: Path, trace: dict[str, Meeting], tmp_path: Path, field: str, value: str, node: str
) -> None:
    first = first_parted(with_spec(folder, tmp_path, layer_override(field, value)), trace)
    assert first is not None
    assert node in [suspect.split(" ")[0] for suspect in first.suspects]
    assert len(first.suspects) <= 3
    assert "llama.yaml:" in first.place


def test_a_residual_from_the_wrong_place(folder: Path, trace: dict[str, Meeting], tmp_path: Path) -> None:
    blocks = "blocks:\n  layer:\n    nodes:\n      after_attn: {in: [input_layernorm, self_attn]}\n"
    first = first_parted(with_spec(folder, tmp_path, blocks), trace)
    assert first is not None
    assert first.suspects[0].startswith("model.layers.0.after_attn (")
    assert str(tmp_path / "changed.yaml").split("/")[-1] in first.suspects[0]


def transpose(model: LanguageModel) -> None:
    weight = model.get_parameter(f"{LAYER}.self_attn.q_proj.weight")
    weight.copy_(weight.T.clone())


def swap(model: LanguageModel) -> None:
    gate, up = (model.get_parameter(f"{LAYER}.mlp.{name}_proj.weight") for name in ("gate", "up"))
    kept = gate.clone()
    gate.copy_(up)
    up.copy_(kept)


def drop_bias(model: LanguageModel) -> None:
    model.get_parameter(f"{LAYER}.self_attn.o_proj.bias").zero_()


def change_head(model: LanguageModel) -> None:
    model.get_parameter("lm_head.weight")[13] *= 1.1


@pytest.mark.parametrize(
    ("fault", "node"),
    [
        (transpose, f"{LAYER}.self_attn.q_proj"),
        (swap, f"{LAYER}.mlp.gate_proj"),
        (drop_bias, f"{LAYER}.self_attn.o_proj"),
        (change_head, "lm_head"),
    ],
)
def test_a_wrong_tensor(
    folder: Path, trace: dict[str, Meeting], fault: Callable[[LanguageModel], None], node: str
) -> None:
    model = llmc.load(folder)
    with torch.no_grad():
        fault(model)
    parted = [one for one in compare(model, TOKENS, trace) if one.has_parted]
    assert parted[0].path == node
    assert parted[0].what == "output"
    assert {one.path for one in parted} <= {node, f"{LAYER}.mlp.up_proj"}, "a fault shows at its own place only"
