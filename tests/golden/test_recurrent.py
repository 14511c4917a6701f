"""The golden rule for families with recurrent state: the shared checks, and what is different about such a state."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.plan import plan
from llmc.kernels.states import STATES
from llmc.runtime.cache import UNBOUNDED, Cache
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError

from . import (
    test_batches,
    test_decode,
    test_determinism,
    test_gradients,
    test_greedy,
    test_mutations,
    test_nonfinite,
    test_prefill,
    test_reference,
    test_round_trip,
    test_weight_faults,
)
from .comparison import tolerance
from .family import VOCAB, Family
from .hybrid_families import HYBRIDS
from .mutations import Mutation
from .recurrent_families import each_recurrent
from .reference import Golden
from .running import RUNS, Run, named

pytestmark = each_recurrent
Check = Callable[..., None]
HYBRID = {"hydra", "lfm2", "qwen3_next", "zamba2", "jamba", *(family.spec for family in HYBRIDS)}
"""Specs with attention in some layers."""


def checks(*listed: Check) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("check", listed, ids=lambda check: check.__name__.removeprefix("test_"))


each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@checks(
    test_prefill.test_folder_equals_reference,
    test_determinism.test_other_rows_change_no_output,
)
@each_run
def test_whole_prompts(golden: Golden, model: LanguageModel, run: Run, check: Check) -> None:
    check(golden, model, run)


@each_run
def test_spec_and_params(golden: Golden, model: LanguageModel, model_by_spec: LanguageModel, run: Run) -> None:
    test_prefill.test_spec_and_params_equal_the_folder(golden, model, model_by_spec, run)


@each_run
def test_float64(golden: Golden, wide_model: LanguageModel, run: Run) -> None:
    test_prefill.test_float64_equals_the_float64_reference(golden, wide_model, run)


def test_another_size_of_model(golden: Golden, model: LanguageModel) -> None:
    if "layer_types" not in golden.family.params:
        test_weight_faults.test_another_size_of_model(golden, model)


@checks(
    test_prefill.test_single_token,
    test_prefill.test_what_was_written_in_c_compiles,
    test_batches.test_ragged_chunks_of_ragged_rows,
    test_determinism.test_same_seed_same_tokens,
    test_greedy.test_greedy_tokens,
)
def test_of_the_loaded_model(golden: Golden, model: LanguageModel, check: Check) -> None:
    check(golden, model)


@pytest.mark.parametrize("sizes", test_decode.CHUNKS.values(), ids=test_decode.CHUNKS)
def test_chunks_equal_the_whole(golden: Golden, model: LanguageModel, sizes: list[int]) -> None:
    test_decode.test_chunks_equal_the_whole(golden, model, sizes)


@pytest.mark.parametrize("side", test_batches.SIDES)
@each_run
def test_padded_rows(golden: Golden, model: LanguageModel, run: Run, side: str) -> None:
    test_batches.test_padded_rows_equal_rows_alone(golden, model, run, side)


@pytest.mark.parametrize("side", test_batches.SIDES)
def test_padded_prefill_then_decode(golden: Golden, model: LanguageModel, side: str) -> None:
    test_batches.test_padded_prefill_then_decode(golden, model, side)


@checks(
    test_gradients.test_gradients_equal_the_reference,
    test_gradients.test_gradients_after_the_program_ran,
    test_mutations.test_every_tensor_matters,
    test_determinism.test_initialisation_depends_on_the_seed_only,
    test_reference.test_every_tensor_is_random,
    test_reference.test_exact_run_is_float64,
    test_reference.test_shards,
    test_nonfinite.test_a_model_that_went_bad_stops,
)
def test_of_the_golden(golden: Golden, check: Check) -> None:
    check(golden)


@checks(*test_round_trip.CHECKS, test_nonfinite.test_load_refuses)
def test_folders(golden: Golden, tmp_path: Path, check: Check) -> None:
    check(golden, tmp_path)


@checks(
    test_weight_faults.test_renamed,
    test_nonfinite.test_in_any_tensor,
)
def test_faults(golden: Golden, model: LanguageModel, tmp_path: Path, check: Check) -> None:
    check(golden, model, tmp_path)


@checks(test_weight_faults.test_dropped, test_weight_faults.test_added, test_weight_faults.test_lengthened)
@test_weight_faults.each_choice
def test_faults_of_layers(
    golden: Golden, model: LanguageModel, tmp_path: Path, check: Check, choose: test_weight_faults.Choose
) -> None:
    check(golden, model, tmp_path, choose)


# --- the cache ------------------------------------------------------------------------------------------------------


def feed(model: LanguageModel, cache: Cache, tokens: Tensor) -> Tensor:
    return named(model(tokens, cache=cache))["logits"]


@pytest.mark.parametrize(("batch", "capacity"), [(1, 101), (3, 29), (2, 7)])
def test_bytes_are_those_of_the_plan(golden: Golden, model: LanguageModel, batch: int, capacity: int) -> None:
    program = model.program
    planned = plan(program.model, program.weights.ties, batch=batch, context=capacity, dtype="float32")
    cache = model.new_cache(batch, capacity)
    assert cache.bytes == planned.state_bytes > 0
    assert set(cache.states) == {state.path for state in planned.states}
    feed(model, cache, golden.tokens[:1].expand(batch, -1)[:, :capacity])
    assert cache.bytes == planned.state_bytes


def test_without_attention_there_is_no_limit(golden: Golden, model: LanguageModel) -> None:
    if golden.family.spec in HYBRID:
        assert model.new_cache().max_seq_len == 101
        return
    assert model.new_cache().max_seq_len == UNBOUNDED
    assert model.new_cache().bytes == model.new_cache(1, 1).bytes


def test_rollback_needs_a_snapshot(golden: Golden, model: LanguageModel) -> None:
    cache = model.new_cache(2, 64)
    feed(model, cache, golden.tokens[:, :12])
    with pytest.raises(LlmcError, match="E0802"):
        cache.rollback(1)
    assert cache.length == 12
    cache.rollback(0)
    cache.rollback(12)
    logits = feed(model, cache, golden.tokens)
    assert (logits - golden.expected["logits"]).abs().max() < tolerance(logits)
    cache.reset()
    assert cache.length == 0
    assert all(float(buffer.abs().max()) == 0 for path in cache.states for buffer in constant(cache, path))
    logits = feed(model, cache, golden.tokens)
    assert (logits - golden.expected["logits"]).abs().max() < tolerance(logits)


def constant(cache: Cache, path: str) -> tuple[Tensor, ...]:
    return cache.states[path] if STATES[cache.specs[path].kind].rollback == "snapshot" else ()


def test_rollback_to_where_a_call_began(golden: Golden, model: LanguageModel) -> None:
    """Drafts are tried token by token, and some of the last three are taken back."""
    tokens = torch.randint(0, VOCAB, (2, 60))
    expected = golden.ask(tokens)["logits"]
    cache = model.new_cache(2, 64, snapshots=3)
    single = model.new_cache(2, 64).bytes
    feed(model, cache, tokens[:, :7])
    kept = 7
    for wrong, right in ((1, 2), (3, 0), (2, 1), (0, 4), (3, 3)):
        for _ in range(wrong):
            feed(model, cache, torch.randint(0, VOCAB, (2, 1)))
        cache.rollback(wrong)
        assert cache.length == kept
        for _ in range(right):
            logits = feed(model, cache, tokens[:, kept : kept + 1])
            assert (logits[:, 0] - expected[:, kept]).abs().max() < tolerance(expected)
            kept += 1
    assert single < cache.bytes <= 4 * single
    logits = feed(model, cache, tokens[:, kept:])
    assert (logits - expected[:, kept:]).abs().max() < tolerance(expected)
    with pytest.raises(LlmcError, match="E0802"):
        cache.rollback(1)


def test_a_cache_that_went_bad_stops(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llmc.load(golden.folder)
    advance = Cache.advance

    def poison(cache: Cache, new: Tensor) -> None:
        advance(cache, new)
        for state in cache.states.values():
            state[0].fill_(float("inf"))

    monkeypatch.setattr(Cache, "advance", poison)
    with pytest.raises(LlmcError, match="E0856"):
        model.generate([1, 2, 3, 4, 5], max_new_tokens=90, ignore_eos=True)


# --- mistakes -------------------------------------------------------------------------------------------------------


def _nodes(block: str, **nodes: object) -> dict[str, object]:
    return {"blocks": {block: {"nodes": nodes}}}


SELECTIVE = ("mamba", "falcon_mamba", "hydra", "jamba")
DUAL = ("mamba2", "zamba2")


def mutations(family: Family) -> Iterator[Mutation]:
    """Every mistake that applies to a family."""
    yield Mutation(name="eps_x10", params={family.eps: 10 * float(str(family.params[family.eps]))})
    if family.spec in (*SELECTIVE, *DUAL):
        step = "dt" if family.spec in SELECTIVE else "soft_dt"
        yield Mutation(name="no_activation_after_conv", overlay=_nodes("mixer", conv1d={"activation": "identity"}))
        yield Mutation(name="step_not_softplus", overlay=_nodes("mixer", **{step: {"kind": "exp"}}))
        yield Mutation(name="log_decay_taken_as_it_is", overlay=_nodes("mixer", scan={"decay_form": "log"}))
        yield Mutation(name="read_scaled", overlay=_nodes("mixer", scan={"scale": 1.1}))
    if family.spec in DUAL:
        yield Mutation(name="norm_over_all_groups", overlay=_nodes("mixer", norm={"num_groups": 1}))
    if "mixer_rms_eps" in family.params:
        yield Mutation(name="mixer_eps_x10", params={"mixer_rms_eps": 3e-2})
    if "time_step_limit" in family.params:
        for low, high in ((0.2, 0.9), (0.3, 1.0)):
            yield Mutation(name=f"limits_{low}_{high}", params={"time_step_limit": [low, high]})
    if isinstance(window := family.params.get("sliding_window"), int):
        for change in (-1, 1):
            yield Mutation(name=f"window{change:+}", params={"sliding_window": window + change})
    for name, change in (family.mistakes or {}).items():
        yield Mutation(name=name, overlay=change.get("overlay", {}), params=change.get("params", {}))
    if family.spec in HYBRID and "kv_lora_rank" not in family.params:
        scale = "1.1 / sqrt(head_dim)"
        yield Mutation(name="attention_scale_x1.1", overlay=_nodes("attention", attend={"scale": scale}))
    if family.params.get("rope_theta") is not None and family.params.get("use_mem_rope", True):
        yield Mutation(name="rope_theta_x1.1", params={"rope_theta": 1.1 * 337.0})
        interleaved = {"layout": "interleaved"}
        yield Mutation(name="rope_pairs", overlay=_nodes("attention", q_rope=interleaved, k_rope=interleaved))
    for name, overlay in OWN.get(family.spec, {}).items():
        yield Mutation(name=name, overlay=overlay)


OWN: Mapping[str, Mapping[str, dict[str, object]]] = {
    "gla": {
        "forgets_faster": _nodes("attention", log_decay={"factor": "-1.3 / gate_normalizer"}),
        "queries_unscaled": _nodes("attention", scan={"scale": 1.0}),
        "sigmoid_gate": _nodes("attention", opened={"kind": "sigmoid"}),
        "sharp_closing": _nodes("attention", closing={"kind": "relu"}),
    },
    "lfm2": {
        "no_gate_before": _nodes("convolution", let_in={"in": ["parts:x", "parts:x"]}),
        "gates_swapped": _nodes(
            "convolution", let_in={"in": ["parts:after", "parts:x"]}, let_out={"in": ["parts:before", "conv"]}
        ),
    },
    "qwen3_next": {
        "keys_of_any_length": _nodes("delta_net", k={"eps": 0.1}),
        "queries_unscaled": _nodes("delta_net", scan={"scale": 1.0}),
        "strength_doubled": _nodes("delta_net", beta={"kind": "exp"}),
        "gate_before_norm": _nodes(
            "delta_net", norm={"in": "gated"}, gated={"in": ["scan", "gate"]}, out_proj={"in": "norm"}
        ),
        "attention_not_gated": _nodes("attention", gate={"kind": "tanh"}),
        "norm_without_offset": {"graph": {"nodes": {"model.norm": {"weight_offset": 0.9}}}},
    },
    "zamba2": {
        "mixer_eps": _nodes("mixer", norm={"eps": 1e-2}),
        "least_step": _nodes("mixer", dt={"min": "0.9 * time_step_min"}),
    },
    "jamba": {"mixer_eps": _nodes("mixer", dt_layernorm={"eps": 0.05})},
    "rwkv7": {
        "erase_weaker": _nodes("time_mix", erase={"factor": -0.9}),
        "decay_faster": _nodes("time_mix", log_decay={"factor": "-exp(-0.4)"}),
        "no_first_value": _nodes("time_mix", v={"in": ["v_proj", "v_proj", "v_gate"]}),
        "bonus_of_raw_key": _nodes("time_mix", key_reading={"in": ["r_proj", "k_proj"]}),
        "no_shift_of_keys": _nodes("time_mix", for_k={"in": ["x", "x", "x_k"]}),
    },
}
"""By spec, mistakes of its own."""


@pytest.mark.usefixtures("through_torch")
def test_mutants_are_not_golden(golden: Golden, tmp_path: Path) -> None:
    for mutation in mutations(golden.family):
        folder = tmp_path / mutation.name
        folder.mkdir()
        mutant = mutant_of(golden, mutation, folder)
        for name, run in RUNS.items():
            assert not test_mutations.is_golden(golden, run(mutant, golden.tokens)), f"{mutation.name}, {name}"


def mutant_of(golden: Golden, mutation: Mutation, folder: Path) -> LanguageModel:
    spec = test_mutations.mutant_spec(golden.family, mutation, folder)
    return llmc.load(spec, weights=golden.folder, params={**golden.family.params, **mutation.params})


def test_a_spec_that_only_extends_is_golden(golden: Golden, tmp_path: Path) -> None:
    test_mutations.test_a_spec_that_only_extends_is_golden(golden, tmp_path)
