"""The definition of a beam search's step: order, ties, places of beams; and rows that go on from others."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import torch
from torch import Tensor

from llmc.compiler.ops.declaration import StateSpec
from llmc.kernels.cache.rows import copy_rows, parts_of
from llmc.kernels.sampling.beam_reference import best_continuations
from llmc.kernels.states import STATES
from llmc.runtime.beam_settings import BeamSettings
from llmc.runtime.beams import Beams
from llmc.runtime.cache import Cache

ONE = torch.ones(1)


def test_equal_scores_give_the_lower_id() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0, -0.0, 0.0]])
    _, ids = best_continuations(logits=logits, score=torch.zeros(1), width=7, repetition_penalty=ONE)
    assert ids.tolist() == [[1, 2, 4, 3, 0, 5, 6]]


def test_continuations_are_scored_after_penalties_and_bans() -> None:
    torch.manual_seed(0)
    logits, score = torch.randn(2, 9) * 3, torch.tensor([-1.5, -7.0])
    seen = torch.randint(2, (2, 9)).to(torch.uint8)
    value, ids = best_continuations(
        logits=logits, score=score, width=8, repetition_penalty=ONE * 1.5, seen=seen, banned=torch.tensor([4, -1])
    )
    expected = logits.log_softmax(-1) * torch.where(seen > 0, 1.5, 1.0) + score[:, None]
    expected[:, 4] = -torch.inf
    torch.testing.assert_close(value, expected.sort(dim=-1, descending=True).values[:, :8])
    assert torch.equal(value, expected.gather(1, ids))


def begun(prompts: int, beams: int, vocab: int, length: int, **options: object) -> Beams:
    settings = BeamSettings(num_beams=beams, **options)  # type: ignore[arg-type]
    made = Beams(settings, prompts=prompts, vocab_size=vocab, ends=[0], device=torch.device("cpu"), counts=False)
    made.begin(torch.full((prompts,), length), [[1]] * prompts, ends=[0], penalty=1.0)
    return made


def test_beams_that_go_on_stay_where_they_are() -> None:
    """By the law of copies: each row holds the text of its beam, from where it says that it differs."""
    torch.manual_seed(1)
    prompts, beams, vocab, start = 2, 3, 11, 4
    made = begun(prompts, beams, vocab, start)
    rows = torch.zeros(prompts * beams, 40, dtype=torch.int64)
    records: list[tuple[list[list[int]], list[list[int]]]] = []
    copied = 0
    for step in range(24):
        length = start + step
        rule = torch.tensor(made.settings.rule(step + 1, 1000))
        made.advance(
            torch.randn(prompts * beams, vocab) * 2, torch.full((prompts * beams,), length), rule, banned=made.ends
        )
        for row, (of, first) in enumerate(zip(made.source.tolist(), made.first.tolist(), strict=True)):
            assert made.source[of] == of
            if of != row:
                rows[row, first:length] = rows[of, first:length]
                copied += length - first
        rows[:, length] = made.tokens
        records.append(made.record())
        for prompt in range(prompts):
            for beam in range(beams):
                at, path = beam, list[int]()
                for chosen, parents in reversed(records):
                    path.append(chosen[prompt][at])
                    at = parents[prompt][at]
                place = prompt * beams + int(made.state.row[prompt, beam])
                assert rows[place, start : length + 1].tolist() == path[::-1], (step, prompt, beam)
    assert 0 < copied < 24 * 12 * prompts * beams / 4, "only what differs is copied"


def test_texts_end_in_the_order_of_their_scores() -> None:
    """One prompt and two beams, by hand: token 0 ends a text."""
    made = begun(1, 2, 4, 1, length_penalty=0.0)

    def step(*rows: list[float], tokens: int) -> None:
        logits = torch.tensor([*rows]).log()
        made.advance(logits, torch.full((2,), tokens), torch.tensor(made.settings.rule(tokens, 9)))

    step([0.1, 0.5, 0.4, 0.0], [0.1, 0.5, 0.4, 0.0], tokens=1)
    assert made.chosen.tolist() == [[1, 2]]
    records = [made.record()]
    step([0.6, 0.3, 0.1, 0.0], [0.5, 0.1, 0.4, 0.0], tokens=2)  # 1 0: .30, 2 0: .20, 2 2: .16, 1 1: .15
    assert made.parent.tolist() == [[1, 0]]
    assert made.source.tolist() == [0, 1]
    assert [text for text, _ in made.texts([*records, made.record()])[0]] == [[1, 0], [2, 0]]
    assert made.state.is_open.tolist() == [False], "no running text can become better"
    assert made.tokens.tolist() == [-1, -1]


def states(rows: int, capacity: int) -> Cache:
    specs = {
        "full": StateSpec(kind="kv_full", sizes={"heads": 2, "key_dim": 3, "value_dim": 5}),
        "ring": StateSpec(kind="kv_window", sizes={"heads": 1, "key_dim": 3, "value_dim": 2, "window": 2}),
        "tail": StateSpec(kind="conv", sizes={"channels": 3, "kernel": 4}),
        "matrix": StateSpec(kind="matrix", sizes={"heads": 2, "key_dim": 3, "value_dim": 2}),
    }
    return Cache(specs, batch_size=rows, max_seq_len=capacity, dtype=torch.float32, device=torch.device("cpu"))


def filled(cache: Cache, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for state in cache.states.values():
        for buffer in state:
            buffer.copy_(torch.randn(buffer.shape, generator=generator))


def test_a_cache_copies_rows_as_the_definition_says() -> None:
    lengths = torch.tensor([7, 7, 7, 29, 29])
    source, first = torch.tensor([0, 2, 2, 4, 4]), torch.tensor([7, 3, 7, 2, 29])
    ours, theirs = states(5, 40), states(5, 40)
    for cache in (ours, theirs):
        filled(cache, 3)
        cache.lengths = lengths
    before = [buffer.clone() for buffer in ours.states["full"]]
    ours.reorder(source.tolist(), first.tolist())
    parts = parts_of((STATES[spec.kind], theirs.states[path]) for path, spec in theirs.specs.items())
    copy_rows(parts, source=source, first=first, length=lengths)
    for path, state in ours.states.items():
        for found, expected in zip(state, theirs.states[path], strict=True):
            assert torch.equal(found, expected), path
    keys = ours.states["full"][0]
    assert torch.equal(keys[1, :, 3:7], before[0][2, :, 3:7])
    assert torch.equal(keys[1, :, :3], before[0][1, :, :3])
    assert torch.equal(keys[1, :, 7:], before[0][1, :, 7:])
    assert torch.equal(ours.states["ring"][0][3], ours.states["ring"][0][4])


def test_a_part_of_a_cache_is_spread_over_all_of_it() -> None:
    cache = states(6, 8)
    part = cache.part(2)
    filled(part, 1)
    part.lengths = torch.tensor([3, 5])
    kept: dict[str, list[Tensor]] = {path: [x.clone() for x in state] for path, state in part.states.items()}
    cache.spread(part)
    assert cache.row_lengths() == [3, 3, 3, 5, 5, 5]
    for path, state in cache.states.items():
        for found, given in zip(state, kept[path], strict=True):
            assert torch.equal(found, given.repeat_interleave(3, 0)), path
