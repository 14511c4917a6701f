"""What each pass changes in numbers: every value that stands before and after it, on both sides in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compiler.ir import Model
from ..compiler.keep_values import keep_values
from ..compiler.passes import Pass
from ..compiler.program import compile_model
from ..compiler.spec import Spec
from ..kernels.tolerance import TOLERANCE, error_ratio
from .verify_sample import random_model, run


@dataclass(frozen=True, slots=True, kw_only=True)
class PassError:
    """One pass: how often it rewrote, how many values of the program without passes are still there after it, and the
    largest error ratio among them, with the value's name. `first`: the first in order of execution that is wrong."""

    name: str
    rewrites: int
    met: int
    error: float
    worst: str
    first: str | None = None


def pass_errors(spec: Spec, model: Model, tokens: Tensor, passes: Sequence[Pass]) -> list[PassError]:
    """One for each pass, after those before it; ends with the first that is wrong."""
    expected, _ = _values(spec, model, tokens, ())
    found: list[PassError] = []
    for number, one in enumerate(passes, 1):
        actual, rewrites = _values(spec, model, tokens, passes[:number])
        errors = {
            name: error_ratio(actual[name], value)
            for name, value in expected.items()
            if name in actual and actual[name].shape == value.shape
        }
        in_order = sorted(errors, key=lambda name: ":" not in name)  # the model's outputs last
        worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
        first = next((name for name in in_order if not errors[name] <= TOLERANCE[torch.float64]), None)
        found.append(
            PassError(
                name=one.__name__,
                rewrites=rewrites.get(one.__name__, 0),
                met=len(errors),
                error=errors[worst],
                worst=worst,
                first=first,
            )
        )
        if first is not None:
            break
    return found


def _values(
    spec: Spec, model: Model, tokens: Tensor, passes: Sequence[Pass]
) -> tuple[dict[str, Tensor], Mapping[str, int]]:
    """Every value of the program after these passes, and how often each of them rewrote."""
    program = compile_model(spec, model, dtype="float64", passes=(*passes, keep_values))
    return run(random_model(program), tokens), program.rewrites
