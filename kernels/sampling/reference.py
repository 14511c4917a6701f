"""The definition of sampling: penalties, temperature, top-k, top-p, min-p, one uniform number, one token a row.

Probabilities are whole numbers, 2^40 for the likeliest token, so that their sums do not depend on the order of adding.
They are made with one rounded product of floats and whole numbers from there on, and the uniform number is a word of
Philox: from the same logits, seed and step every kernel picks the same token, whatever its compiler does to floats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..record import called_with
from .fields import Sample

WIDEST = 2**19
"""Tokens of a vocabulary whose masses sum to less than 2^59."""
MASS_BITS = 40
LOWEST_SCORE = -29.0
"""Scores from here down have no mass."""
OCTAVE_BITS = 24
OCTAVES = 24204406.0
"""2^OCTAVE_BITS / ln 2, as float32 holds it."""
POWER = (2147483648, 1488521986, 515877902, 119165493, 20571132, 2737501, 234126)
"""2^-f for f from 0 to 1 as POWER[0] - f (POWER[1] - f (POWER[2] - ...)) in units of 2^-31: within 6e-9."""
_WORD = 2**32 - 1
_ROUNDS = ((0xD2511F53, 0x9E3779B9), (0xCD9E8D57, 0xBB67AE85))


@called_with(Sample)
def sample(given: Sample) -> Tensor:
    """The next token of every row, `[B]` int64; -1 where the largest logit is NaN or not finite.

    logits `[B, V]` of any float dtype; temperature (0: the likeliest token, the lowest id of equals), top_p (1: off),
    min_p (0: off), repetition_penalty (1: off), presence_penalty, frequency_penalty (0: off) `[B]` float32; top_k (0:
    off) `[B]` int32; seed, step `[B]` int64: the uniform number of a row depends on these two alone. `seen` `[B, V]`
    int32 is 0 for a token that never occurred, else 1 more than the times it was generated, and is brought up to date.

    Repetition (Keskar et al. 2019) holds for every token seen, presence and frequency for the generated ones. Ties: all
    tokens equal to the k-th stay; of those equal at top-p's edge the lowest ids go, as a stable sort removes them.
    """
    logits, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, step, seen = given
    scores = penalised(logits, seen, repetition, presence, frequency)
    largest = scores.amax(-1, keepdim=True)
    likeliest = scores.argmax(-1)
    is_greedy = temperature == 0.0
    scores = (scores - largest) / torch.where(is_greedy, 1.0, temperature)[:, None]
    mass = masses(scores).masked_fill(~kept(scores, top_k, top_p, min_p), 0)
    cumulative = mass.cumsum(-1)
    point = share_of(cumulative[:, -1], random_words(seed, step))
    drawn = (cumulative <= point[:, None]).sum(-1)
    tokens = torch.where(is_greedy, likeliest, drawn)
    tokens = torch.where(largest[:, 0].isfinite(), tokens, -1)
    if seen is not None:
        count_tokens(seen, tokens)
    return tokens


def penalised(logits: Tensor, seen: Tensor | None, repetition: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """Logits `[B, V]` as float32 after the penalties of the tokens seen."""
    scores = logits.float()
    if seen is None:
        return scores
    repeated = torch.where(scores < 0, scores * repetition[:, None], scores / repetition[:, None])
    generated = (seen - 1).clamp(min=0).float()
    scores = torch.where(seen > 0, repeated, scores)
    return scores - frequency[:, None] * generated - presence[:, None] * (generated > 0)


def masses(scores: Tensor) -> Tensor:
    """`exp` of float32 scores that are at most 0, in units of 2^-MASS_BITS: int64. Relative error 1e-7 (1 - score)."""
    octaves = scores.clamp(min=LOWEST_SCORE).mul_(-OCTAVES).long()
    part = (octaves & (2**OCTAVE_BITS - 1)).bitwise_left_shift_(32 - OCTAVE_BITS)
    power = POWER[-2] - (part * POWER[-1] >> 32)
    for coefficient in POWER[-3::-1]:
        power.mul_(part).bitwise_right_shift_(32).sub_(coefficient).neg_()
    return power.bitwise_left_shift_(MASS_BITS - 31).bitwise_right_shift_(octaves >> OCTAVE_BITS)


def least_mass(min_p: Tensor) -> Tensor:
    """What min-p leaves is from here on."""
    return (min_p * 2.0**MASS_BITS).long()


def kept(scores: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which tokens the filters leave, one after the other. scores `[B, V]`, at most 0 -> `[B, V]` bool."""
    size = scores.shape[-1]
    ascending, order = scores.sort(dim=-1, stable=True)
    count = torch.where((top_k > 0) & (top_k < size), top_k, size).long()
    kth = ascending.gather(1, (size - count)[:, None])
    is_kept = (ascending >= kth) & (ascending > -torch.inf)
    mass = masses(ascending)
    cumulative = (mass * is_kept).cumsum(-1)
    is_kept &= (cumulative > removable(cumulative[:, -1], top_p)[:, None]) | (top_p >= 1)[:, None]
    is_kept &= mass >= least_mass(min_p)[:, None]
    return torch.zeros_like(is_kept).scatter_(1, order, is_kept)


def removable(total: Tensor, top_p: Tensor) -> Tensor:
    """The mass that top-p may take away, from the least likely tokens on; never all."""
    return torch.minimum(((1.0 - top_p.double()) * total.double()).long(), total - 1)


def share_of(total: Tensor, word: Tensor) -> Tensor:
    """`floor(total * word / 2^32)` without overflow: int64, total below 2^59, word below 2^32."""
    return (word * (total >> 29) + ((word * (total & (2**29 - 1))) >> 29)) >> 3


def random_word(seed: int, step: int) -> int:
    """The first 32 bits of Philox 4x32-10 (Salmon et al. 2011) at key `seed` and counter `step`."""
    counter = [step & _WORD, (step >> 32) & _WORD, 0, 0]
    keys = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(10):
        (high_a, low_a), (high_b, low_b) = (divmod(counter[2 * i] * _ROUNDS[i][0], 2**32) for i in range(2))
        counter = [high_b ^ counter[1] ^ keys[0], low_b, high_a ^ counter[3] ^ keys[1], low_a]
        keys = [(key + raised) & _WORD for key, (_, raised) in zip(keys, _ROUNDS, strict=True)]
    return counter[0]


def random_words(seed: Tensor, step: Tensor) -> Tensor:
    """`random_word` of every row, as int64, without a look at a number: for steps that are recorded."""
    zero = torch.zeros_like(step)
    return philox(seed, (step & _WORD, (step >> 32) & _WORD, zero, zero))


def philox(seed: Tensor, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The first 32 bits of Philox 4x32-10 at key `seed` int64 and a counter of four words, all as int64."""
    one, two, three, four = counter
    keys = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(10):
        (high_a, low_a), (high_b, low_b) = _product(one, _ROUNDS[0][0]), _product(three, _ROUNDS[1][0])
        one, two, three, four = high_b ^ two ^ keys[0], low_b, high_a ^ four ^ keys[1], low_a
        keys = [(key + raised) & _WORD for key, (_, raised) in zip(keys, _ROUNDS, strict=True)]
    return one


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of a product of two words."""
    low = a * (b & 0xFFFF)
    middle = a * (b >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def count_tokens(seen: Tensor, tokens: Tensor) -> None:
    """Counts one more of each row's token in `seen`; a token of -1 is none."""
    rows = torch.arange(seen.shape[0], device=seen.device)
    index = tokens.clamp(min=0)
    now = seen[rows, index]
    seen[rows, index] = torch.where(tokens >= 0, now.clamp(min=1) + 1, now)
