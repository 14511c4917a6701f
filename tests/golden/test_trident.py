"""Ternary linears against transformers' BitNet, whose linears are exchanged for its own online quantisation.

Both sides round, so a difference of one unit in the last place may move a rounded value by one: linears are compared
one by one on the reference's own inputs, and whole models by the ratio of errors.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Generator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch._dynamo
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.bitnet import AutoBitLinear

import llmc
from llmc.compiler.plan import plan
from llmc.kernels.ternary.reference import quantised_activation, ternary_linear, ternary_weight
from llmc.runtime.model import LanguageModel

from .comparison import rms
from .random_weights import randomise
from .running import named, run_chunks, run_modules, run_program

ROUNDED = 5e-3
"""Largest error ratio of a whole model that rounds. Where no activation falls on the other side of a half it is 3e-7;
one that does makes 5e-4 to 6e-3 of it. Here none is near one: what is left is room for another machine."""
MARGIN = 2e-5
"""Of a unit: how far from a half all activations of the reference are; float32 alone moves them by up to 1.6e-5."""
SEEDS = {False: 12, True: 8}
"""Of the weights, by whether they are tied."""
VOCAB, TOKENS = 97, 23


@pytest.fixture(scope="module", autouse=True)
def _not_compiled() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """transformers compiles its two roundings; here they run as written."""
    with torch._dynamo.config.patch(disable=True):
        yield


def make_reference(*, tied: bool) -> transformers.PreTrainedModel:
    config = transformers.BitNetConfig(
        vocab_size=VOCAB, hidden_size=60, intermediate_size=44, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=101, rms_norm_eps=2e-3, bos_token_id=1, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 337.0}, tie_word_embeddings=tied,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    model = transformers.BitNetForCausalLM(config)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            model.set_submodule(
                name, AutoBitLinear(module.in_features, module.out_features, bias=False, online_quant=True)
            )
    randomise(model, seed=SEEDS[tied], embedding_std=0.3, bias_std=0.3)
    return model.eval()


class Case:
    """A reference, its folder, what it answers, and what each of its ternary linears took and gave."""

    def __init__(self, folder: Path, *, tied: bool) -> None:
        self.folder, self.reference = folder, make_reference(tied=tied)
        self.reference.save_pretrained(folder)
        self.tokens = torch.randint(0, VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(7))
        self.seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

        def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            assert isinstance(module, AutoBitLinear)
            self.seen[name] = (inputs[0], module.weight, out)

        handles = [
            module.register_forward_hook(partial(keep, name))
            for name, module in self.reference.named_modules()
            if isinstance(module, AutoBitLinear)
        ]
        self.expected = self.ask(self.tokens)
        for handle in handles:
            handle.remove()

    def ask(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return self.reference(tokens).logits


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("trident"), tied=request.param)


@pytest.fixture(scope="module")
def model(case: Case) -> LanguageModel:
    return llmc.load(case.folder)


def require_close(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape
    assert rms(ours - expected) <= ROUNDED * rms(expected)


def test_every_linear_equals_the_reference(case: Case) -> None:
    assert len(case.seen) == 3 * 7
    for name, (x, weight, expected) in case.seen.items():
        assert (ternary_linear(x=x, weight=weight) - expected).abs().max() <= 1e-5, name
        whole, factor = quantised_activation(x, 8)
        theirs = (x * (127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5))).round().clamp(-128, 127)
        near_half = ((x * factor).frac().abs() - 0.5).abs() < 1e-5
        assert bool(((whole == theirs) | near_half).all()), name
        assert set(ternary_weight(weight)[0].unique().tolist()) == {-1.0, 0.0, 1.0}, name


def test_no_activation_is_near_a_half(case: Case) -> None:
    for name, (x, _, _) in case.seen.items():
        wide = x.double()
        units = wide * (127 / wide.abs().amax(-1, keepdim=True))
        assert ((units.frac().abs() - 0.5).abs() > MARGIN).all(), name


def test_prefill(case: Case, model: LanguageModel) -> None:
    for run in (run_modules, run_program):
        require_close(run(model, case.tokens)["logits"], case.expected)


def test_without_the_rounding_it_would_differ(case: Case) -> None:
    """The comparison is not blind: ordinary linears, or unrounded activations, are far from the reference."""
    plain = transformers.BitNetForCausalLM.from_pretrained(case.folder, attn_implementation="eager")
    with torch.no_grad():
        assert rms(plain(case.tokens).logits - case.expected) > 50 * ROUNDED * rms(case.expected)
    for bits in (None, 7):
        model = llmc.load(case.folder, params={"activation_bits": bits})
        ours = run_modules(model, case.tokens)["logits"]
        assert rms(ours - case.expected) > 3 * ROUNDED * rms(case.expected)


@pytest.mark.parametrize("sizes", [(1,) * TOKENS, (9, 1, 1, 12), (1, 22)])
def test_chunks(case: Case, model: LanguageModel, sizes: tuple[int, ...]) -> None:
    require_close(run_chunks(model, case.tokens, sizes), case.expected)


@pytest.mark.parametrize("case", [False], indirect=True, ids=["untied"])
def test_a_program_for_a_gpu(case: Case, model: LanguageModel) -> None:
    """A prompt, which is rounded once for all that reads it, then tokens, each rounded where it is multiplied."""
    pytest.importorskip("triton")
    from .gpu_programs import DEVICE, on_gpu

    ours, ends = on_gpu(model), (0, 7, 8, 9)
    cache, tokens = ours.new_cache(2, TOKENS), case.tokens.to(DEVICE)
    with torch.no_grad():
        parts = [named(ours(tokens[:, start:end], cache=cache))["logits"] for start, end in pairwise(ends)]
    require_close(torch.cat(parts, dim=1).cpu(), case.expected[:, : ends[-1]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_unequal_rows(case: Case, model: LanguageModel, side: str) -> None:
    lengths = (TOKENS, 11)
    mask = torch.zeros(2, TOKENS, dtype=torch.bool)
    tokens = torch.zeros(2, TOKENS, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(TOKENS - length, TOKENS) if side == "left" else slice(0, length)
        mask[row, place], tokens[row, place] = True, case.tokens[row, :length]
    for run in (run_modules, run_program):
        logits = run(model, tokens, mask)["logits"]
        for row, length in enumerate(lengths):
            require_close(logits[row][mask[row]], case.ask(case.tokens[row : row + 1, :length])[0])


def test_greedy_tokens(case: Case, model: LanguageModel) -> None:
    """Up to the first place where the reference hardly prefers its token."""
    for row in case.tokens[:, :9].tolist():
        text = list(row)
        for token in model.generate(row, max_new_tokens=48, ignore_eos=True).tokens:
            logits = case.ask(torch.tensor([text]))[0, -1]
            best = logits.topk(2)
            if token != int(best.indices[0]):
                assert float(best.values[0] - best.values[1]) <= 10 * ROUNDED * rms(logits)
                break
            text.append(token)
        assert len(text) > 9 + 8


def test_gradients_pass_both_roundings(case: Case, model: LanguageModel) -> None:
    for network in (model, case.reference):
        network.zero_grad()
        answer = network(case.tokens)
        logits = answer if isinstance(answer, Tensor) else answer.logits
        functional.cross_entropy(logits[:, :-1].flatten(0, 1), case.tokens[:, 1:].flatten()).backward()
    theirs = dict(case.reference.named_parameters())
    for name, parameter in model.named_parameters():
        expected = theirs[name].grad
        assert parameter.grad is not None, name
        assert expected is not None, name
        assert rms(parameter.grad - expected) <= ROUNDED * rms(expected), name
    model.zero_grad()
    case.reference.zero_grad()


def test_training_steps_lower_the_loss(case: Case) -> None:
    model = llmc.load(case.folder).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(8):
        optimiser.zero_grad()
        logits = named(model(case.tokens))["logits"]
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), case.tokens[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_export_round_trip(case: Case, tmp_path: Path) -> None:
    llmc.load(case.folder).save(tmp_path)
    saved, original = load_file(tmp_path / "model.safetensors"), load_file(case.folder / "model.safetensors")
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in original.items())
    again = transformers.BitNetForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert sum(isinstance(module, AutoBitLinear) for module in again.modules()) == 3 * 7
    with torch.no_grad():
        require_close(again(case.tokens).logits, case.expected)


def test_plan_counts_packed_bytes(case: Case, model: LanguageModel) -> None:
    """Four weights a byte along the rows and one float32 scale each, as `pack_weights` packs them."""
    sizes = plan(model.program.model, model.program.weights.ties, context=64)
    packed = sum(-(-weight.shape[0] // 4) * weight.shape[1] + 4 for _, weight, _ in case.seen.values())
    ternary = sum(weight.numel() for _, weight, _ in case.seen.values())
    assert sizes.packed_weight_bytes == packed + 4 * (sizes.parameters - ternary)
    assert sizes.weight_bytes == 4 * sizes.parameters
