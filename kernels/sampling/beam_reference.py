"""The definition of a beam search's step: the best continuations of every row, and what becomes of a prompt's beams.

The rules are those of transformers' `generate`. Scores are sums of float32 log-probabilities; among equal ones the
lower beam, then the lower id is taken. Nothing is read on the host, so that a step may be recorded.

A prompt has K rows of the batch and K beams, the best first; `row` says in which of its rows each beam lies. A beam
that goes on stays in its row, and only rows whose beam has died are written anew, from where they differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = -1e9
"""The score of what must not be chosen."""


def best_continuations(
    *,
    logits: Tensor,
    score: Tensor,
    count: int,
    repetition_penalty: Tensor,
    seen: Tensor | None = None,
    banned: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The `count` best tokens of every row and the scores that they lead to, best first, lower ids first among equals.

    logits `[R, V]` of any float dtype; score `[R]` float32 of the text so far; repetition_penalty `[1]` float32 (1:
    off), for the tokens that `seen` `[R, V]` uint8 marks, of log-probabilities (Keskar et al. 2019); banned `[N]`
    int64: ids that are not chosen, -1 for none -> `[R, count]` float32 and int64. Where a logit of a row is NaN or
    infinite, or all are minus infinity, so is its best score.
    """
    found = logits.float().log_softmax(-1)
    if seen is not None:
        repeated = torch.where(found < 0, found * repetition_penalty, found / repetition_penalty)
        found = torch.where(seen > 0, repeated, found)
    found = found + score[:, None]
    if banned is not None:
        ids = torch.arange(found.shape[1], device=found.device)
        is_banned = (ids[:, None] == banned).any(1)
        found = torch.where(is_banned & ~found.isnan(), -torch.inf, found)
    chosen = _ordered(found).topk(count, dim=-1).indices
    return found.gather(1, chosen), chosen


def _ordered(scores: Tensor) -> Tensor:
    """int64 numbers in the order of scores `[R, V]`, and of equal ones the first the largest; NaN above all."""
    bits = (scores + 0.0).view(torch.int32)  # one zero
    bits = torch.where(scores.isnan(), torch.iinfo(torch.int32).max, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    places = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return (bits.long() << 32) | places


def advance_beams(
    *,
    value: Tensor,
    token: Tensor,
    rule: Tensor,
    ends: Tensor,
    length: Tensor,
    step: Tensor,
    score: Tensor,
    row: Tensor,
    common: Tensor,
    kept_score: Tensor,
    kept_step: Tensor,
    kept_parent: Tensor,
    kept_token: Tensor,
    is_open: Tensor,
    is_broken: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One step of the beams of P prompts -> `(next, source, first, chosen, parent)`; changes what comes after `step`.

    value `[P * K, M]` float32 and token `[P * K, M]` int64: the continuations of each row (`best_continuations`), of
    which the M best of a prompt are looked at; rule `[4]` float32: the divisor of a text that ends with this token, the
    divisor by which running beams are judged, whether the token is the last, whether a prompt is done as soon as K
    texts have ended; ends `[N]` int64, -1 for none; length `[P * K]` int64: tokens that the states hold; step `[1]`
    int64: tokens drawn before.

    score `[P, K]` float32 and row `[P, K]` int64 by beam; common `[P, K, K]` int64: how many of their first tokens two
    rows share; kept_score `[P, K]` float32 and kept_step, kept_parent, kept_token `[P, K]` int64: of the texts that
    have ended, the best first, how many tokens (0: none yet), the beam before the last one, the last one; is_open `[P]`
    bool: texts may still be found; is_broken `[P]` bool: its logits were not finite.

    next `[P * K]` int64: the token that each row reads next, -1 where its prompt is done; source `[P * K]` int64: the
    row that it goes on from, itself or another of the prompt; first `[P * K]` int64: tokens up to here are the same in
    both; chosen, parent `[P, K]` int64 by beam.
    """
    prompts, beams = score.shape
    width = value.shape[1]
    base = torch.arange(prompts, device=row.device)[:, None] * beams
    at = (base + row).flatten()
    best, which = value[at].view(prompts, -1).sort(dim=-1, descending=True, stable=True)
    best, which = best[:, :width], which[:, :width]
    tokens, parents = token[at].view(prompts, -1).gather(1, which), which // width
    norm, reach, is_last, is_eager = rule[0], rule[1], rule[2] > 0, rule[3] > 0
    is_end = (tokens[..., None] == ends).any(-1) | is_last

    broken = is_open & ~best[:, 0].isfinite()
    is_broken |= broken
    _keep(
        torch.where(is_end[:, :beams] & is_open[:, None] & ~broken[:, None], best[:, :beams] / norm, NEVER),
        (parents[:, :beams], tokens[:, :beams]),
        is_end[:, :beams] & is_open[:, None],
        step,
        (kept_score, kept_step, kept_parent, kept_token),
    )  # fmt: skip
    going = torch.where(is_end, best + NEVER, best)
    order = going.sort(dim=-1, descending=True, stable=True).indices[:, :beams]
    score.copy_(going.gather(1, order))
    chosen, parent = tokens.gather(1, order), parents.gather(1, order)

    has_ended = kept_step > 0
    worst = torch.where(has_ended, kept_score.amin(1, keepdim=True), NEVER)
    is_open &= (score[:, :1] / reach > worst).any(1) & ~is_last & ~(is_eager & has_ended.all(1)) & ~broken

    places, origin = _places(row, parent)
    origin = torch.where(is_open[:, None], origin, torch.arange(beams, device=row.device))
    pairs = common.gather(1, origin[..., None].expand_as(common)).gather(2, origin[:, None].expand_as(common))
    first = common.gather(2, origin[..., None])[..., 0]
    is_same = origin[..., None] == origin[:, None]
    common.copy_(torch.where(is_same, length.view(prompts, beams, 1), pairs))
    row.copy_(places)
    following = torch.empty_like(chosen).scatter_(1, places, torch.where(is_open[:, None], chosen, -1))
    return following.flatten(), (base + origin).flatten(), first.flatten(), chosen, parent


def _keep(found: Tensor, came: tuple[Tensor, Tensor], is_ended: Tensor, step: Tensor, kept: tuple[Tensor, ...]) -> None:
    """Puts the texts that end now among those that are kept, of which the best stay."""
    score, steps, parent, token = kept
    beams = score.shape[1]
    merged = torch.cat((score, found), 1)
    order = merged.sort(dim=-1, descending=True, stable=True).indices[:, :beams]
    new_steps = torch.where(is_ended, step + 1, 0)
    score.copy_(merged.gather(1, order))
    for old, new in ((steps, new_steps), (parent, came[0]), (token, came[1])):
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
