"""Runs a bound Program on a GPU: prompts padded to few lengths, decoding replayed from CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from ...compiler.lowered import value_types
from ...compiler.ops.declaration import StateSpec
from ...compiler.program import Program
from ...kernels.kernel import Phase
from ..beam_settings import BeamSettings
from ..beams import Beams, Record, width_of
from ..execute import State, TorchExecutor
from ..sampling import Drawing, Sampling
from .beam_step import BeamStep
from .buckets import batch_rows, prefill_tokens
from .cache_pool import CachePool
from .capture import capture
from .decode_step import MAX_ENDS, MAX_STEPS, DecodeStep
from .draw_settings import DrawSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """A decode step, and what repeats it."""

    step: DecodeStep
    replay: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """A step of a search, and what repeats it."""

    step: BeamStep
    replay: Callable[[], None]

    @property
    def beams(self) -> Beams:
        return self.step.beams

    def search(self, lengths: Tensor, rules: Sequence[Sequence[float]]) -> tuple[list[Record], Tensor]:
        """As `Searching.search`, of at most MAX_STEPS rules. The host waits once, at the end."""
        self.step.begin(lengths, rules)
        for _ in rules:
            self.replay()
        return self.step.read(len(rules)), self.step.lengths.clone()


class GpuExecutor(TorchExecutor):
    """A TorchExecutor whose prefill sees few lengths and whose decoding is one graph launch a token."""

    def __init__(
        self,
        program: Program,
        parameters: Sequence[tuple[Tensor, ...]],
        packed: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__(program, parameters, packed)
        self._types = value_types(program.module)
        self._ports = [port for port in program.model.inputs if port.type.shape[:2] == ("B", "T")]
        self._recorded: dict[tuple[tuple[int, ...], bool], _Recorded] = {}
        self._searches: dict[tuple[tuple[int, ...], int, int, bool], _Search] = {}
        self.pool: CachePool | None = None
        """Of the model that owns it."""

    def rows_for(self, prompts: int) -> int:
        """A batch bucket: the rows beyond the prompts are padding."""
        return batch_rows(prompts)

    def run(
        self,
        phase: Phase,
        inputs: Mapping[str, Tensor],
        ambient: Mapping[str, Tensor],
        states: dict[str, State],
        *,
        kept: dict[str, Tensor] | None = None,
        last_token_only: bool = False,
    ) -> dict[str, Tensor]:
        """As `Executor.run`. A prompt is padded on its right to a length of `buckets.prefill_tokens`."""
        tokens = ambient["position"].shape[1]
        spare = prefill_tokens(tokens) - tokens if phase == "prefill" else 0
        if spare:
            inputs = {**inputs, **{port.name: _padded(inputs[port.name], spare, 0) for port in self._ports}}
            ambient = {**ambient, "position": _padded(ambient["position"], spare, -1)}
        outputs = super().run(phase, inputs, ambient, states, kept=kept, last_token_only=last_token_only)
        if not spare:
            return outputs
        values = self.program.module.outputs
        return {
            name: value[:, :tokens] if self._types[values[name]].shape[:2] == ("B", "T") else value
            for name, value in outputs.items()
        }

    @property
    def can_decode(self) -> bool:
        """Whether decoding may be recorded: tokens in, logits of each token out, and nothing that is given once."""
        outputs = list(self.program.module.outputs)
        return (
            len(self.program.model.inputs) == 1
            and outputs == ["logits"]
            and not self.once
            and self._types[self.program.module.outputs["logits"]].shape[:2] == ("B", "T")
        )

    @property
    def can_sample(self) -> bool:
        return True

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        states: dict[str, State],
        steps: int,
        ends: Sequence[int],
        drawing: Drawing | None = None,
        *,
        kept: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> list[list[int]]:
        """As `Executor.decode`; nothing is `kept`. The host waits once, at the end.

        The graph belongs to the states' buffers: a cache that is used again finds it.
        """
        drawing = drawing or Drawing(sampling=Sampling(), history=[], generated=[])
        if len(ends) > MAX_ENDS:
            ends = ()  # the host looks at each token anyway, and cuts what comes after an end
        recorded = self._record(states, len(tokens), counts=drawing.sampling.repetition_penalty != 1)
        steps = min(steps, MAX_STEPS)
        recorded.step.begin(tokens, lengths, ends, drawing)
        for _ in range(steps):
            recorded.replay()
        return recorded.step.read(steps)

    def replay_of(self, states: dict[str, State]) -> Callable[[], None]:
        """What decodes one more token into these states, once `decode` has been called with them."""
        return self._recorded[_buffers(states), False].replay

    def forget(self, states: Mapping[str, State]) -> None:
        """Let go of the graph of a cache that will not come back."""
        for counts in (False, True):
            self._recorded.pop((_buffers(states), counts), None)
        for key in [key for key in self._searches if key[0] == _buffers(states)]:
            del self._searches[key]

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
    ) -> _Search | None:
        """As `Executor.searching`; nothing is `kept`. The graph belongs to the states' buffers, and serves every
        request of as many beams that looks at as many continuations."""
        if not self.can_decode or len(ends) > MAX_ENDS:
            return None
        key = (_buffers(states), settings.num_beams, width_of(settings.num_beams, ends), counts)
        if key not in self._searches:
            device, vocabulary = self._device_and_vocabulary()
            beams = Beams(
                settings,
                prompts=prompts,
                vocab_size=vocabulary,
                ends=ends,
                device=device,
                counts=counts,
                room=MAX_ENDS,
                has_kernels=self.program.target.device.startswith("cuda"),
            )
            step = BeamStep(self._pass, beams, states, specs)
            self._searches[key] = _Search(step=step, replay=self._captured(step.step, device))
        return self._searches[key]

    def _record(self, states: dict[str, State], rows: int, *, counts: bool) -> _Recorded:
        key = (_buffers(states), counts)
        found = self._recorded.get(key)
        if found is not None:
            return found
        device, vocabulary = self._device_and_vocabulary()
        step = DecodeStep(self._pass, DrawSettings(rows, vocabulary, device, counts=counts), states, rows)
        self._recorded[key] = _Recorded(step=step, replay=self._captured(step.step, device))
        return self._recorded[key]

    def _device_and_vocabulary(self) -> tuple[torch.device, int]:
        device = next((one.device for step in self.steps for one in step.operands["decode"]), torch.device("cpu"))
        vocabulary = self._types[self.program.module.outputs["logits"]].shape[-1]
        assert isinstance(vocabulary, int)
        return device, vocabulary

    @staticmethod
    def _captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """What repeats a step, recorded where that can be."""
        try:
            return capture(step, device)
        except RuntimeError as error:
            warnings.warn(f"decoding is not recorded as a CUDA graph: {error}", RuntimeWarning, stacklevel=4)
            return step

    def _pass(self, tokens: Tensor, position: Tensor, lengths: Tensor, states: dict[str, State]) -> Tensor:
        """One decode pass whose new states end up in the buffers that it was given."""
        after = dict(states)
        name = self.program.model.inputs[0].name
        outputs = super().run("decode", {name: tokens}, {"position": position, "lengths": lengths}, after)
        for path, state in states.items():
            for buffer, new in zip(state, after[path], strict=True):
                if new is not buffer:
                    buffer.copy_(new)
        return outputs["logits"][:, -1].float()


def _buffers(states: Mapping[str, State]) -> tuple[int, ...]:
    return tuple(buffer.data_ptr() for state in states.values() for buffer in state)


def _padded(x: Tensor, spare: int, value: int) -> Tensor:
    """x `[B, T, …]` with `spare` more tokens on its right."""
    return functional.pad(x, (*([0, 0] * (x.dim() - 2)), 0, spare), value=value)
