"""Six architectures that are no dense decoder: legal specs, the parameters of the reference, typed states."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers

from llmc.compiler.config_map import config_from_params, config_map, params_from_config
from llmc.compiler.ir import Model
from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
from llmc.compiler.plan import flops, parameters
from llmc.compiler.spec import Spec
from llmc.compiler.weight_map import weight_map
from llmc.runtime.weight_rules import source_names, source_shapes
from llmc.specs.diagnostics import LlmcError
from llmc.specs.packaged import packaged_path

NAMES = ("mamba", "deepseek_v3", "t5", "zamba2", "rwkv7", "gemma3n")
TWINS = ("mamba", "deepseek_v3", "t5", "zamba2", "gemma3n")
"""Those that transformers has too."""

LINEAR = "linear_attention"

TINY: Mapping[str, Mapping[str, Value]] = {
    "mamba": {"vocab_size": 96, "hidden_size": 32, "num_layers": 3, "state_size": 4},
    "deepseek_v3": {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "expert_width": 24, "num_layers": 4,
        "num_dense_layers": 1, "num_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 16, "nope_head_dim": 8,
        "rope_head_dim": 4, "v_head_dim": 6, "num_experts": 16, "num_experts_per_token": 3, "num_shared_experts": 2,
        "num_expert_groups": 4, "top_expert_groups": 2, "max_seq_len": 512,
    },
    "t5": {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_decoder_layers": 3,
           "num_heads": 2, "head_dim": 8},
    "zamba2": {
        "vocab_size": 96, "hidden_size": 32, "num_heads": 4, "num_mamba_heads": 4, "state_size": 8, "adapter_rank": 4,
        "num_groups": 2, "layer_types": [LINEAR, "hybrid", "hybrid", LINEAR, "hybrid", "hybrid", "hybrid"],
    },
    "gemma3n": {
        "vocab_size": 96, "hidden_size": 32, "num_layers": 12, "intermediate_size": cast("list[Value]", [48] * 12),
        "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "num_kv_shared_layers": 5, "laurel_rank": 4,
        "per_layer_vocab_size": 80, "per_layer_size": 4, "max_seq_len": 64, "sliding_window": 16,
    },
}  # fmt: skip

VARIANTS: tuple[tuple[str, Mapping[str, Value]], ...] = (
    *((name, {}) for name in TWINS),
    ("mamba", {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False}),
    ("deepseek_v3", {"num_dense_layers": 0, "num_layers": 2, "rope_scaling": "none", "attention_bias": True}),
    ("deepseek_v3", {"num_dense_layers": 4, "num_shared_experts": 1}),
    ("t5", {"feed_forward": "gated_gelu"}),
    ("zamba2", {"use_shared_attention_adapter": True, "use_mem_rope": True, "add_bias_linear": True}),
    ("zamba2", {"num_mem_blocks": 1}),
    ("gemma3n", {"num_streams": 3, "num_kv_shared_layers": 0}),
)

COUNTS = {
    "mamba": 129_135_360,
    "t5": 60_506_624,
    "deepseek_v3": 671_026_419_200,
    "rwkv7": 191_034_624,
}
"""What the published models hold; RWKV-7's is the formula of its paper, appendix F."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:  # pyright: ignore[reportUnusedFunction]
    torch.set_num_threads(1)


def checkpoint_shapes(spec: Spec, model: Model) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the spec says a checkpoint holds."""
    mapping = weight_map(spec, model)
    found: dict[str, tuple[int, ...]] = {}
    for path, parameter in mapping.parameters.items():
        if path in mapping.ties:
            continue
        rule, holes = mapping.rule_for(path) or (None, {})
        names = (path,) if rule is None else source_names(rule, holes, None)
        if rule is not None and rule.how == "rename":
            names = names[:1]
        for name, shape in zip(names, source_shapes(rule, parameter, len(names)), strict=True):
            assert shape is not None
            found[name] = shape
    return found


def twin_config(spec: Spec) -> transformers.PreTrainedConfig:
    """The spec's params as a transformers config, through the spec's own `config:`."""
    assert spec.config is not None
    values = config_from_params(config_map(spec.config), spec.environment, {})
    architecture = getattr(transformers, config_map(spec.config).architectures[0])
    del values["model_type"], values["architectures"]
    return architecture.config_class(**values)


def twin(spec: Spec) -> Any:
    """The transformers model of the spec's config, without storage."""
    assert spec.config is not None
    with torch.device("meta"):
        return getattr(transformers, config_map(spec.config).architectures[0])(twin_config(spec))


def saved_shapes(config: transformers.PreTrainedConfig, spec: Spec, folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what transformers itself saves, read from the file's header."""
    assert spec.config is not None
    getattr(transformers, config_map(spec.config).architectures[0])(config).save_pretrained(folder)
    (file,) = folder.glob("*.safetensors")
    with file.open("rb") as opened:
        header = json.loads(opened.read(struct.unpack("<Q", opened.read(8))[0]))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def states_by_layer(model: Model, prefix: str) -> list[dict[str, int]]:
    """How many states of each kind every call below `prefix` has."""
    return [
        Counter(s.kind for states in model.definitions[call.definition].states.values() for s in states)
        for call in model.calls
        if call.binding.prefix.startswith(prefix)
    ]


def error_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "m.yaml"
    path.write_text("llmc: 1\nname: m\nsummary: a test\n" + text)
    with pytest.raises(LlmcError) as caught:
        read(path)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code


@pytest.mark.parametrize("name", NAMES)
def test_spec_is_legal_and_its_costs_are_known(name: str) -> None:
    spec, model = read(name)
    assert spec.config is not None
    assert spec.weights is not None
    assert list(model.outputs) == ["logits"]
    head = cast("int", spec.params["vocab_size"].value) * cast("int", spec.params["hidden_size"].value)
    assert flops(model, {"B": 1, "T": 1, "S": 64, "S_encoder": 64}) > 2 * head
    assert len(packaged_path(name).read_text().splitlines()) <= 160


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_parameters_are_those_that_transformers_saves(name: str, changes: Mapping[str, Value], tmp_path: Path) -> None:
    spec, model = read(name, {**TINY[name], **changes})
    config = twin_config(spec)
    assert checkpoint_shapes(spec, model) == saved_shapes(config, spec, tmp_path)


@pytest.mark.parametrize("name", TWINS)
def test_config_reads_back_what_transformers_writes(name: str) -> None:
    spec, _ = read(name, TINY[name])
    assert spec.config is not None
    mapping = config_map(spec.config)
    read_back = params_from_config(mapping, twin_config(spec).to_dict(), "config.json")
    mapped = {entry.param for entry in mapping.params}
    assert {p: spec.params[p].value for p in mapped} == {p: read_back.get(p, spec.params[p].value) for p in mapped}


@pytest.mark.parametrize("name", TWINS)
def test_default_has_as_many_parameters_as_in_transformers(name: str) -> None:
    spec, model = read(name)
    theirs = twin(spec)
    owners = cast("dict[str, str]", theirs.all_tied_weights_keys or {})
    tied = {path for path, owner in owners.items() if path != owner}
    count = sum(t.numel() for path, t in theirs.state_dict().items() if path not in tied)
    assert sum(map(prod, checkpoint_shapes(spec, model).values())) == count


@pytest.mark.parametrize(("name", "expected"), COUNTS.items())
def test_default_has_as_many_parameters_as_published(name: str, expected: int) -> None:
    assert sum(map(prod, checkpoint_shapes(*read(name)).values())) == expected


@pytest.mark.parametrize("num_layers", [1, 3, 24])
def test_mamba_is_three_definitions_with_a_tail_and_a_matrix_per_layer(num_layers: int) -> None:
    _, model = read("mamba", {"num_layers": num_layers})
    assert list(model.definitions) == ["entry", "layer", "exit"]
    assert len(model.calls) == num_layers + 2
    assert states_by_layer(model, "backbone.layers") == [{"conv": 1, "matrix": 1}] * num_layers
    (matrix,) = model.definitions["layer"].states["mixer.scan"]
    assert matrix.sizes == {"heads": 1536, "key_dim": 16, "value_dim": 1}


@pytest.mark.parametrize(("dense", "definitions"), [(0, 3), (1, 4), (3, 4), (5, 3)])
def test_deepseek_is_a_dense_and_a_moe_layer(dense: int, definitions: int) -> None:
    _, model = read("deepseek_v3", {**TINY["deepseek_v3"], "num_layers": 5, "num_dense_layers": dense})
    assert len(model.definitions) == definitions
    layers = [call.definition for call in model.calls[1:-1]]
    assert [name == layers[-1] for name in layers] == [i >= dense or dense == 5 for i in range(5)]
    assert states_by_layer(model, "model.layers") == [{"kv_latent": 1}] * 5
    (latent,) = model.definitions[layers[0]].states["self_attn.attend"]
    assert latent.sizes == {"rank": 16, "rope_dim": 4}


def test_the_yarn_scale_of_deepseek_is_that_of_transformers() -> None:
    spec, model = read("deepseek_v3")
    (attend,) = [n for n in model.definitions["layer"].definition.nodes if n.op.name == "latent_attention"]
    theirs = cast("float", twin(read("deepseek_v3", {"num_layers": 1})[0]).model.layers[0].self_attn.scaling)
    assert abs(attend.fields.float("scale") - theirs) < 1e-12
    assert spec.params["rope_scaling"].value == "yarn"


@pytest.mark.parametrize(("encoders", "decoders"), [(1, 1), (2, 3)])
def test_t5_encodes_once_and_decodes_per_token(encoders: int, decoders: int) -> None:
    _, model = read("t5", {"num_layers": encoders, "num_decoder_layers": decoders})
    assert list(model.definitions) == ["entry", "encoder_layer", "between", "between_1", "decoder_layer", "exit"]
    assert [call.rate for call in model.calls] == ["once"] * (encoders + 2) + ["stream"] * (decoders + 2)
    assert states_by_layer(model, "encoder.block") == [{}] * encoders
    assert states_by_layer(model, "decoder.block") == [{"kv_full": 1, "cross_kv": 1}] * decoders
    assert {p for p in parameters(model) if "relative" in p} == {
        f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for side in ("encoder", "decoder")
    }


def test_zamba2_shares_two_transformers_over_nine_uses() -> None:
    _, model = read("zamba2")
    assert list(model.definitions) == ["entry", "layer", "layer_1", "exit"]
    hybrids = [call for call in model.calls if call.definition == "layer_1"]
    places = (6, 12, 18, 24, 30, 36, 42, 47, 51)
    assert [call.binding.prefix for call in hybrids] == [f"model.layers.{i}" for i in places]
    owners = [call.binding.absolute("shared_transformer.self_attn.q_proj") for call in hybrids]
    assert owners == [f"model.layers.{6 if i % 2 == 0 else 12}.shared_transformer.self_attn.q_proj" for i in range(9)]
    adapters = {path for path in parameters(model) if "adapter_list" in path and path.endswith("down.weight")}
    stem = "shared_transformer.feed_forward.gate_up_proj_adapter_list"
    assert adapters == {f"model.layers.{6 if i % 2 == 0 else 12}.{stem}.{i}.down.weight" for i in range(9)}
    kinds = states_by_layer(model, "model.layers")
    assert [k.get("kv_full", 0) for k in kinds] == [int(c.definition == "layer_1") for c in model.calls[1:-1]]
    assert all((k["conv"], k["matrix"]) == (1, 1) for k in kinds)


@pytest.mark.parametrize("num_layers", [1, 2, 12])
def test_rwkv7_makes_v_first_in_its_first_layer(num_layers: int) -> None:
    _, model = read("rwkv7", {"num_layers": num_layers})
    assert list(model.definitions) == ["entry", "layer", *(["layer_1"] if num_layers > 1 else []), "exit"]
    assert states_by_layer(model, "model.layers") == [{"token_shift": 2, "matrix": 1}] * num_layers
    assert any("v_lora" in path for path in parameters(model)) == (num_layers > 1)
    assert not any(path.startswith("model.layers.0.attn.v_lora") for path in parameters(model))
    made = str(model.definitions["layer"].definition.outputs["v_first"])
    assert made == "attn.v_proj:out"


def test_rwkv7_names_are_those_of_flash_linear_attention() -> None:
    shapes = checkpoint_shapes(*read("rwkv7", {"num_layers": 2}))
    layer = {name.removeprefix("model.layers.1."): s for name, s in shapes.items() if "layers.1." in name}
    mixes = {f"attn.x_{c}": (1, 1, 768) for c in "rwkvag"}
    ranks = {"w": 64, "v": 32, "a": 64, "g": 128}
    assert layer == {
        **mixes,
        **{f"attn.{c}_lora.lora.0.weight": (rank, 768) for c, rank in ranks.items()},
        **{f"attn.{c}_lora.lora.2.weight": (768, rank) for c, rank in ranks.items()},
        **{f"attn.{c}_lora.lora.2.bias": (768,) for c in "wva"},
        **{f"attn.{c}_proj.weight": (768, 768) for c in "rkvo"},
        **{f"{norm}.weight": (768,) for norm in ("attn_norm", "ffn_norm", "attn.g_norm")},
        **{f"{norm}.bias": (768,) for norm in ("attn_norm", "ffn_norm", "attn.g_norm")},
        "attn.k_k": (768,),
        "attn.k_a": (768,),
        "attn.r_k": (12, 64),
        "ffn.x_k": (768,),
        "ffn.key.weight": (3072, 768),
        "ffn.value.weight": (768, 3072),
    }
    assert shapes["model.layers.0.pre_norm.weight"] == (768,)
    assert "model.layers.1.pre_norm.weight" not in shapes


def test_gemma3n_reads_the_keys_of_two_layers_in_its_last_fifteen() -> None:
    _, model = read("gemma3n")
    assert len(model.calls) == 1 + 3 + 1 + 35 + 1 + 3 + 1
    layers = [call for call in model.calls if call.binding.prefix.startswith("model.layers.")]
    kinds = states_by_layer(model, "model.layers.")
    own = ["kv_full" if i % 5 == 4 else "kv_window" for i in range(20)]
    assert kinds == [{kind: 1} for kind in own] + [{}] * 15
    for i, call in enumerate(layers):
        writer = None if i < 20 else 19 if i % 5 == 4 else 18
        wanted = {} if writer is None else {"self_attn.attend_shared": f"model.layers.{writer}.self_attn.attend"}
        assert call.binding.caches == wanted
        keys = call.inputs.get("self_attn_attend_shared_keys")
        assert keys == (None if writer is None else f"model.layers.{writer}:self_attn_attend_keys")
    # window or not, sparse or not, and the two layers whose keys are read
    assert len({call.definition for call in layers}) == 8
    starts = [call.binding.scalars["per_layer_input", "start"] for call in layers]
    assert starts == [256 * i for i in range(35)]


CACHE = """
blocks:
  writer:
    in: x
    nodes:
      k: {{op: linear, in: x, features: 8}}
      attend: {{op: attention, in: [x, k, k], head_dim: 4}}
    out: attend
  reader:
    in: x
    nodes:
      attend: {{op: attention, q: x, {k}head_dim: 4, cache: "{path}"}}
    out: attend
graph:
  in: tokens
  nodes:
    first: {{op: embedding, in: tokens, rows: 9, features: 8}}
    top: {{op: attention, in: [first, first, first], head_dim: 4}}
    write: {{block: writer, in: top, repeat: 2}}
    read: {{block: reader, in: write, repeat: 2}}
    late: {{op: attention, in: [read, read, read], head_dim: 4}}
  out: late
"""


@pytest.mark.parametrize(
    ("path", "k", "code"),
    [
        ("write.2.attend", "", "E0303"),
        ("late", "", "E0510"),
        ("read.0.attend", "", "E0510"),
        ("write.1.attend", "k: x, ", "E0307"),
    ],
)
def test_a_cache_that_cannot_be_read_is_an_error(tmp_path: Path, path: str, k: str, code: str) -> None:
    assert error_of(tmp_path, CACHE.format(path=path, k=k)) == code


@pytest.mark.parametrize(
    ("path", "source", "writers"),
    [("write.1.attend", "write.1:attend_keys", ["writer", "writer_1"]), ("top", "top.shared:keys", ["writer"])],
)
def test_readers_of_one_cache_are_one_definition(tmp_path: Path, path: str, source: str, writers: list[str]) -> None:
    """A writer whose keys are read gives them away, and so is another definition than one whose keys are its own."""
    file = tmp_path / "m.yaml"
    file.write_text("llmc: 1\nname: m\nsummary: a test\n" + CACHE.format(path=path, k=""))
    _, model = read(file)
    assert list(model.definitions) == ["entry", *writers, "reader", "exit"]
    readers = [call for call in model.calls if call.definition == "reader"]
    assert [call.inputs["attend_keys"] for call in readers] == [source] * 2
    assert [call.binding.caches for call in readers] == [{"attend": path}] * 2


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{op: scan, in: {v: x, k: x, q: x}, key_dim: 3, value_dim: 4}", "do not fit"),
        ("{op: scan, in: {v: x, k: x, q: x, beta: x}, key_dim: 4, value_dim: 4}", "takes no beta"),
        ("{op: scan, in: {v: x, k: x, q: x}, key_dim: 4, value_dim: 4, update: delta}", "needs beta"),
        ("{op: scan, in: {v: x, k: x, q: x}, key_dim: 4, value_dim: 4, decay_per: head}", "come together"),
        ("{op: scan, in: {v: x, k: x, q: x, dt: x}, key_dim: 4, value_dim: 4}", "dt must be"),
        ("{op: slice, in: x, start: 7, size: 2}", "beyond"),
        ("{op: split_heads, in: x, sizes: {a: 2, b: 1}}", "does not divide"),
        ("{op: reshape, in: x, shape: [3, 3]}", "elements"),
        ("{op: mix_streams, in: [x, x], num_streams: 3}", "does not divide"),
        ("{op: group_norm, in: x, num_groups: 3, eps: 0.1}", "does not divide"),
        ("{op: reduce, in: x, kind: sum, head_dim: 5}", "does not divide"),
    ],
)
def test_shape_rules_of_the_new_ops_say_what_is_wrong(tmp_path: Path, node: str, message: str) -> None:
    path = tmp_path / "m.yaml"
    port = ":a" if "split_heads" in node else ""
    path.write_text(
        "llmc: 1\nname: m\nsummary: a test\ngraph:\n  in: tokens\n  nodes:\n"
        "    x: {op: embedding, in: tokens, rows: 9, features: 8}\n"
        f"    y: {node}\n  out: 'y{port}'\n"
    )
    with pytest.raises(LlmcError) as caught:
        read(path)
    assert [d.code for d in caught.value.diagnostics] == ["E0601"]
    assert message in caught.value.diagnostics[0].message


def test_gla_has_the_tensors_of_its_paper() -> None:
    """Section 4.4 at 1.3B: queries, keys at half the width, gates of rank 16, one norm for all heads."""
    width, inner = 2048, 5632
    mixer = 2 * width * width // 2 + 3 * width * width + width * 16 + 16 * width // 2 + width // 2 + width // 4
    layer = mixer + 3 * width * inner + 2 * width
    held = sum(prod(spec.shape) for spec in parameters(read("gla")[1]).values())
    assert held == 24 * layer + 2 * 32000 * width + width == 1_365_514_240
