"""The arguments of sampling and of a beam search's step, each said once: named tuples, as operators of torch take them.

What each means is said where it is read: `reference.sample`, `beam_reference`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sample(NamedTuple):
    """Of `sample`."""

    logits: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor
    seed: Tensor
    step: Tensor
    seen: Tensor | None = None


class BestContinuations(NamedTuple):
    """Of `best_continuations`."""

    logits: Tensor
    score: Tensor
    width: int
    repetition_penalty: Tensor
    seen: Tensor | None = None
    banned: Tensor | None = None


class AdvanceBeams(NamedTuple):
    """What `advance_beams` reads."""

    value: Tensor
    token: Tensor
    """The continuations of each row, `[P * K, M]` float32 and int64 (`best_continuations`), of which the M best of a
    prompt are looked at."""
    rule: Tensor
    """`[4]` float32: the divisor of a text that ends with this token, the divisor by which running beams are judged,
    whether the token is the last, whether a prompt is done as soon as K texts have ended."""
    ends: Tensor
    """`[N]` int64, -1 for none."""
    length: Tensor
    """`[P * K]` int64: tokens that the states hold."""
    step: Tensor
    """`[1]` int64: tokens drawn before."""


class BeamState(NamedTuple):
    """What `advance_beams` changes: the beams of P prompts, K each, and the texts that have ended."""

    score: Tensor
    row: Tensor
    """`[P, K]` float32 and int64, by beam: its score, and in which of its prompt's rows it lies."""
    common: Tensor
    """`[P, K, K]` int64: how many of their first tokens two rows share."""
    kept_score: Tensor
    """`[P, K]` float32, of the texts that have ended, the best first; and with it, `[P, K]` int64 each:"""
    kept_step: Tensor
    """how many tokens (0: none yet),"""
    kept_parent: Tensor
    """the beam before the last one,"""
    kept_token: Tensor
    """the last one."""
    is_open: Tensor
    """`[P]` bool: texts may still be found."""
    is_broken: Tensor
    """`[P]` bool: its logits were not finite."""
