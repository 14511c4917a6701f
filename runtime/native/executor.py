"""Runs a bound Program as machine code: single passes, and many passes in one call, each over the token that the one
before it gave."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from ...compiler.native.regions import Region
from ...compiler.ops.declaration import StateSpec
from ...kernels.cache.rows import parts_of
from ...kernels.states import STATES
from ..beam_settings import BeamSettings
from ..beams import Beams
from ..execute import State
from ..sampling import Drawing
from .abi import BeamsStruct, DecodingStruct
from .draw import make_draw
from .frame import Frame
from .passes import NativePasses
from .search import NativeSearch

KEPT_BYTES = 4 << 20
"""Of logits that a step may keep for the next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A pass over one token a row that is run again and again, and what it reads and writes."""

    frame: Frame
    fed: Tensor
    position: Tensor
    lengths: Tensor
    logits: Tensor


class NativeExecutor(NativePasses):
    """An Executor whose compiled calls run natively."""

    _kept: tuple[object, Step] | None = None
    """The last step, and what it was made for."""

    @property
    def can_decode(self) -> bool:
        """Whether decoding may run without Python: all that runs for each token is one region, from tokens to
        logits alone."""
        logits = self.outline.types[next(iter(self._results.values()))]
        return (
            [type(part) for part in self._stream] == [Region]
            and [port.rate for port in self.outline.inputs].count("stream") == 1
            and list(self._results) == ["logits"]
            and logits.shape[:2] == ("B", "T")
        )

    @property
    def can_sample(self) -> bool:
        return True

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        states: Mapping[str, State],
        steps: int,
        ends: Sequence[int],
        drawing: Drawing | None = None,
        *,
        kept: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> list[list[int]]:
        """As `Executor.decode`; where a row's logits are not finite the lists of all stop. One thread of Python at a
        time: others wait."""
        with self.team.lock:
            return self._decode(tokens, lengths, states, kept, steps, ends, drawing)

    def _decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        states: Mapping[str, State],
        kept: Mapping[str, Tensor],
        steps: int,
        ends: Sequence[int],
        drawing: Drawing | None,
    ) -> list[list[int]]:
        step, rows = self._step(len(tokens), states, kept), len(tokens)
        _fill(step.fed, [max(token, 0) for token in tokens])
        _fill(step.position, [-1 if token < 0 else 0 for token in tokens])
        _fill(step.lengths, lengths)
        chosen, stops = (ctypes.c_int64 * (steps * rows))(), (ctypes.c_int64 * (len(ends) + 1))(*ends)
        draw = None if drawing is None else make_draw(drawing, step.logits.shape[-1], steps)
        decoding = _decoding(step)
        decoding.ends, decoding.ends_count = ctypes.addressof(stops), len(ends)
        decoding.chosen = ctypes.addressof(chosen)
        decoding.sampling = None if draw is None else draw.address
        done = self.library.llmc_decode(*self._repeated(step.frame), steps, ctypes.addressof(decoding))
        made = chosen[: done * rows]
        return [[token for token in made[row::rows] if token >= 0] for row in range(rows)]

    def searching(
        self,
        states: dict[str, State],
        specs: Mapping[str, StateSpec],
        settings: BeamSettings,
        *,
        prompts: int,
        ends: Sequence[int],
        counts: bool,
        kept: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> NativeSearch | None:
        """As `Executor.searching`. One thread of Python at a time: others wait."""
        vocabulary = self.outline.types[self._results["logits"]].shape[-1]
        if not self.can_decode or not isinstance(vocabulary, int):
            return None
        beams = Beams(
            settings, prompts=prompts, vocab_size=vocabulary, ends=ends, device=torch.device("cpu"), counts=counts
        )

        def run(tokens: Tensor, lengths: Tensor, steps: int, struct: BeamsStruct) -> int:
            with self.team.lock:
                return self._search(tokens, lengths, states, kept, steps, struct)

        return NativeSearch(run, beams, parts_of((STATES[specs[path].kind], state) for path, state in states.items()))

    def _search(
        self,
        tokens: Tensor,
        lengths: Tensor,
        states: Mapping[str, State],
        kept: Mapping[str, Tensor],
        steps: int,
        beams: BeamsStruct,
    ) -> int:
        step = self._step(len(tokens), states, kept)
        step.fed.copy_(tokens[:, None])
        step.lengths.copy_(lengths)
        decoding, struct = _decoding(step), ctypes.addressof(beams)
        done = self.library.llmc_search(*self._repeated(step.frame), steps, ctypes.addressof(decoding), struct)
        tokens.copy_(step.fed[:, 0])
        lengths.copy_(step.lengths)
        return done

    def choose(self, logits: Tensor, drawing: Drawing, is_open: Sequence[bool]) -> list[int] | None:
        """As `Executor.choose`."""
        logits = logits.contiguous()
        draw = make_draw(drawing, logits.shape[-1], 1)
        chosen = (ctypes.c_int64 * len(is_open))(*(0 if one else -1 for one in is_open))
        decoding = DecodingStruct(logits=logits.data_ptr(), vocab=logits.shape[-1])
        decoding.position = decoding.chosen = ctypes.addressof(chosen)
        decoding.sampling = None if draw is None else draw.address
        if self.library.llmc_choose(ctypes.addressof(decoding), len(chosen)):
            return None
        return list(chosen)

    def _step(self, rows: int, states: Mapping[str, State], kept: Mapping[str, Tensor]) -> Step:
        """A pass over a token a row in these states, which may be run again and again: the last one, where all that it
        points into is where it was."""
        held = [states[path][0].dtype for path in self.cached if path in states]
        shared = [len(states[path][0]) for path in self.shared if path in states]
        wanted = (rows, held[:1], shared[:1])
        self.binding.point_at(states)
        if self._kept is not None and not kept and self._kept[0] == (self.memory.moves, *wanted):
            return self._kept[1]
        with torch.inference_mode(False):
            fed, position = (torch.zeros(rows, 1, dtype=torch.int64) for _ in range(2))
            lengths = torch.zeros(rows, dtype=torch.int64)
            ambient, given = {"position": position, "lengths": lengths}, {**kept, self.outline.inputs[0].name: fed}
            frame = self._frame(self._stream, ambient, given, states)
        logits = cast("Tensor", frame.values.outside[self._results["logits"]])
        step = Step(frame=frame, fed=fed, position=position, lengths=lengths, logits=logits)
        if not kept and logits.nbytes <= KEPT_BYTES:
            self._kept = (self.memory.moves, *wanted), step
        return step

    def _repeated(self, frame: Frame) -> tuple[int, int, int, int]:
        """What runs such a pass: the team, the pass, the first of its calls and their number."""
        region = cast("Region", self._stream[0])
        passed = ctypes.addressof(frame.passes[region.axis])
        return self.team.pointer, passed, self._calls_from(region.first), region.count


def _decoding(step: Step) -> DecodingStruct:
    """What C is told of a step."""
    return DecodingStruct(
        tokens=step.fed.data_ptr(),
        position=step.position.data_ptr(),
        lengths=step.lengths.data_ptr(),
        logits=step.logits.data_ptr(),
        vocab=step.logits.shape[-1],
    )


def _fill(memory: Tensor, values: Sequence[int]) -> None:
    """Write whole numbers, sooner than through a tensor of them."""
    (ctypes.c_int64 * len(values)).from_address(memory.data_ptr())[:] = values
