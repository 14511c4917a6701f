"""transformers as the oracle: a randomised reference, its folder, and its answers in float32 and in float64."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import copy
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from torch import Tensor, nn

from . import oracles
from .comparison import RATIO, tolerance
from .families import VOCAB, Family
from .random_weights import randomise
from .saved_folders import derive_again, resave

BATCH, TOKENS = 2, 37


_WIDE_INSIDE = (
    "Router", "Mixer", "RMSNorm", "Attention", "GatedDeltaNet", "ForgetGate", "MambaForCausalLM", "Mamba2ForCausalLM",
    "NemotronHForCausalLM", "Gemma3nTextDecoderLayer",
)  # fmt: skip
"""Modules that call `.float()`, where float64 is meant to stay."""


class _WideTorch:
    """`torch`, where float32 is float64: references round to float32 in norms and softmax whatever their dtype."""

    float32 = torch.float64
    float = torch.float32
    """In routers and mixers float64 as well; angles of rope stay as they are."""

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    @staticmethod
    def polar(length: Tensor, angle: Tensor) -> Tensor:
        """With the cosines that `cos` gives: torch's own differ in the last bit."""
        return torch.complex(length * angle.cos(), length * angle.sin())


@contextmanager
def float64_throughout(model: nn.Module) -> Generator[None]:
    """Within it, the modelling code of `model` upcasts to float64 where it says float32."""
    names = {type(part).__module__ for part in model.modules()}
    modules = [sys.modules[name] for name in names if not name.startswith("torch.")]
    modules = [module for module in modules if hasattr(module, "torch")]
    narrow = Tensor.float
    wide, depth = _WideTorch(), 0

    def widen(*_: object) -> None:
        nonlocal depth
        depth += 1
        wide.float, Tensor.float = torch.float64, Tensor.double  # type: ignore[attr-defined, method-assign]

    def restore(*_: object) -> None:
        nonlocal depth
        depth -= 1
        if depth <= 0:
            wide.float, Tensor.float = torch.float32, narrow  # type: ignore[attr-defined, method-assign]

    handles = [
        handle
        for router in model.modules()
        if type(router).__name__.endswith(_WIDE_INSIDE)
        for handle in (router.register_forward_pre_hook(widen), router.register_forward_hook(restore))
    ]
    for module in modules:
        module.torch = wide  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in modules:
            module.torch = torch  # type: ignore[attr-defined]
        restore()
        for handle in handles:
            handle.remove()


def class_of(name: str) -> type[Any]:
    """A class of transformers, or of the references that it does not have."""
    return getattr(transformers, name, None) or getattr(oracles, name)


def make_reference(family: Family) -> transformers.PreTrainedModel:
    """The model of transformers, eager attention, every tensor random."""
    config = class_of(family.config)(**family.kwargs, attn_implementation="eager", experts_implementation="eager")
    model = class_of(family.model)(config)
    randomise(
        model, seed=family.seed, embedding_std=family.embedding_std, bias_std=family.bias_std, derived=family.derived
    )
    return with_positions(model.eval(), family.first_position)


def with_positions(model: transformers.PreTrainedModel, first: int | None) -> transformers.PreTrainedModel:
    """The model itself; where `first` is given, it is told the positions of its tokens from there on."""

    def add_positions(
        _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[Tensor, ...], dict[str, object]]:
        assert first is not None
        return args, {"position_ids": torch.arange(first, first + args[0].shape[1]).expand_as(args[0]), **kwargs}

    if first is not None:
        model.register_forward_pre_hook(add_positions, with_kwargs=True)
    return model


OUTPUTS: Mapping[str, Mapping[str, str]] = {
    "bert": {"sequence_output": "last_hidden_state", "pooled_output": "pooler_output"},
}
"""By spec, our name of each output -> theirs."""


def outputs_of(answer: object, spec: str) -> dict[str, Tensor]:
    """What the reference answered, by our names."""
    names = OUTPUTS.get(spec, {"logits": "logits"})
    return {ours: getattr(answer, theirs) for ours, theirs in names.items()}


Question: TypeAlias = tuple[object, ...]


@dataclass(kw_only=True, repr=False)
class Golden:
    """One family with all that a test compares with. Tensors are `[BATCH, TOKENS, …]`."""

    family: Family
    folder: Path
    reference: transformers.PreTrainedModel
    tokens: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    expected: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    exact: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Of the float64 run."""
    answers: dict[Question, dict[str, Tensor]] = field(default_factory=dict["Question", dict[str, Tensor]])

    def ask(self, tokens: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The reference's outputs in float32, by our names; what was asked before is remembered."""
        asked = tuple((name, tuple(value.shape), value.numpy().tobytes()) for name, value in inputs.items())
        question = (tuple(tokens.shape), tokens.numpy().tobytes(), *asked)
        if question not in self.answers:
            with torch.no_grad():
                self.answers[question] = outputs_of(self.reference(tokens, **inputs), self.family.spec)
        return self.answers[question]

    def rounding(self, name: str) -> float:
        """How far the reference itself is from its float64 run, at most."""
        return float((self.expected[name].double() - self.exact[name]).abs().max())

    def rounding_apart(self, name: str) -> float:
        """How far two runs of ours may be apart, whose kernels sum in another order for another number of rows.

        By the golden rule each is within RATIO times the reference's own rounding of the exact numbers. Measured: 2.3
        times it at most, 2e-5.
        """
        return min(2 * RATIO * self.rounding(name), 0.5 * tolerance(self.expected[name]))


def _widened(reference: transformers.PreTrainedModel) -> nn.Module:
    """A copy in float64, with the constant in it that was rounded to float32."""
    wide = copy.deepcopy(reference).double()
    for name, buffer in wide.named_buffers():
        if name.endswith("per_layer_input_scale"):
            buffer.fill_(0.5**0.5)
    return wide


def make_golden(family: Family, folder: Path) -> Golden:
    """Randomise, save, and answer."""
    reference = make_reference(family)
    reference.save_pretrained(folder, max_shard_size="40KB" if family.is_sharded else "1GB")
    resave(reference, folder)
    generator = torch.Generator().manual_seed(family.seed + 1)
    tokens = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=generator)
    golden = Golden(family=family, folder=folder, reference=reference, tokens=tokens)
    if "type_vocab_size" in family.params:
        golden.inputs["token_type_ids"] = torch.randint(0, 3, (BATCH, TOKENS), generator=generator)
    golden.expected = golden.ask(tokens, **golden.inputs)
    wide = _widened(reference)
    derive_again(wide)
    with torch.no_grad(), float64_throughout(wide):
        golden.exact = outputs_of(wide(tokens, **golden.inputs), family.spec)
    return golden
