"""The golden rule for models with an encoder and a decoder: the shared checks, and what two token axes add to them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.plan import plan
from llmc.compiler.program import native_is_on
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor
from llmc.specs.diagnostics import LlmcError

from ..switches import only_with_passes
from . import test_gradients, test_mutations, test_prefill, test_reference, test_round_trip
from .comparison import tolerance
from .family import VOCAB, Family
from .mutations import Mutation, mutations
from .reference import TOKENS
from .running import RUNS, Run, named, require_golden
from .seq2seq import SEQ2SEQ, SOURCE, START, Seq2SeqGolden, make_seq2seq
from .test_batches import LENGTHS, SIDES, padded
from .test_decode import CHUNKS
from .test_greedy import NEW, require_greedy, varied, written

Check = Callable[..., None]
pytestmark = pytest.mark.parametrize("golden", SEQ2SEQ, ids=lambda family: family.name, indirect=True)
each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
SOURCES = (11, SOURCE, 2, 17)
"""Tokens of the encoder beside `LENGTHS` of the decoder."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Seq2SeqGolden]:
    found: dict[str, Seq2SeqGolden] = {}

    def get(family: Family) -> Seq2SeqGolden:
        if family.name not in found:
            found[family.name] = make_seq2seq(family, tmp_path_factory.mktemp(family.name))
        return found[family.name]

    return get


@pytest.fixture
def golden(request: pytest.FixtureRequest, made: Callable[[Family], Seq2SeqGolden]) -> Seq2SeqGolden:
    return made(request.param)


def checks(*listed: Check) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("check", listed, ids=lambda check: check.__name__.removeprefix("test_"))


def feed(model: LanguageModel, golden: Seq2SeqGolden, sizes: Sequence[int]) -> Tensor:
    """Logits of tokens that are given in pieces, the encoder's with the first."""
    cache = model.new_cache(len(golden.tokens), TOKENS)
    inputs = dict(golden.inputs)
    found: list[Tensor] = []
    for piece in golden.tokens.split(list(sizes), dim=1):
        found.append(named(model(piece, cache=cache, **inputs))["logits"])
        inputs.clear()
    return torch.cat(found, dim=1)


# --- the shared checks ----------------------------------------------------------------------------------------------


@each_run
def test_whole(golden: Seq2SeqGolden, model: LanguageModel, model_by_spec: LanguageModel, run: Run) -> None:
    test_prefill.test_folder_equals_reference(golden, model, run)
    test_prefill.test_spec_and_params_equal_the_folder(golden, model, model_by_spec, run)


@each_run
def test_float64(golden: Seq2SeqGolden, wide_model: LanguageModel, run: Run) -> None:
    test_prefill.test_float64_equals_the_float64_reference(golden, wide_model, run)


@checks(
    test_gradients.test_gradients_equal_the_reference,
    test_gradients.test_gradients_after_the_program_ran,
    test_mutations.test_every_tensor_matters,
    test_reference.test_every_tensor_is_random,
    test_reference.test_exact_run_is_float64,
    test_reference.test_shards,
)
def test_of_the_golden(golden: Seq2SeqGolden, check: Check) -> None:
    check(golden)


@checks(*test_round_trip.CHECKS)
def test_folders(golden: Seq2SeqGolden, tmp_path: Path, check: Check) -> None:
    check(golden, tmp_path)


@pytest.mark.parametrize("sizes", CHUNKS.values(), ids=CHUNKS)
def test_chunks_equal_the_whole(golden: Seq2SeqGolden, model: LanguageModel, sizes: list[int]) -> None:
    require_golden(golden, {"logits": feed(model, golden, sizes)})


@pytest.mark.parametrize("switch", ["LLMC_PASSES", "LLMC_KERNELS"])
@pytest.mark.parametrize("sizes", [[TOKENS], CHUNKS["ragged"]], ids=["whole", "ragged"])
def test_without_passes_and_without_kernels(
    golden: Seq2SeqGolden, monkeypatch: pytest.MonkeyPatch, switch: str, sizes: list[int]
) -> None:
    """Without the pass that takes them out, cross keys are made anew at each call, of what was kept of the encoder."""
    monkeypatch.setenv(switch, "0")
    require_golden(golden, {"logits": feed(llmc.load(golden.folder), golden, sizes)})


@pytest.mark.usefixtures("through_torch")
def test_mutants_are_not_golden(golden: Seq2SeqGolden, tmp_path: Path) -> None:
    listed = [Mutation(name="none"), *mutations(golden.family)]
    assert len(listed) > 10
    for mutation in listed:
        spec = test_mutations.mutant_spec(golden.family, mutation, tmp_path)
        mutant = llmc.load(spec, weights=golden.folder, params={**golden.family.params, **mutation.params})
        for name, run in RUNS.items():
            outputs = run(mutant, golden.tokens, **golden.inputs)
            if mutation.name == "none":
                require_golden(golden, outputs)
            else:
                assert not test_mutations.is_golden(golden, outputs), f"{mutation.name}, {name}"


def test_scores_have_unit_size(golden: Seq2SeqGolden) -> None:
    assert 0.05 < golden.expected["logits"].std() < 2.0
    with torch.no_grad():
        answer = golden.reference(
            input_ids=golden.inputs["encoder_tokens"], decoder_input_ids=golden.tokens, output_attentions=True
        )
    for attentions in (answer.encoder_attentions, answer.decoder_attentions, answer.cross_attentions):
        last = attentions[0][:, :, -1].flatten(0, 1)
        assert 0.2 < torch.stack([row[row > 0].log().std() for row in last]).mean() < 4.0


# --- two axes -------------------------------------------------------------------------------------------------------


def ragged_inputs(side: str, other: str) -> tuple[list[Tensor], list[Tensor], Tensor, dict[str, Tensor]]:
    """Rows of the decoder and of the encoder, and both as one padded batch with its masks."""
    rows = [torch.randint(0, VOCAB, (length,)) for length in LENGTHS]
    sources = [torch.randint(0, VOCAB, (length,)) for length in SOURCES]
    tokens, mask = padded(rows, side)
    source, source_mask = padded(sources, other)
    inputs = {"attention_mask": mask, "encoder_tokens": source, "encoder_attention_mask": source_mask}
    return rows, sources, tokens, inputs


@pytest.mark.parametrize(("side", "other"), [(a, b) for a in SIDES for b in SIDES])
@each_run
def test_rows_of_unequal_lengths_on_both_axes(
    golden: Seq2SeqGolden, model: LanguageModel, run: Run, side: str, other: str
) -> None:
    rows, sources, tokens, inputs = ragged_inputs(side, other)
    together = run(model, tokens, **inputs)["logits"]
    for index, (row, source) in enumerate(zip(rows, sources, strict=True)):
        kept = together[index][inputs["attention_mask"][index]]
        alone = run(model, row[None], encoder_tokens=source[None])["logits"][0]
        expected = golden.ask(row[None], encoder_tokens=source[None])["logits"]
        assert (kept - alone).abs().max() < golden.rounding_apart("logits")
        assert (kept - expected[0]).abs().max() < tolerance(expected)


@pytest.mark.parametrize(("side", "other"), [("left", "right"), ("right", "left")])
def test_ragged_prefill_then_decode(golden: Seq2SeqGolden, model: LanguageModel, side: str, other: str) -> None:
    """Rows go on token by token, some of them pausing; each equals its whole sequence in the reference."""
    rows, sources, tokens, inputs = ragged_inputs(side, other)
    whole = [list(row.tolist()) for row in rows]
    cache = model.new_cache(len(rows), TOKENS + 8)
    logits = named(model(tokens, cache=cache, **inputs))["logits"]
    last = [logits[index][inputs["attention_mask"][index]][-1] for index in range(len(rows))]
    for step in range(8):
        active = torch.tensor([(step + index) % 3 != 0 for index in range(len(rows))])[:, None]
        new = torch.randint(0, VOCAB, (len(rows), 1))
        logits = named(model(new, active, cache))["logits"]
        for index in active[:, 0].nonzero()[:, 0].tolist():
            whole[index].append(int(new[index]))
            last[index] = logits[index, -1]
    for index, (row, source) in enumerate(zip(whole, sources, strict=True)):
        expected = golden.ask(torch.tensor([row]), encoder_tokens=source[None])["logits"]
        assert (last[index] - expected[0, -1]).abs().max() < tolerance(expected)


def test_an_axis_longer_than_the_other(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    """Neither length bounds the other, nor does `max_seq_len` bound the encoder's."""
    tokens, source = golden.tokens[:, :3], torch.randint(0, VOCAB, (2, 90))
    cache = model.new_cache(2, 3)
    logits = named(model(tokens, cache=cache, encoder_tokens=source))["logits"]
    expected = golden.ask(tokens, encoder_tokens=source)["logits"]
    assert (logits - expected).abs().max() < tolerance(expected)
    single = model(tokens, cache=model.new_cache(2, 3), encoder_tokens=source[:, :1])
    assert (named(single)["logits"] - golden.ask(tokens, encoder_tokens=source[:, :1])["logits"]).abs().max() < 1e-4


# --- what is given once ---------------------------------------------------------------------------------------------


def test_it_is_machine_code(model: LanguageModel) -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    assert isinstance(model.executor(), NativeExecutor)


def test_the_encoder_is_not_run_again(golden: Seq2SeqGolden) -> None:
    """After the first call, nothing that only the encoder's tokens reach is read: not even NaN in its weights."""
    only_with_passes()
    model = llmc.load(golden.folder)
    cache = model.new_cache(2, TOKENS)
    model(golden.tokens[:, :5], cache=cache, **golden.inputs)
    spoiled = [
        parameter
        for path, parameter in model.named_parameters()
        if path.startswith("encoder.block") or path.endswith(("EncDecAttention.k.weight", "EncDecAttention.v.weight"))
    ]
    with torch.no_grad():
        for parameter in spoiled:
            parameter.fill_(float("nan"))
    for piece in (golden.tokens[:, 5:6], golden.tokens[:, 6:]):
        logits = named(model(piece, cache=cache))["logits"]
    assert (logits - golden.expected["logits"][:, 6:]).abs().max() < tolerance(logits)
    assert torch.isnan(named(model(golden.tokens, cache=model.new_cache(2, TOKENS), **golden.inputs))["logits"]).all()


def test_rollback_keeps_what_was_given_once(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    cache = model.new_cache(2, TOKENS)
    model(torch.randint(0, VOCAB, (2, 9)), cache=cache, **golden.inputs)
    for taken in (4, 5):
        cache.rollback(taken)
    logits = named(model(golden.tokens, cache=cache))["logits"]
    require_golden(golden, {"logits": logits})


def test_reset_takes_another_source(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    cache = model.new_cache(2, TOKENS)
    empty = cache.bytes
    model(golden.tokens[:, :9], cache=cache, encoder_tokens=torch.randint(0, VOCAB, (2, 13)))
    cache.reset()
    assert cache.bytes == empty
    with pytest.raises(LlmcError, match="E0804"):
        model(golden.tokens, cache=cache)
    require_golden(golden, named(model(golden.tokens, cache=cache, **golden.inputs)))


def test_bytes_are_those_of_the_plan(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    """Of the states; what is kept beside them, positions and lengths of the encoder's axis, is 8 bytes a token."""
    only_with_passes()
    program = model.program
    planned = plan(program.model, program.weights.ties, batch=2, context=SOURCE, dtype="float32")
    cache = model.new_cache(2, SOURCE)
    assert set(cache.states) == {state.path for state in planned.states}
    model(golden.tokens[:, :SOURCE], cache=cache, **golden.inputs)
    kept = sum(tensor.nbytes for tensor in cache.kept.values())
    assert cache.bytes == planned.state_bytes + kept
    assert kept == 2 * 8 * (SOURCE + 1)
    assert {state.spec.kind for state in planned.states} == {"kv_full", "cross_kv"}


def test_a_decoded_token_costs_no_encoder(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    program = model.program
    sizes = plan(program.model, program.weights.ties, context=64)
    encoder = sum(p.numel() for path, p in model.named_parameters() if path.startswith("encoder.block"))
    cross = sum(p.numel() for path, p in model.named_parameters() if path.endswith(("ion.k.weight", "ion.v.weight")))
    assert 0 < encoder <= sizes.parameters - sizes.active_parameters < encoder + cross
    assert sizes.decode_flops < 0.05 * sizes.prefill_flops


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "E0804"),
        ({"encoder_tokens": torch.zeros(2, 3)}, "E0803"),
        ({"encoder_tokens": torch.zeros(3, 3, dtype=torch.int64)}, "E0803"),
        ({"encoder_tokens": torch.zeros(2, 0, dtype=torch.int64)}, "E0803"),
        ({"encoder_tokens": torch.zeros(2, 3, 1, dtype=torch.int64)}, "E0803"),
        ({"encoder_tokens": torch.full((2, 3), VOCAB)}, "E0803"),
        ({"encoder_tokens": torch.full((2, 3), -1)}, "E0803"),
        ({"encoder_tokens": torch.zeros(2, 3, dtype=torch.int64), "encoder_attention_mask": torch.ones(2, 4)}, "E0803"),
        ({"encoder_tokens": torch.zeros(2, 3, dtype=torch.int64), "encoder_mask": torch.ones(2, 3)}, "E0804"),
    ],
)
@each_run
def test_wrong_inputs(model: LanguageModel, run: Run, inputs: dict[str, Tensor], code: str) -> None:
    with pytest.raises(LlmcError, match=code):
        run(model, torch.zeros(2, 4, dtype=torch.int64), **inputs)


def test_what_is_given_once_is_not_given_twice(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    cache = model.new_cache(2, TOKENS)
    model(golden.tokens[:, :4], cache=cache, **golden.inputs)
    mask = torch.ones(2, SOURCE, dtype=torch.bool)
    for again in (golden.inputs, {"encoder_attention_mask": mask}):
        with pytest.raises(LlmcError, match=r"E0804.*given once"):
            model(golden.tokens[:, 4:], cache=cache, **again)
    assert cache.length == 4


# --- text -----------------------------------------------------------------------------------------------------------


def test_greedy_tokens(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    """The prompt goes to the encoder; prompts of unequal lengths stand in one batch."""
    prompts = torch.randint(0, VOCAB, (40, 12), generator=torch.Generator().manual_seed(5)).tolist()
    texts = written(model, prompts)
    first, second = varied(texts)
    unequal = written(model, [[3], prompts[first], [5] * 30, prompts[second]])
    for index, row in enumerate((first, second)):
        alone = model.generate(prompts[row], max_new_tokens=NEW, ignore_eos=True)
        for text in (texts[row], alone.tokens, unequal[2 * index + 1]):
            fed = torch.tensor([[START, *text[:-1]]])
            require_greedy(text, golden.ask(fed, encoder_tokens=torch.tensor([prompts[row]]))["logits"][0])
        assert (alone.finish_reason, alone.prompt_tokens) == ("length", len(prompts[row]))


def test_stops_at_an_end_token(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    tokens = model.generate([3, 1, 4], max_new_tokens=NEW, ignore_eos=True).tokens
    end = tokens[11]
    stopped = model.generate([3, 1, 4], max_new_tokens=NEW, stop_ids=[end], ignore_eos=True)
    assert stopped.tokens == tokens[: tokens.index(end) + 1]
    assert stopped.finish_reason == "stop"


def test_repetition_penalty_counts_the_decoders_tokens(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    """As in transformers: those that it wrote and its start token, not the prompt's."""
    prompt = [START + 1, 4, 9, 14, 3]
    expected = golden.reference.generate(  # type: ignore[operator]
        input_ids=torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0,
        use_cache=False, repetition_penalty=1.7,
    )  # fmt: skip
    found = model.generate(prompt, max_new_tokens=24, ignore_eos=True, repetition_penalty=1.7)
    assert found.tokens == expected[0, 1:].tolist()


def test_where_the_start_token_is_said(golden: Seq2SeqGolden, tmp_path: Path) -> None:
    """The folder's files come before the spec, whose 0 holds without one; a spec without any cannot generate."""
    folder = llmc.load(golden.folder)
    assert folder.folder_decoder_start_id == START
    by_spec = llmc.load("t5", params=dict(golden.family.params))
    assert by_spec.folder_decoder_start_id is None
    assert len(by_spec.generate([1, 2], max_new_tokens=3, ignore_eos=True).tokens) == 3
    silent = test_mutations.mutant_spec(
        golden.family, Mutation(name="silent", overlay={"generation": {"decoder_start_token_id": None}}), tmp_path
    )
    with pytest.raises(LlmcError, match=r"E0808.*which token"):
        llmc.load(silent, params=dict(golden.family.params)).generate([1, 2], max_new_tokens=3)


def test_a_cache_needs_a_size(golden: Seq2SeqGolden, model: LanguageModel) -> None:
    with pytest.raises(LlmcError, match=r"E0803.*max_seq_len"):
        model.new_cache(len(golden.tokens))
