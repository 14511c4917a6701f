"""Every packaged spec is legal, and those that transformers has too own the same parameters, name by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from math import prod
from typing import Any, cast

import pytest
import torch

from llmc.compiler.fields import evaluate_node
from llmc.compiler.ir import Model
from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
from llmc.compiler.spec import Spec
from llmc.specs.document import load_document
from llmc.specs.packaged import packaged_names, packaged_path
from llmc.specs.source import YamlMap, plain
from llmc.specs.yaml_reader import read_yaml_file

transformers: Any = pytest.importorskip("transformers")

SECTIONS = (
    "llmc", "name", "summary", "extends", "params", "blocks", "graph", "config", "weights", "tokenizer", "generation",
)  # fmt: skip

FAMILIES = (
    "llama", "mistral", "gpt2", "bert", "bert_mlm", "bert_classifier", "phi", "phi3",
    "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "starcoder2", "gpt_neox", "gptj", "codegen", "opt", "bloom", "mpt",
    "falcon", "stablelm", "cohere2", "granite", "diffllama", "roberta", "albert", "modernbert",
    "mamba", "mamba2", "falcon_mamba",
)  # fmt: skip
"""The specs whose architecture transformers has too."""

COUNTS = {
    "bert_base": 109_482_240,
    "bert_large": 335_141_888,
    "gpt2_small": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "deepseek_v2": 235_741_434_880,
    "deepseek_v2_lite": 15_706_484_224,
    "deepseek_v3": 671_026_419_200,
    "gpt_oss": 116_829_156_672,
    "gpt_oss_20b": 20_914_757_184,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama3_8b": 8_030_261_248,
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "mistral_7b": 7_241_732_096,
    "mixtral_8x7b": 46_702_792_704,
    "olmoe": 6_919_161_856,
    "qwen3_moe": 30_532_122_624,
    "qwen3_moe_235b": 235_093_634_560,
    "mistral_7b_instruct": 7_241_732_096,
    "phi1": 1_418_270_720,
    "phi1_5": 1_418_270_720,
    "phi2": 2_779_683_840,
    "phi3_mini": 3_821_079_552,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "olmo2_1b": 1_484_916_736,
    "olmo2_7b": 7_298_617_344,
    "granite_3_1_2b": 2_533_531_648,
    "granite_3_1_8b": 8_170_848_256,
    "command_r7b": 8_028_033_024,
    "starcoder2_3b": 3_030_371_328,
    "starcoder2_7b": 7_173_923_840,
    "gpt_neox_20b": 20_554_567_680,
    "pythia_70m": 70_426_624,
    "pythia_410m": 405_334_016,
    "pythia_1_4b": 1_414_647_808,
    "gptj_6b": 6_050_882_784,
    "opt_125m": 125_239_296,
    "opt_350m": 331_196_416,
    "opt_1_3b": 1_315_758_080,
    "bloom_560m": 559_214_592,
    "bloom_7b1": 7_069_016_064,
    "mpt_7b": 6_649_286_656,
    "falcon_7b": 6_921_720_704,
    "falcon_40b": 41_303_293_952,
    "stablelm_3b": 2_795_443_200,
    "stablelm2_1_6b": 1_644_515_328,
    "stablelm2_12b": 12_143_185_920,
    "roberta_base": 124_697_433,
    "roberta_large": 355_412_057,
    "albert_base_v2": 11_221_680,
    "albert_xxlarge_v2": 206_368_944,
    "modernbert_base": 149_655_232,
    "modernbert_large": 395_881_664,
    "gemma3n_e2b": 4_435_182_688,
    "gemma3n_e4b": 6_835_235_568,
    "llama4_scout": 107_769_861_120,
    "llama4_maverick": 400_711_848_960,
}
"""What the published checkpoints hold."""

ROUNDED_COUNTS = {
    "hydra": (2926, 10**5),
    "litetorch_gpt_tiny": (59, 10**3),
    "litetorch_gpt_small": (335, 10**3),
    "chimera_default_2b": (452, 10**6),
    "llmodel_tiny": (54, 10**6),
    "llmodel_small": (191, 10**6),
    "llmodel_base": (135, 10**7),
    "llmodel_large": (270, 10**7),
    "llmodel_xl": (132, 10**8),
    "trident_150m": (705, 10**5),
    "trident_medium": (162, 10**6),
    "trident_1b": (119, 10**7),
    "trident_3b": (303, 10**7),
}
"""The check values of presets without a published checkpoint: (count, unit)."""

SAVED_NAMES: dict[str, dict[str, str]] = {"gpt_neox": {"lm_head.weight": "embed_out.weight"}}
"""By model type, names that transformers changes when it saves."""

TWINS = tuple(
    sorted({*COUNTS, "bert_tiny", "codegen_350m", "diffllama", "gpt2_tiny", "llama_tiny", "mistral_tiny", "phi_tiny"})
)

GENERIC_KEYS = frozenset(
    ("initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "problem_type")
)
"""Config keys of every architecture that say nothing about what the graph computes."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:  # pyright: ignore[reportUnusedFunction]
    torch.set_num_threads(1)


@cache
def model_of(name: str, num_layers: int | None = None) -> tuple[Spec, Model]:
    return read(name, None if num_layers is None else {"num_layers": num_layers})


def plain_map(section: YamlMap | None, key: str) -> dict[str, Any]:
    node = section.get(key) if section else None
    return cast("dict[str, Any]", plain(node)) if node is not None else {}


def plain_list(section: YamlMap | None, key: str) -> list[Any]:
    node = section.get(key) if section else None
    return cast("list[Any]", plain(node)) if node is not None else []


def canonical_name(spec: Spec, name: str) -> str:
    """The name that a parameter is saved under: the first alternative of the rename rule that matches it."""
    for rule in plain_list(spec.weights, "rules"):
        if rule.get("how") == "rename" and fnmatchcase(name, rule["path"]):
            path, first = str(rule["path"]), str(rule["from"][0])
            return name.removesuffix(path.lstrip("*")) + first.lstrip("*") if "*" in path else first
    return name


def tied_paths(spec: Spec) -> set[str]:
    """Paths that are a second name of another parameter."""
    node = spec.weights.get("tie") if spec.weights else None
    ties = cast("list[dict[str, Value]]", evaluate_node(node, {}, is_text=True)) if node is not None else []
    return {str(tie["path"]) for tie in ties if spec.environment.get(str(tie.get("when")), True)}


def checkpoint_shapes(spec: Spec, model: Model) -> dict[str, tuple[int, ...]]:
    """Name -> shape as a checkpoint stores it, without second names."""
    found: dict[str, tuple[int, ...]] = {}
    for call in model.calls:
        for path, owned in model.definitions[call.definition].parameters.items():
            for parameter in owned:
                name = ".".join(part for part in (call.binding.absolute(path), parameter.name) if part)
                shape = tuple(reversed(parameter.shape)) if parameter.is_transposed else parameter.shape
                found[name] = shape
    tied = tied_paths(spec)
    return {canonical_name(spec, name): shape for name, shape in found.items() if name not in tied}


def count(name: str) -> int:
    return sum(prod(shape) for shape in checkpoint_shapes(*model_of(name)).values())


def config_keys(target: Any) -> list[str]:
    """The keys that one entry of `config.params` names, the canonical one first."""
    named = cast("dict[str, Any]", target)["key"] if isinstance(target, dict) else target
    return cast("list[str]", named) if isinstance(named, list) else [str(named)]


def exported_config(spec: Spec) -> dict[str, Any]:
    """The spec's params as the keyword arguments of a transformers config."""
    config: dict[str, Any] = {}
    written = spec.config.get("params") if spec.config else None
    for param, target in plain_map(spec.config, "params").items():
        entry = written.get(param) if isinstance(written, YamlMap) else None
        when = entry.get("when") if isinstance(entry, YamlMap) else None
        if when is not None and evaluate_node(when, spec.environment, is_text=False) is not True:
            continue
        value = spec.params[param].value
        key = config_keys(target)[0]
        if isinstance(target, dict) and "values" in target:
            value = next(theirs for theirs, ours in cast("dict[str, str]", target["values"]).items() if ours == value)
            value = {"true": True, "false": False}.get(value, value)
        if isinstance(target, dict) and "count" in target:
            key = "num_labels"
        *outer, last = key.split(".")
        holder = config
        for part in outer:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return config


def twin(spec: Spec) -> Any:
    """The transformers model of the spec's config, without storage."""
    architecture = getattr(transformers, plain_list(spec.config, "architectures")[0])
    config = architecture.config_class(**exported_config(spec))
    with torch.device("meta"):
        return architecture(config)


def twin_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Its state_dict as name -> shape, without second names."""
    tied = set(model.all_tied_weights_keys)
    names = SAVED_NAMES.get(str(model.config.model_type), {})
    shapes = {str(name): tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    return {names.get(name, name): shape for name, shape in shapes.items()}


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_spec_is_legal(name: str) -> None:
    spec, model = model_of(name)
    assert spec.name == name
    assert len(spec.summary) > 20
    assert model.outputs


@pytest.mark.parametrize("name", packaged_names())
def test_sections_stand_in_one_order(name: str) -> None:
    root = read_yaml_file(packaged_path(name), name)
    keys = [key for key in root.entries if not key.startswith("x-")]
    assert keys == [key for key in SECTIONS if key in keys]


@pytest.mark.parametrize("name", packaged_names())
def test_presets_are_short(name: str) -> None:
    path = packaged_path(name)
    if set(read_yaml_file(path, name).entries) <= {"llmc", "name", "summary", "extends", "params", "generation"}:
        assert len(path.read_text().splitlines()) <= 15


@pytest.mark.parametrize("name", packaged_names())
def test_no_spec_is_long(name: str) -> None:
    assert len(packaged_path(name).read_text().splitlines()) <= 160


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_of_transformers(name: str) -> None:
    spec, model = model_of(name, 2)
    ours, theirs = checkpoint_shapes(spec, model), twin_shapes(twin(spec))
    node = spec.weights.get("prefix") if spec.weights else None
    prefix = "" if node is None else str(plain(node))
    if prefix and not any(key.startswith(prefix) for key in theirs):
        ours = {key.removeprefix(prefix): shape for key, shape in ours.items()}
    assert ours == theirs


@pytest.mark.parametrize("name", TWINS)
def test_preset_has_as_many_parameters_as_in_transformers(name: str) -> None:
    assert count(name) == sum(prod(shape) for shape in twin_shapes(twin(model_of(name)[0])).values())


@pytest.mark.parametrize(("name", "expected"), COUNTS.items())
def test_preset_has_as_many_parameters_as_published(name: str, expected: int) -> None:
    assert count(name) == expected


@pytest.mark.parametrize(("name", "expected"), ROUNDED_COUNTS.items())
def test_preset_meets_its_check_value(name: str, expected: tuple[int, int]) -> None:
    value, unit = expected
    assert round(count(name) / unit) == value


@pytest.mark.parametrize("name", FAMILIES)
def test_every_key_of_the_config_class_is_spoken_for(name: str) -> None:
    spec, _ = model_of(name, 2)
    architecture = getattr(transformers, plain_list(spec.config, "architectures")[0])
    keys: set[str] = architecture.config_class().to_dict().keys() - transformers.PreTrainedConfig().to_dict().keys()
    spoken: set[str] = {*plain_map(spec.config, "fixed"), *plain_list(spec.config, "ignore")}
    for target in plain_map(spec.config, "params").values():
        spoken.update(config_keys(target))
    assert keys - GENERIC_KEYS <= {key.split(".")[0] for key in spoken}


@pytest.mark.parametrize("name", FAMILIES)
def test_config_survives_the_way_through_transformers(name: str) -> None:
    spec, _ = model_of(name, 2)
    architecture = getattr(transformers, plain_list(spec.config, "architectures")[0])
    exported = exported_config(spec)
    returned = architecture.config_class(**exported).to_dict()
    assert restricted(returned, exported) == restricted(exported, returned)


def restricted(value: Any, like: Any) -> Any:
    """The value without the keys that `like` has not."""
    if not isinstance(value, dict) or not isinstance(like, dict):
        return cast("object", value)
    ours, theirs = cast("dict[str, Any]", value), cast("dict[str, Any]", like)
    return {key: restricted(inner, theirs[key]) for key, inner in ours.items() if key in theirs}


def test_pairs_of_pos_type_and_norm_order_of_llmodel() -> None:
    for pos_type in ("rope", "absolute", "sinusoidal", "alibi"):
        for norm_first in (True, False):
            spec, model = read("llmodel_tiny", {"pos_type": pos_type, "norm_first": norm_first})
            shapes = checkpoint_shapes(spec, model)
            assert ("model.embed_positions.weight" in shapes) == (pos_type == "absolute")
            ops = {node.op.name for d in model.definitions.values() for node in d.definition.nodes}
            assert ("rope" in ops, "sinusoidal" in ops) == (pos_type == "rope", pos_type == "sinusoidal")


def test_layers_of_gpt2_share_one_definition_when_scaled_by_depth() -> None:
    _, model = read("gpt2_tiny", {"scale_attn_by_inverse_layer_idx": True, "num_layers": 4})
    scalars = [c.binding.scalars["attn.q_scale", "factor"] for c in model.calls if c.definition == "layer"]
    assert scalars == [1.0, 1 / 2, 1 / 3, 1 / 4]


def test_heads_of_bert_share_one_base() -> None:
    for name in ("bert_mlm", "bert_classifier"):
        assert load_document(name).chain[-1].endswith("bert.yaml")
    assert list(model_of("bert", 2)[1].outputs) == ["sequence_output", "pooled_output"]
    assert list(model_of("bert_mlm", 2)[1].outputs) == ["logits"]
    assert list(model_of("bert_classifier", 2)[1].outputs) == ["logits"]
