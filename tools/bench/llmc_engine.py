"""A model of ours as the benchmarks run it, and what its passes cannot do without."""

from __future__ import annotations

import time
from dataclasses import replace
from math import prod
from typing import cast

import torch
from torch import Tensor, fx

from ...compiler.lowered import type_of
from ...compiler.native.formats import PACKED, Formats
from ...compiler.parameters import leaves
from ...compiler.plan import flops, plan
from ...compiler.program import Program
from ...runtime.cache import Cache
from ...runtime.model import LanguageModel
from ...runtime.native.executor import NativeExecutor
from ...runtime.storage import operand_name
from ...specs.diagnostics import fail
from ..roofline import unread_parameters
from .speed import Floor


def random_ids(model: LanguageModel, batch: int, count: int) -> Tensor:
    """`[batch, count]` int64, always the same."""
    size = model.program.spec.environment.get("vocab_size")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, size if isinstance(size, int) else 2, (batch, count), generator=generator)


class LlmcEngine:
    """The fused Program. Greedy decoding is one native call where the model allows it, else a pass a token.

    Raises E0808 for a model without a state.
    """

    def __init__(self, model: LanguageModel, ids: Tensor, tokens: int, name: str = "llmc") -> None:
        if not model.program.states:
            raise fail(
                "E0808",
                f"{model.program.spec.name} keeps no state between tokens (it is an encoder)",
                help="bench a decoder",
            )
        self.name = name
        self.model = model
        self._ids = ids.to(model.device)
        self._tokens = tokens
        self._last = self._ids[:, -1:]
        self._input = model.program.model.inputs[0].name
        self._cache: Cache | None = None
        self.token = 0
        """Of the first row, the last one that was chosen."""

    @property
    def is_one_call(self) -> bool:
        """Whether decoding runs without Python."""
        executor = self.model.executor()
        return isinstance(executor, NativeExecutor) and executor.can_decode

    def prefill(self) -> float:
        batch, prompt = self._ids.shape
        self._cache = self.model.new_cache(batch, max_seq_len=prompt + self._tokens)
        self._synchronise()
        started = time.perf_counter()
        self._last = self._step(self._ids)["logits"][:, -1:].argmax(-1)
        self._synchronise()
        taken = time.perf_counter() - started
        self.token = int(self._last[0])
        return taken

    def decode(self) -> float:
        assert self._cache is not None
        executor = self.model.executor()
        last = [int(token) for token in self._last]
        started = time.perf_counter()
        if isinstance(executor, NativeExecutor) and executor.can_decode:
            with torch.inference_mode():
                found = executor.decode(
                    last, self._cache.row_lengths(), self._cache.states, self._tokens, (), kept=self._cache.kept
                )
            taken = time.perf_counter() - started
            if any(len(row) != self._tokens for row in found):
                raise fail("E0856", f"{self.model.program.spec.name} gives logits that are not finite")
            self.token = found[0][-1]
            return taken
        token = self._last
        for _ in range(self._tokens):
            token = self._step(token)["logits"][:, -1:].argmax(-1)
        self._synchronise()
        taken = time.perf_counter() - started
        self.token = int(token[0])
        return taken

    def _step(self, ids: Tensor) -> dict[str, Tensor]:
        assert self._cache is not None
        values = {**self.model.default_inputs(ids), self._input: ids}
        with torch.inference_mode():
            return self.model.run_program(values, self._cache, None, last_token_only=True)

    def _synchronise(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def packed_sizes(program: Program, formats: Formats) -> dict[str, int]:
    """Parameters of the model that are packed, by the path of the call and placeholder."""
    found: dict[str, int] = {}
    for call in program.module.calls:
        lowered = program.module.definitions[call.definition]
        for placeholder in formats.get(call.definition, {}):
            parts = leaves(lowered.parameters[placeholder])
            found[f"{call.binding.prefix}:{placeholder}"] = sum(prod(part.shape) for part in parts)
    return found


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of the weights that passes read, packed ones as they are packed."""
    count = model.program.plan.parameters
    executor = model.executor()
    if not isinstance(executor, NativeExecutor) or not executor.binding.packed:
        return count * model.dtype.itemsize
    sizes = packed_sizes(model.program, executor.formats)
    packed = sum(tensor.numel() for tensor in executor.binding.packed.values())
    return max(0, count - sum(sizes.values())) * model.dtype.itemsize + packed


def _packed_unread(model: LanguageModel, batch: int) -> int:
    """Bytes that packing spares of experts which a token does not visit."""
    executor, spared = model.executor(), 0.0
    if not isinstance(executor, NativeExecutor):
        return 0
    for call in model.program.module.calls:
        lowered = model.program.module.definitions[call.definition]
        for node, site in lowered.sites():
            arguments = [node.kwargs.get(name) for name in PACKED[site.op.name]] if site.op.name == "experts" else []
            for stack in (one for one in arguments if isinstance(one, fx.Node)):
                packed = executor.binding.packed.get(operand_name(call, str(stack.target)))
                shape = lowered.parameters[str(stack.target)].shape
                picks = cast("int", type_of(cast("fx.Node", node.kwargs["experts"])).shape[-1])
                if packed is not None:
                    bytes_spared = prod(shape) * model.dtype.itemsize - packed.numel()
                    spared += max(0.0, 1 - batch * picks / shape[0]) * bytes_spared
    return round(spared)


def floor(model: LanguageModel, *, batch: int, prompt: int, tokens: int, is_packed: bool = True) -> Floor:
    """What a decoded token in the middle of the `tokens`, and a prompt of which the last logits are wanted, must do.

    is_packed: with the weights as they are packed, where they are; else in the model's dtype.
    """
    program = model.program
    dtype = str(model.dtype).removeprefix("torch.")
    ties = program.weights.ties
    decode = plan(program.model, ties, batch=batch, context=prompt + tokens // 2, dtype=dtype)
    unread = unread_parameters(program.model, ties, batch) * model.dtype.itemsize
    sizes = {"B": batch, "T": prompt, "S": prompt}
    size = weight_bytes(model) if is_packed else decode.weight_bytes
    unread -= _packed_unread(model, batch) if is_packed else 0
    last_call = replace(program.model, calls=program.model.calls[-1:])
    tail = flops(last_call, sizes) - flops(last_call, {**sizes, "T": 1})
    return Floor(
        decode_bytes=size - unread + decode.state_bytes,
        prefill_operations=plan(program.model, ties, batch=batch, context=prompt, dtype=dtype).prefill_flops - tail,
        dtype="int8" if is_packed and model.quantize is not None else dtype,
    )


def thread_count(model: LanguageModel) -> int:
    """Threads that run it."""
    from ...runtime.native.team import thread_count as native

    is_native = isinstance(cast("object", model.executor()), NativeExecutor)
    return native() if is_native else torch.get_num_threads()
