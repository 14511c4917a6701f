"""The definition of a beam search's step: the best continuations of every row, and what becomes of a prompt's beams.

The rules are those of transformers' `generate`. Scores are sums of float32 log-probabilities; among equal ones the
lower beam, then the lower id is taken. Nothing is read on the host, so that a step may be recorded.

A prompt has K rows of the batch and K beams, the best first; `row` says in which of its rows each beam lies. A beam
that goes on stays in its row, and only rows whose beam has died are written anew, from where they differ.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ..record import called_with
from .fields import AdvanceBeams, BeamState, BestContinuations

Advanced: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What `advance_beams` gives."""
NEVER = -1e9
"""The score of what must not be chosen."""


@called_with(BestContinuations)
def best_continuations(given: BestContinuations) -> tuple[Tensor, Tensor]:
    """The `width` best tokens of every row and the scores that they lead to, best first, lower ids first among equals.

    logits `[R, V]` of any float dtype; score `[R]` float32 of the text so far; repetition_penalty `[1]` float32 (1:
    off), for the tokens that `seen` `[R, V]` uint8 marks, of log-probabilities (Keskar et al. 2019); banned `[N]`
    int64: ids that are not chosen, -1 for none -> `[R, width]` float32 and int64. Where a logit of a row is NaN or
    infinite, or all are minus infinity, so is its best score.
    """
    logits, score, width, repetition_penalty, seen, banned = given
    found = logits.float().log_softmax(-1)
    if seen is not None:
        repeated = torch.where(found < 0, found * repetition_penalty, found / repetition_penalty)
        found = torch.where(seen > 0, repeated, found)
    found = found + score[:, None]
    if banned is not None:
        ids = torch.arange(found.shape[1], device=found.device)
        is_banned = (ids[:, None] == banned).any(1)
        found = torch.where(is_banned & ~found.isnan(), -torch.inf, found)
    chosen = _ordered(found).topk(width, dim=-1).indices
    return found.gather(1, chosen), chosen


def _ordered(scores: Tensor) -> Tensor:
    """int64 numbers in the order of scores `[R, V]`, and of equal ones the first the largest; NaN above all."""
    bits = (scores + 0.0).view(torch.int32)  # one zero
    bits = torch.where(scores.isnan(), torch.iinfo(torch.int32).max, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    places = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return (bits.long() << 32) | places


def advance_beams(given: AdvanceBeams, state: BeamState) -> Advanced:
    """One step of the beams of P prompts -> `(next, source, first, chosen, parent)`; changes the state.

    next `[P * K]` int64: the token that each row reads next, -1 where its prompt is done; source `[P * K]` int64: the
    row that it goes on from, itself or another of the prompt; first `[P * K]` int64: tokens up to here are the same in
    both; chosen, parent `[P, K]` int64 by beam.
    """
    (value, token, rule, ends, length, _), (score, row, common, *_) = given, state
    is_open, (prompts, beams), width = state.is_open, score.shape, value.shape[1]
    base = torch.arange(prompts, device=row.device)[:, None] * beams
    at = (base + row).flatten()
    best, which = value[at].view(prompts, -1).sort(dim=-1, descending=True, stable=True)
    best, which = best[:, :width], which[:, :width]
    tokens, parents = token[at].view(prompts, -1).gather(1, which), which // width
    norm, reach, is_last, is_eager = rule[0], rule[1], rule[2] > 0, rule[3] > 0
    is_end = (tokens[..., None] == ends).any(-1) | is_last

    broken = is_open & ~best[:, 0].isfinite()
    state.is_broken.logical_or_(broken)
    is_ended = is_end[:, :beams] & is_open[:, None]
    ended = torch.where(is_ended & ~broken[:, None], best[:, :beams] / norm, NEVER)
    _keep(state, ended, torch.where(is_ended, given.step + 1, 0), parents[:, :beams], tokens[:, :beams])
    going = torch.where(is_end, best + NEVER, best)
    order = going.sort(dim=-1, descending=True, stable=True).indices[:, :beams]
    score.copy_(going.gather(1, order))
    chosen, parent = tokens.gather(1, order), parents.gather(1, order)

    has_ended = state.kept_step > 0
    worst = torch.where(has_ended, state.kept_score.amin(1, keepdim=True), NEVER)
    can_improve = (score[:, :1] / reach > worst).any(1)
    is_open.logical_and_(can_improve & ~is_last & ~(is_eager & has_ended.all(1)) & ~broken)

    places, origin = _places(row, parent)
    origin = torch.where(is_open[:, None], origin, torch.arange(beams, device=row.device))
    pairs = common.gather(1, origin[..., None].expand_as(common)).gather(2, origin[:, None].expand_as(common))
    first = common.gather(2, origin[..., None])[..., 0]
    is_same = origin[..., None] == origin[:, None]
    common.copy_(torch.where(is_same, length.view(prompts, beams, 1), pairs))
    row.copy_(places)
    following = torch.empty_like(chosen).scatter_(1, places, torch.where(is_open[:, None], chosen, -1))
    return following.flatten(), (base + origin).flatten(), first.flatten(), chosen, parent


def _keep(state: BeamState, score: Tensor, step: Tensor, parent: Tensor, token: Tensor) -> None:
    """Puts the texts that end now, `[P, K]` each, among those that are kept, of which the best stay."""
    merged = torch.cat((state.kept_score, score), 1)
    order = merged.sort(dim=-1, descending=True, stable=True).indices[:, : score.shape[1]]
    state.kept_score.copy_(merged.gather(1, order))
    for old, new in ((state.kept_step, step), (state.kept_parent, parent), (state.kept_token, token)):
        old.copy_(torch.cat((old, new), 1).gather(1, order))


def _places(row: Tensor, parent: Tensor) -> tuple[Tensor, Tensor]:
    """Where each new beam lies `[P, K]`, and the row that each row goes on from `[P, K]`, both within the prompt.

    The first beam that goes on from another takes its row; the others take those that nobody goes on from.
    """
    beams = row.shape[1]
    of_parent = row.gather(1, parent)
    order = torch.arange(beams, device=row.device)
    is_alike = (parent[..., None] == parent[:, None]) & (order[:, None] > order)  # an earlier one has the same parent
    is_extra = is_alike.any(-1)
    is_free = ~(of_parent[:, None] == order[:, None]).any(-1)  # by row
    nth_extra, nth_free = is_extra.cumsum(1), is_free.cumsum(1)
    matches = is_free[:, None] & (nth_free[:, None] == nth_extra[..., None])
    places = torch.where(is_extra, matches.long().argmax(-1), of_parent)
    return places, torch.empty_like(row).scatter_(1, places, of_parent)
