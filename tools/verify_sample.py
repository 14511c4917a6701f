"""What `--verify` runs where there are no weights: a small instance of the spec, random parameters, random tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from zlib import crc32

import torch
from torch import Tensor

from ..compiler.ir import Model
from ..compiler.ops.declaration import Value
from ..compiler.pipeline import read
from ..compiler.program import Program
from ..compiler.spec import Spec
from ..runtime.cache import Cache
from ..runtime.initialise import initialise
from ..runtime.model import LanguageModel
from ..runtime.named_inputs import made_up
from ..specs.diagnostics import LlmcError

SMALL: Mapping[str, int] = {
    "num_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "vocab_size": 257,
    "intermediate_size": 96,
    "num_experts": 8,
    "hidden_size": 128,
    "per_layer_vocab_size": 257,
}
TOKENS = 13


def small_instance(spec: Spec, model: Model) -> tuple[Spec, Model, dict[str, Value]]:
    """The spec with as many of the small values as it still checks with.

    Where layers are of several kinds by a list, there are as many as its first of each kind takes.
    """
    overrides: dict[str, Value] = {
        name: param.value for name, param in spec.params.items() if param.origin == "override"
    }
    lowered: dict[str, Value] = {}
    for name, value in SMALL.items():
        smaller = _smaller(spec.environment, name, value)
        if not smaller:
            continue
        try:
            spec, model = read(spec.document, {**overrides, **lowered, **smaller})
        except LlmcError:
            continue
        lowered |= smaller
    return spec, model, lowered


def _smaller(environment: Mapping[str, Value], name: str, value: int) -> dict[str, Value]:
    """What makes one size of a spec small, beside it the lists of layers that follow from it; nothing where it is."""
    present = environment.get(name)
    if not isinstance(present, int) or present <= value:
        return {}
    lists = {key: one for key, one in environment.items() if isinstance(one, list) and len(one) == present}
    if name != "num_layers" or not lists:
        return {name: value}
    kinds = (one.index(kind) + 1 for one in lists.values() for kind in one)
    count = min(present, max(value, *kinds))
    return {name: count, **{key: one[:count] for key, one in lists.items()}} if count < present else {}


def random_tokens(spec: Spec) -> Tensor:
    """Ids `[2, TOKENS]`."""
    size = spec.environment.get("vocab_size")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, size if isinstance(size, int) else 64, (2, TOKENS), generator=generator)


def random_model(program: Program) -> LanguageModel:
    """The same parameters whatever the passes are, and none so small that a wrong one would not show."""
    model = LanguageModel(program)
    model.to_empty(device="cpu")
    model.to(getattr(torch, program.target.dtype))
    owned = {path: spec for path, spec in program.weights.parameters.items() if path not in program.weights.ties}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for path, owner in program.weights.ties.items():
        parameters[path].data = parameters[owner].data
    with torch.no_grad():
        initialise(parameters, owned, 0)
        for path in sorted(owned):
            generator = torch.Generator().manual_seed(crc32(path.encode()))
            noise = torch.randn(parameters[path].shape, generator=generator, dtype=torch.float64)
            parameters[path].add_((0.02 * noise).to(parameters[path].dtype))
    return model.eval()


def run(
    model: LanguageModel,
    tokens: Tensor,
    through: Callable[[Mapping[str, Tensor], Cache], dict[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """The outputs of a prefill, and where there is state then of one decoded token, named `… of the next token`.

    through: makes one pass over values that continue a cache; None: the Program does.
    """

    def program(values: Mapping[str, Tensor], cache: Cache) -> dict[str, Tensor]:
        return model.run_program(values, cache, None)

    once = through or program
    with torch.inference_mode():
        values = {**model.default_inputs(tokens), **given_inputs(model, tokens)}
        values[model.program.model.inputs[0].name] = tokens
        cache = Cache(
            model.program.states,
            batch_size=len(tokens),
            max_seq_len=tokens.shape[1] + 1,
            dtype=model.dtype,
            device=model.device,
        )
        found = dict(once(values, cache))
        if model.program.states:
            step = {name: value[:, -1:] if value.shape == tokens.shape else value for name, value in values.items()}
            found |= {f"{name} of the next token": value for name, value in once(step, cache).items()}
        return found


def given_inputs(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """Inputs without a default; an axis beside the stream has another length than it."""
    found = made_up(model.program.model, tokens, TOKENS - 4, torch.Generator().manual_seed(1))
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in found.items()}
