"""What only encoders have: token types, masks, several outputs, and checkpoints of one head loaded as another."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import llmc
from llmc.compiler.ops.declaration import Value
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError

from .comparison import tolerance
from .conftest import Goldens
from .families import VOCAB, by_name, each_encoder
from .random_weights import randomise
from .reference import Golden, outputs_of
from .running import RUNS, Run, named

ROWS, WIDTH = 3, 19
LENGTHS = (19, 4, 11)


@each_encoder
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_masked_equals_the_reference_with_the_same_mask(golden: Golden, model: LanguageModel, run: Run) -> None:
    """Padded on the right, as encoders are; compared where a token is."""
    tokens = torch.randint(0, VOCAB, (ROWS, WIDTH))
    types = {"token_type_ids": torch.randint(0, 3, (ROWS, WIDTH))} if golden.inputs else {}
    mask = torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]
    expected = golden.ask(tokens, attention_mask=mask.long(), **types)
    for given in (mask, mask.long()):
        for name, value in run(model, tokens, given, **types).items():
            difference = (value - expected[name]).abs()
            if value.shape[:2] == mask.shape:
                difference = difference[mask]
            assert difference.max() < tolerance(expected[name]), name


@each_encoder
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_token_types(golden: Golden, model: LanguageModel, run: Run) -> None:
    """Absent ones are 0, and others change the answer."""
    if not golden.inputs:
        pytest.skip("has no token types")
    zeros = torch.zeros_like(golden.tokens)
    expected = golden.ask(golden.tokens)
    absent, given = run(model, golden.tokens), run(model, golden.tokens, token_type_ids=zeros)
    for name, value in absent.items():
        assert torch.equal(value, given[name])
        assert (value - expected[name]).abs().max() < tolerance(expected[name])
        other = run(model, golden.tokens, token_type_ids=zeros + 1)[name]
        assert (value - other).abs().max() > 0.01


@each_encoder
def test_outputs(golden: Golden, model: LanguageModel) -> None:
    answer = model(golden.tokens)
    if golden.family.spec == "bert":
        assert list(answer) == ["sequence_output", "pooled_output"]
        assert answer.pooled_output.shape == (2, 60)
        with pytest.raises(AttributeError, match="sequence_output, pooled_output"):
            _ = answer.logits
    else:
        assert answer.shape == ((2, 5) if golden.family.spec == "bert_classifier" else (2, 37, VOCAB))
    with pytest.raises(LlmcError, match=r"E0804.*token_type_ids" if golden.inputs else "E0804"):
        model(golden.tokens, token_type_id=golden.tokens)


@pytest.fixture
def pretraining(tmp_path: Path) -> tuple[transformers.BertForPreTraining, Path]:
    """All heads that BERT was trained with: encoder, pooler, MLM head and next-sentence head."""
    config = transformers.BertConfig.from_dict({**by_name("bert_mlm").kwargs, "attn_implementation": "eager"})
    reference = transformers.BertForPreTraining(config).eval()
    randomise(reference, seed=3, embedding_std=0.3, bias_std=0.3)
    reference.save_pretrained(tmp_path)
    return reference, tmp_path


def name_architecture(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))


def params_of(name: str) -> dict[str, Value]:
    """Params without those that `bert` has not."""
    return {key: value for key, value in by_name(name).params.items() if key != "tie_word_embeddings"}


def test_pretraining_checkpoint_as_an_encoder(pretraining: tuple[transformers.BertForPreTraining, Path]) -> None:
    """Names with `bert.` before them, and a head that `bert` does not read."""
    reference, folder = pretraining
    tokens = torch.randint(0, VOCAB, (2, 17))
    with torch.no_grad():
        expected = outputs_of(reference.bert(tokens), "bert")
    name_architecture(folder, "BertModel")
    for model in (llmc.load(folder), llmc.load("bert", weights=folder, params=params_of("bert_mlm"))):
        for run in RUNS.values():
            for name, value in run(model, tokens).items():
                assert (value - expected[name]).abs().max() < tolerance(expected[name]), name


def test_pretraining_checkpoint_as_a_masked_model(pretraining: tuple[transformers.BertForPreTraining, Path]) -> None:
    """As the published bert-base-uncased: BertForMaskedLM, with a pooler and a next-sentence head besides."""
    reference, folder = pretraining
    tokens = torch.randint(0, VOCAB, (2, 17))
    with torch.no_grad():
        expected = reference(tokens).prediction_logits
    name_architecture(folder, "BertForMaskedLM")
    for model in (llmc.load(folder), llmc.load("bert_mlm", weights=folder, params=dict(by_name("bert_mlm").params))):
        for run in RUNS.values():
            assert (run(model, tokens)["logits"] - expected).abs().max() < tolerance(expected)


def test_classifier_checkpoint_as_an_encoder(goldens: Goldens) -> None:
    """Its classifier is no parameter of `bert`, and is named."""
    folder = goldens(by_name("bert_classifier")).folder
    with pytest.raises(LlmcError) as error:
        llmc.load("bert", weights=folder, params=params_of("bert"))
    assert {d.code for d in error.value.diagnostics} == {"E0704"}
    assert all("'classifier." in d.message for d in error.value.diagnostics)


def test_masked_checkpoint_without_a_pooler_as_an_encoder(goldens: Goldens) -> None:
    """Nothing is made up: transformers would fill the pooler at random."""
    folder = goldens(by_name("bert_mlm")).folder
    with pytest.raises(LlmcError) as error:
        llmc.load("bert", weights=folder, params=params_of("bert_mlm"))
    assert [d.code for d in error.value.diagnostics] == ["E0703", "E0703"]
    assert all("'bert.pooler.dense." in d.message for d in error.value.diagnostics)


def test_encoder_checkpoint_as_a_masked_model(goldens: Goldens) -> None:
    """A head that was never trained is missing."""
    golden = goldens(by_name("bert"))
    with pytest.raises(LlmcError) as error:
        llmc.load("bert_mlm", weights=golden.folder, params={**golden.family.params, "tie_word_embeddings": True})
    assert {d.code for d in error.value.diagnostics} == {"E0703"}
    assert all("cls.predictions." in d.message for d in error.value.diagnostics)


def test_names_of_the_first_release(goldens: Goldens, tmp_path: Path) -> None:
    """TensorFlow's gamma and beta."""
    from safetensors.torch import load_file, save_file

    golden = goldens(by_name("bert"))
    tensors = load_file(golden.folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((golden.folder / "config.json").read_bytes())
    model = llmc.load(tmp_path)
    for name, value in named(model(golden.tokens, **golden.inputs)).items():
        assert (value - golden.expected[name]).abs().max() < tolerance(value)
    model.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == old.keys()
