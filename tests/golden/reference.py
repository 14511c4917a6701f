"""transformers as the oracle: a randomised reference, its folder, and its answers in float32 and in float64."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import copy
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from .families import VOCAB, Family
from .random_weights import randomise

BATCH, TOKENS = 2, 37


class _WideTorch:
    """`torch`, where float32 is float64: references round to float32 in norms and softmax whatever their dtype."""

    float32 = torch.float64
    float = torch.float32
    """In routers float64 as well; angles of rope stay as they are."""

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextmanager
def float64_throughout(model: nn.Module) -> Generator[None]:
    """Within it, the modelling code of `model` upcasts to float64 where it says float32."""
    module = sys.modules[type(model).__module__]
    original, narrow = module.torch, Tensor.float
    wide = _WideTorch()

    def widen(*_: object) -> None:
        wide.float, Tensor.float = torch.float64, Tensor.double  # type: ignore[attr-defined, method-assign]

    def restore(*_: object) -> None:
        wide.float, Tensor.float = torch.float32, narrow  # type: ignore[attr-defined, method-assign]

    handles = [
        handle
        for router in model.modules()
        if type(router).__name__.endswith("Router")
        for handle in (router.register_forward_pre_hook(widen), router.register_forward_hook(restore))
    ]
    module.torch = wide  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.torch = original  # type: ignore[attr-defined]
        restore()
        for handle in handles:
            handle.remove()


def make_reference(family: Family) -> transformers.PreTrainedModel:
    """The model of transformers, eager attention, every tensor random."""
    config = getattr(transformers, family.config)(
        **family.kwargs, attn_implementation="eager", experts_implementation="eager"
    )
    model = getattr(transformers, family.model)(config)
    randomise(model, seed=family.seed, embedding_std=family.embedding_std, bias_std=family.bias_std)
    return model.eval()


OUTPUTS: Mapping[str, Mapping[str, str]] = {
    "bert": {"sequence_output": "last_hidden_state", "pooled_output": "pooler_output"},
}
"""By spec, our name of each output -> theirs."""


def outputs_of(answer: object, spec: str) -> dict[str, Tensor]:
    """What the reference answered, by our names."""
    names = OUTPUTS.get(spec, {"logits": "logits"})
    return {ours: getattr(answer, theirs) for ours, theirs in names.items()}


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

    def ask(self, tokens: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The reference's outputs in float32, by our names."""
        with torch.no_grad():
            return outputs_of(self.reference(tokens, **inputs), self.family.spec)


def make_golden(family: Family, folder: Path) -> Golden:
    """Randomise, save, and answer."""
    reference = make_reference(family)
    reference.save_pretrained(folder, max_shard_size="40KB" if family.is_sharded else "1GB")
    generator = torch.Generator().manual_seed(family.seed + 1)
    tokens = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=generator)
    golden = Golden(family=family, folder=folder, reference=reference, tokens=tokens)
    if "type_vocab_size" in family.params:
        golden.inputs["token_type_ids"] = torch.randint(0, 3, (BATCH, TOKENS), generator=generator)
    golden.expected = golden.ask(tokens, **golden.inputs)
    wide = copy.deepcopy(reference).double()
    with torch.no_grad(), float64_throughout(wide):
        golden.exact = outputs_of(wide(tokens, **golden.inputs), family.spec)
    return golden
