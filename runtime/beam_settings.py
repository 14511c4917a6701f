"""What a beam search is asked for; the words and their meaning are those of transformers' `generate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..specs.diagnostics import Diagnostic, LlmcError

EarlyStopping: TypeAlias = bool | Literal["never"]

MOST_BEAMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """How texts are searched for.

    A text's score is the sum of its tokens' log-probabilities over `tokens ** length_penalty`: above 0 favours long
    ones. A search ends when `num_beams` texts have ended and, with early_stopping False, the best of the running ones,
    if it ended now, would not be better than the worst of those; True: at once; "never": only when no running one can
    become better, however long it grows. `num_return_sequences` of the texts are given back, the best first.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        beams, returned, stopping = self.num_beams, self.num_return_sequences, self.early_stopping
        checks = (
            ("num_beams", beams, _is_int(beams) and 1 <= beams <= MOST_BEAMS, f"an integer from 1 to {MOST_BEAMS}"),
            ("length_penalty", self.length_penalty, _is_number(self.length_penalty), "a finite number"),
            ("early_stopping", stopping, isinstance(stopping, bool) or stopping == "never", 'False, True or "never"'),
            ("num_return_sequences", returned, _is_int(returned) and returned >= 1, "an integer from 1"),
        )
        problems = [
            f"{name} is {value!r}; expected {expected}" for name, value, is_right, expected in checks if not is_right
        ]
        if not problems and returned > beams:
            problems = [f"num_return_sequences is {returned}, which is more than num_beams, {beams}"]
        if problems:
            raise LlmcError([Diagnostic(code="E0862", message=problem) for problem in problems])

    def divisor(self, tokens: int) -> float:
        """What the score of a text of so many tokens is divided by. Raises E0862 where that is no float32."""
        exponent = self.length_penalty * math.log2(tokens)
        if abs(exponent) > 100:
            problem = f"length_penalty is {self.length_penalty}, too far from 0 for texts of {tokens} tokens"
            raise LlmcError([Diagnostic(code="E0862", message=problem)])
        return tokens**self.length_penalty

    def rule(self, tokens: int, limit: int) -> tuple[float, float, float, float]:
        """The `rule` of `kernels/sampling/beam_reference.py` for the token that makes texts of so many, of `limit`."""
        longest = limit if self.early_stopping == "never" and self.length_penalty > 0 else tokens
        return (
            self.divisor(tokens), self.divisor(longest), float(tokens >= limit), float(self.early_stopping is True)
        )  # fmt: skip


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
