"""`llmc build --verify`: the same tokens through the program before and after its passes, and the numbers compared.

Without weights a small instance of the spec is run: the params below are lowered one after another where the spec still
checks. What was compared is always said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from ..compiler.ir import Model
from ..compiler.ops.declaration import Value
from ..compiler.passes import PASSES
from ..compiler.pipeline import read
from ..compiler.program import Program, compile_model
from ..compiler.spec import Spec
from ..kernels.tolerance import TOLERANCE, error_ratio
from ..runtime.cache import Cache
from ..runtime.initialise import initialise
from ..runtime.load import load
from ..runtime.model import LanguageModel
from ..runtime.named_inputs import made_up
from ..specs.diagnostics import LlmcError, fail

SMALL: Mapping[str, int] = {
    "num_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "vocab_size": 257,
    "intermediate_size": 96,
    "num_experts": 8,
    "hidden_size": 128,
}
TOKENS = 13
WHOLE_MODEL = 30
"""How many kernels' tolerances a whole model may use up."""


def verify_program(program: Program, *, weights: Path | None) -> list[str]:
    """Lines that say what was compared. Raises E0605 where two sides differ."""
    if weights is not None:
        return [_with_weights(program, weights)]
    spec, model, lowered = _small(program.spec, program.model)
    shape = ", ".join(f"{name}={value}" for name, value in lowered.items()) or "the spec as it is"
    tokens = _tokens(spec)
    expected = _run(_random_model(compile_model(spec, model, dtype="float64", passes=())), tokens)
    worst = 0.0
    for number in range(1, len(PASSES) + 1):
        compiled = compile_model(spec, model, dtype="float64", passes=PASSES[:number])
        actual = _run(_random_model(compiled), tokens)
        worst = max(worst, _compare(PASSES[number - 1].__name__, expected, actual, TOLERANCE[torch.float64]))
    fused = _run(_random_model(compile_model(spec, model, dtype="float32")), tokens)
    wide = {name: value.float() for name, value in expected.items()}
    kernels = _compare("kernels in float32", wide, fused, WHOLE_MODEL * TOLERANCE[torch.float32])
    return [
        f"{len(PASSES)} passes on {TOKENS} random tokens and random weights in float64 ({shape}): error {worst:.1e}",
        f"fused with kernels in float32: error {kernels:.1e}",
    ]


def _small(spec: Spec, model: Model) -> tuple[Spec, Model, dict[str, Value]]:
    """The spec with as many of the small values as it still checks with."""
    overrides: dict[str, Value] = {
        name: param.value for name, param in spec.params.items() if param.origin == "override"
    }
    lowered: dict[str, Value] = {}
    for name, value in SMALL.items():
        present = spec.environment.get(name)
        if not isinstance(present, int) or present <= value:
            continue
        try:
            spec, model = read(spec.document, {**overrides, **lowered, name: value})
        except LlmcError:
            continue
        lowered[name] = value
    return spec, model, lowered


def _tokens(spec: Spec) -> Tensor:
    size = spec.environment.get("vocab_size")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, size if isinstance(size, int) else 64, (2, TOKENS), generator=generator)


def _random_model(program: Program) -> LanguageModel:
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


def _run(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """A prefill, and where there is state then one decoded token, through the Program."""
    with torch.inference_mode():
        values = {**model.default_inputs(tokens), **_once(model, tokens), model.program.model.inputs[0].name: tokens}
        length = tokens.shape[1] + 1
        cache = Cache(
            model.program.states, batch_size=len(tokens), max_seq_len=length, dtype=model.dtype, device=model.device
        )
        found = dict(model.run_program(values, cache, None))
        if model.program.states:
            step = {name: value[:, -1:] if value.shape == tokens.shape else value for name, value in values.items()}
            found |= {
                f"{name} of the next token": value for name, value in model.run_program(step, cache, None).items()
            }
        return found


def _once(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """Inputs without a default; an axis beside the stream has another length than it."""
    found = made_up(model.program.model, tokens, TOKENS - 4, torch.Generator().manual_seed(1))
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in found.items()}


def _with_weights(program: Program, weights: Path) -> str:
    """The fused program against the module tree, both with the real weights at the real size."""
    overrides = {name: param.value for name, param in program.spec.params.items() if param.origin == "override"}
    model = load(program.spec.document.path, weights=weights, params=overrides, dtype=program.target.dtype)
    tokens = _tokens(program.spec)
    values = {**model.default_inputs(tokens), **_once(model, tokens)}
    with torch.enable_grad():
        plain = model(tokens, **values)
    expected = {"out": plain} if isinstance(plain, Tensor) else dict(plain)
    found = _run(model, tokens)
    actual = dict(zip(expected, found.values(), strict=False))
    bound = WHOLE_MODEL * TOLERANCE[getattr(torch, program.target.dtype)]
    ratio = _compare("fused program", {name: value.detach() for name, value in expected.items()}, actual, bound)
    return (
        f"fused program against the modules on {TOKENS} random tokens with the weights of {weights}: error {ratio:.1e}"
    )


def _compare(what: str, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], bound: float) -> float:
    worst = 0.0
    for name, value in expected.items():
        ratio = error_ratio(actual[name], value)
        if not ratio <= bound:
            raise fail(
                "E0605",
                f"after {what}, {name} differs from the unfused program: error ratio {ratio:.2e}, allowed {bound:.0e}",
                help="this is a bug in llmc; LLMC_PASSES=0 runs the spec as it stands",
            )
        worst = max(worst, ratio)
    return worst
