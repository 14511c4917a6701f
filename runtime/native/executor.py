"""Runs a bound Program as machine code: consecutive compiled calls in one native call, the others through torch."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from ...compiler.native.formats import UNPACKED, Formats
from ...compiler.native.regions import Region, regions
from ...compiler.native.source import NativeProgram, values_read, write_program
from ...compiler.pieces import refuse_pieces
from ...compiler.program import PHASES, Program, native_is_on
from ...kernels.kernel import Phase
from ...kernels.states import STATES
from ..execute import Executor, State, last_rows
from ..sampling import Drawing
from ..storage import ParameterBinder, tensors_of
from .abi import CallStruct, GreedyStruct, PassStruct, open_library
from .binding import Binding
from .packing import SOURCES
from .pieces import in_pieces, piece_of
from .team import Team, team, thread_count
from .toolchain import NoCompiler
from .values import Values, value_types

ONE_THREAD_BYTES = 2 << 20
"""Weights that one core reads faster than two agree about it."""

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def refusal(program: Program, binder: ParameterBinder) -> str | None:
    """Why the program does not run as machine code; None where it does."""
    if not native_is_on():
        return "it is switched off"
    parameters = binder.tensors()
    if program.target.device != "cpu" or any(parameter.device.type not in ("cpu", "meta") for parameter in parameters):
        return "it is for the CPU"
    kinds = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    if len(kinds) != 1 or next(iter(kinds)) not in _DTYPES:
        return f"there are no kernels for {', '.join(sorted(str(kind) for kind in kinds))}"
    if any(call.rate != "stream" for call in program.module.calls):
        return "calls that run once a request stay with torch"
    return None


def _source(program: Program, dtype: str, formats: Formats) -> NativeProgram:
    """The program as C: as it was compiled, where its matrices are neither packed nor of another type."""
    if program.native is not None and dtype == program.target.dtype and not formats:
        return program.native
    return write_program(program.module, dtype, program.spec.document.path, formats)


class NativeExecutor(Executor):
    """An Executor whose compiled calls run natively. Raises NoCompiler where nothing can be compiled.

    formats: of the matrices to pack; packed: those that are packed already, by call and placeholder.
    """

    def __init__(
        self,
        program: Program,
        binder: ParameterBinder,
        formats: Formats = UNPACKED,
        packed: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.formats = formats
        self.dtype = next(one.dtype for one in binder.tensors() if one.is_floating_point())
        self.native = _source(program, _DTYPES[self.dtype], formats)
        if not self.native.definitions:
            reason = next(iter(self.native.refused.values()))
            raise NoCompiler(f"no part of it can be compiled: {reason.reason}")
        self.library = open_library(self.native)
        parameters = binder.bind(self.native.takes_parts)
        super().__init__(program, [tuple(tensors_of(bound)) for bound in parameters])
        self.weight_bytes = sum(parameter.nbytes for step in self.steps for parameter in step.operands["decode"])
        self.inputs = [port.name for port in program.model.inputs]
        self.outputs = list(program.module.outputs.values())
        self.types = value_types(program.module)
        self.binding = Binding(
            program=program,
            native=self.native,
            library=self.library,
            outside=(*self.inputs, *self.outputs),
            packed=dict(packed),
        )
        self.binding.bind(parameters)
        self.cached = [path for path, spec in program.states.items() if STATES[spec.kind].may_be_shorter]
        self.regions = regions(program.module, self.native)
        self.runs_in_pieces = bool(program.states) and refuse_pieces(program.module) is None
        self._pass = PassStruct()
        self._workspace = torch.empty(0, dtype=torch.uint8)
        self._memory = torch.empty(0)

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
        """As `Executor.run`; states are written in place. `kept` stays empty: nothing here is given once.

        One thread of Python at a time: others wait.
        """
        batch, tokens = ambient["position"].shape
        can_cut = not last_token_only or self.tail_is_tokenwise
        with self.team.lock:
            if not (self.runs_in_pieces and can_cut) or tokens <= piece_of(batch):
                return self._pass_over(phase, inputs, ambient, states, last_token_only)
            return in_pieces(
                lambda given, around: self._pass_over(phase, given, around, states, last_token_only),
                inputs,
                ambient,
                self.types,
                last_token_only=last_token_only,
            )

    def _pass_over(
        self,
        phase: Phase,
        inputs: Mapping[str, Tensor],
        ambient: Mapping[str, Tensor],
        states: dict[str, State],
        last_token_only: bool,
    ) -> dict[str, Tensor]:
        position = ambient["position"].contiguous()
        batch, tokens = position.shape
        cuts_tail = last_token_only and tokens > 1 and self.tail_is_tokenwise
        values = self._values(inputs, batch, tokens, cuts_tail)
        pointers = (ctypes.c_void_p * len(values.outside))(*(x.data_ptr() for x in values.outside.values()))  # type: ignore[attr-defined]
        self.binding.point_at([step.states for step in self.steps], states)
        lengths = ambient["lengths"].contiguous()
        self._begin(values, position, lengths, pointers, states)
        tail = len(self.steps) - 1 if cuts_tail else len(self.steps)
        for part in self.regions:
            if isinstance(part, int):
                if part < tail:
                    self._run_in_torch(part, phase, values, ambient, states)
            else:
                self._run(part.first, min(part.first + part.count, tail) - part.first)
        if cuts_tail:
            self._run_tail(values, phase, ambient, states)
        return {name: self._result(values, value) for name, value in self.program.module.outputs.items()}

    @property
    def takes_other_caches(self) -> bool:
        """Whether keys and values may be kept in another dtype than the model's: all that reads them is in C."""
        return bool(self.cached) and all(isinstance(part, Region) for part in self.regions)

    @property
    def workspace_bytes(self) -> int:
        """Bytes that passes have needed for what lies between weights and results."""
        return self._memory.nbytes + self._workspace.nbytes

    def release(self) -> None:
        """Let go of the tensors that packed ones stand for; what torch runs must not need them."""
        for index, step in enumerate(self.steps):
            if self.program.module.calls[index].definition in self.native.definitions:
                self.steps[index] = replace(step, operands=dict.fromkeys(PHASES, ()))

    @property
    def team(self) -> Team:
        """The threads that run it: one where a token is so little work that sharing it would take longer."""
        return team(1 if self.weight_bytes < ONE_THREAD_BYTES else thread_count())

    @property
    def can_decode(self) -> bool:
        """Whether greedy decoding may run without Python: all calls are one region, from tokens to logits alone."""
        return (
            self.regions == (Region(0, len(self.steps)),)
            and len(self.inputs) == 1
            and list(self.program.module.outputs) == ["logits"]
            and self.types[self.outputs[0]].shape[:2] == ("B", "T")
        )

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        states: Mapping[str, State],
        steps: int,
        ends: Sequence[int],
        drawing: Drawing | None = None,
    ) -> list[list[int]]:
        """Up to `steps` of the likeliest tokens after `tokens`, one list a row; there is no other `drawing`.

        tokens: the last one of each row, which the states do not hold yet, or -1 where the row has ended; lengths: what
        the states hold. A row ends with a token of `ends`. Where logits are not finite the lists stop before it: the
        caller's next step will find the same. Needs `can_decode`. One thread of Python at a time: others wait.
        """
        with self.team.lock:
            return self._decode(tokens, lengths, states, steps, ends)

    def _decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        states: Mapping[str, State],
        steps: int,
        ends: Sequence[int],
    ) -> list[list[int]]:
        batch = len(tokens)
        values = self._values({self.inputs[0]: torch.tensor(tokens)[:, None].clamp(min=0)}, batch, 1, False)
        fed, logits = (cast("Tensor", value) for value in values.outside.values())
        position = torch.tensor([-1 if token < 0 else 0 for token in tokens])
        held = torch.tensor(lengths)
        chosen = torch.full((steps, batch), -1)
        stops = torch.tensor([*ends, -1])
        pointers = (ctypes.c_void_p * 2)(fed.data_ptr(), logits.data_ptr())
        self.binding.point_at([step.states for step in self.steps], states)
        self._begin(values, position, held, pointers, states)
        greedy = GreedyStruct(
            fed.data_ptr(),
            position.data_ptr(),
            held.data_ptr(),
            logits.data_ptr(),
            logits.shape[-1],
            stops.data_ptr(),
            len(ends),
            chosen.data_ptr(),
        )
        done = self.library.llmc_decode(
            self.team.pointer,
            ctypes.addressof(self._pass),
            ctypes.addressof(self.binding.calls),
            len(self.steps),
            steps,
            ctypes.addressof(greedy),
        )
        rows = cast("list[list[int]]", chosen[:done].T.tolist())  # pyright: ignore[reportUnknownMemberType]
        return [[token for token in row if token >= 0] for row in rows]

    def _begin(
        self,
        values: Values,
        position: Tensor,
        lengths: Tensor,
        pointers: ctypes.Array[ctypes.c_void_p],
        states: Mapping[str, State],
    ) -> None:
        """Fill in what a pass is run with; the caller keeps the tensors alive."""
        passed = self._pass
        passed.batch, passed.tokens, passed.rows = values.sizes["B"], values.sizes["T"], values.rows
        passed.values = values.memory.data_ptr()
        passed.locals = passed.values + 4 * values.rows * self.native.values_floats
        passed.position, passed.lengths = position.data_ptr(), lengths.data_ptr()
        passed.inputs = ctypes.addressof(pointers)
        cached = next((states[path][0].dtype for path in self.cached if path in states), self.dtype)
        passed.cache_type = SOURCES[cached]
        passed.workspace = self._matrix_workspace(values.rows)

    def _values(self, inputs: Mapping[str, Tensor], batch: int, tokens: int, cuts_tail: bool) -> Values:
        """Memory for a pass; the model's inputs and outputs lie outside it, in the order that the code counts them."""
        rows = batch * tokens
        floats = rows * (self.native.values_floats + self.native.locals_floats) + 16
        if self._memory.numel() < floats:
            with torch.inference_mode(False):
                self._memory = torch.empty(floats)
        values = Values(
            types=self.types,
            slots=self.native.slots,
            memory=self._memory,
            sizes={"B": batch, "T": tokens},
            rows=rows,
            dtype=self.dtype,
        )
        values.outside.update({name: inputs[name].contiguous() for name in self.inputs})
        result_sizes = {"B": batch, "T": 1 if cuts_tail else tokens}
        for name in self.outputs:
            shape = [dim if isinstance(dim, int) else result_sizes[dim] for dim in self.types[name].shape]
            dtype = torch.int64 if self.types[name].dtype == "int64" else torch.float32
            values.outside[name] = torch.empty(shape, dtype=dtype)
        return values

    def _matrix_workspace(self, rows: int) -> int:
        if not self.native.widest:
            return 0
        size = self.library.llmc_linear_workspace(rows, self.native.widest) + 64
        if self._workspace.numel() < size:
            self._workspace = torch.empty(size, dtype=torch.uint8)
        return -(-self._workspace.data_ptr() // 64) * 64

    def _result(self, values: Values, name: str) -> Tensor:
        return cast("Tensor", values.read(name))

    def _run(self, first: int, count: int) -> None:
        if count > 0:
            address = ctypes.addressof(self.binding.calls) + first * ctypes.sizeof(CallStruct)
            self.library.llmc_run(self.team.pointer, ctypes.addressof(self._pass), address, count)

    def _run_in_torch(
        self, index: int, phase: Phase, values: Values, ambient: Mapping[str, Tensor], states: dict[str, State]
    ) -> None:
        """A call that could not be compiled."""
        step = self.steps[index]
        given = [
            [values.read(v) for v in value] if isinstance(value, tuple) else values.read(value) for value in step.inputs
        ]
        results = self.call(step, phase, given, ambient, states)
        for name, value in zip(step.outputs, results, strict=True):
            values.write(name, value)

    def _run_tail(self, values: Values, phase: Phase, ambient: Mapping[str, Tensor], states: dict[str, State]) -> None:
        """The last call on each row's last token alone: what it reads is gathered into memory of its own."""
        call = self.program.module.calls[-1]
        rows, last = last_rows(ambient["position"])
        batch = len(rows)
        spare = torch.empty(batch * (self.native.values_floats + self.native.locals_floats) + 16)
        cut = Values(
            types=self.types,
            slots=self.native.slots,
            memory=spare,
            sizes={"B": batch, "T": 1},
            rows=batch,
            dtype=self.dtype,
        )
        cut.outside.update({name: values.outside[name] for name in self.outputs})
        for name in values_read(call):
            whole = values.outside[name] if name in values.outside else values.view(name)
            is_tokens = isinstance(whole, Tensor) and self.types[name].shape[:2] == ("B", "T")
            cut.write(name, whole[rows, last][:, None] if is_tokens else whole)  # type: ignore[index]
        position = ambient["position"][rows, last][:, None].contiguous()
        if call.definition not in self.native.definitions:
            self._run_in_torch(len(self.steps) - 1, phase, cut, {**ambient, "position": position}, states)
            return
        self._pass.tokens, self._pass.rows = 1, batch
        self._pass.values = spare.data_ptr()
        self._pass.locals = self._pass.values + 4 * batch * self.native.values_floats
        self._pass.position = position.data_ptr()
        pointers = [values.outside[name] for name in self.inputs]
        kept = [cut.outside.get(name, value) for name, value in zip(self.inputs, pointers, strict=True)]
        every = [*kept, *(values.outside[name] for name in self.outputs)]
        table = (ctypes.c_void_p * len(every))(*(x.data_ptr() for x in every))  # type: ignore[attr-defined]
        self._pass.inputs = ctypes.addressof(table)
        self._run(len(self.steps) - 1, 1)
