"""Runs an emitted case on random operands, compares it with its reference, and watches all memory around it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llmc.kernels.tolerance import error_ratio
from llmc.runtime.native.abi import CallStruct, PassStruct
from llmc.runtime.native.packing import declare, pack

from .emitted import NAMES, Emitted, Text
from .emitted_case import LEADING, Case, Given, Parameter, Sample, State, Value, sample

GUARD = 64
"""Elements on both sides of memory that is written."""
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SCRATCH = 4 << 20


class Guarded:
    """Memory between guards."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self._poison = float("nan") if dtype.is_floating_point else -(1 << 40)
        count = torch.Size(shape).numel()
        self._memory = torch.full((count + 2 * GUARD,), self._poison, dtype=dtype)
        self.tensor = self._memory[GUARD : GUARD + count].view(*shape)

    @property
    def address(self) -> int:
        return self._memory.data_ptr() + GUARD * self._memory.element_size()

    def check(self, name: str) -> Tensor:
        """What was written; fails where something was written beside it."""
        before, after = self._memory[:GUARD], self._memory[GUARD + self.tensor.numel() :]
        for guard in (before, after):
            same = guard.isnan() if guard.is_floating_point() else guard == self._poison
            assert bool(same.all()), f"{name}: something was written beside it"
        return self.tensor


class Memory:
    """What `pass->inputs` points to in one call."""

    def __init__(self, text: Text, module: ctypes.CDLL, made: Sample, states: Mapping[State, list[Guarded]]) -> None:
        self._kept: list[Tensor] = []
        self.outputs: dict[str, Guarded] = {}
        self.addresses: list[int] = []
        found = {port: place for port, place in text.outputs.items()}
        counted: dict[object, int] = {}
        for operand, kind in text.memory:
            match operand:
                case Value():
                    self._keep(_with_gaps(operand, made.stored[operand]))
                case Parameter():
                    self._keep(_stored(module, made.stored[operand], kind))
                case State():
                    number = counted[operand] = counted.get(operand, -1) + 1
                    self.addresses.append(states[operand][number].address)
                case _:
                    place = found[str(operand)]
                    leading = tuple(made.position.shape)[: LEADING[place.rows]]
                    dtype = torch.float32 if place.ctype == "float" else torch.int64
                    self.outputs[str(operand)] = Guarded((*leading, *place.shape), dtype)
                    self.addresses.append(self.outputs[str(operand)].address)

    def _keep(self, x: Tensor) -> None:
        self._kept.append(x)
        self.addresses.append(x.data_ptr())


def _with_gaps(operand: Value, x: Tensor) -> Tensor:
    """The rows with something between them that must not be read."""
    rows = x.reshape(-1, torch.Size(operand.shape).numel())
    poison = float("nan") if x.is_floating_point() else 1 << 40
    wide = torch.full((rows.shape[0], rows.shape[1] + operand.gap), poison, dtype=x.dtype)
    first = operand.gap // 2
    wide[:, first : first + rows.shape[1]] = rows
    return wide


def _stored(module: ctypes.CDLL, x: Tensor, kind: str) -> Tensor:
    """A parameter as float32, in another type, or packed."""
    if kind == "float32":
        return x
    _, format, *details = kind.split()
    for dtype, name in NAMES.items():
        if name == format:
            return x.to(dtype)
    declare(module)
    return pack(module, x, format, is_pair="pair" in details, is_in_out="in_out" in details)


def check(emitted: Emitted, number: int, *, batch: int, tokens: Sequence[int], threads: int, seed: int) -> None:
    """Run a case for some calls of so many tokens a row; its states go on from call to call."""
    text, generator = emitted.texts[number], torch.Generator().manual_seed(seed)
    case = text.case
    kept = [one for _, operands in case.nodes for one in operands.values() if isinstance(one, State)]
    states = {one: _begin(one, batch, tokens[0], generator) for one in kept}
    lengths = torch.zeros(batch, dtype=torch.int64)
    for count in tokens:
        states |= {one: _begin(one, batch, count, generator) for one in kept if one.slots < 0}
        made = sample(case, lengths, count, generator, {one: [x.tensor for x in held] for one, held in states.items()})
        memory = Memory(text, emitted.module, made, states)
        _run(emitted, number, made, memory, threads, states)
        outputs, after = case.expected(made.before, made.given)
        written = [memory.outputs[port].check(port) for port in case.ports]
        whole = [pair for pair in zip(written, outputs, strict=True) if not pair[0].is_floating_point()]
        if not all(torch.equal(ours, expected) for ours, expected in whole):  # scores that only float64 tells apart
            outputs, after = case.expected(_narrow(made.before), _narrow(made.given))
        where = f"{case.op}, batch {batch}, {count} tokens, {case.dtype}"
        for port, ours, expected in zip(case.ports, written, outputs, strict=True):
            compare(f"{where}, {port}", ours, expected, case.tolerance)
        for held, expected in zip((x for found in states.values() for x in found), after, strict=False):
            compare(f"{where}, state", held.check("state"), expected, case.state_tolerance)
        lengths = torch.maximum(lengths, made.position.amax(1) + 1) if count else lengths


def _narrow(given: Given) -> Given:
    """The operands in float32, as C has them."""
    return {name: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in given.items()}


def _begin(state: State, batch: int, tokens: int, generator: torch.Generator) -> list[Guarded]:
    """A state as something else has left it: any numbers; positions in order, and -1 for padding."""
    dtypes = state.dtypes * (len(state.shapes) // len(state.dtypes))
    shapes = [(batch, *(tokens if size < 0 else size for size in shape)) for shape in state.shapes]
    held = [Guarded(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    for one in held:
        x = torch.randn(one.tensor.shape, generator=generator)
        order = torch.arange(x.shape[-1])
        one.tensor.copy_(x if one.tensor.is_floating_point() else torch.where(x < -0.8, -1, order))
    return held


def _run(
    emitted: Emitted,
    number: int,
    made: Sample,
    memory: Memory,
    threads: int,
    states: Mapping[State, list[Guarded]],
) -> None:
    text, module = emitted.texts[number], emitted.module
    batch, tokens = made.position.shape
    rows, table = batch * tokens, (ctypes.c_void_p * max(1, len(memory.addresses)))(*memory.addresses)
    scalars = (ctypes.c_double * max(1, len(text.scalars)))(*text.scalars)
    local = Guarded((max(rows, batch) * text.floats,))
    size = 0 if not text.widest else int(module.llmc_linear_workspace(max(rows, 1) * 8, text.widest))
    workspace = torch.empty(size + 64, dtype=torch.uint8)
    run = PassStruct(batch=batch, tokens=tokens, rows=rows, locals=local.address, sharing=1)
    run.position, run.lengths = made.position.data_ptr(), made.lengths.data_ptr()
    run.inputs, run.workspace = ctypes.addressof(table), -(-workspace.data_ptr() // 64) * 64
    held = next((x.tensor.dtype for found in states.values() for x in found), torch.float32)
    run.cache_type = TYPES.get(held, 0)
    call = CallStruct(function=number, scalars=ctypes.addressof(scalars))
    team = module.llmc_team_new(threads, SCRATCH)
    module.llmc_run(team, ctypes.addressof(run), ctypes.addressof(call), 1)
    module.llmc_team_free(team)
    local.check("workspaces")


def compare(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fails unless the shapes agree and the values, by error ratio; whole numbers are to be equal."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} for {tuple(expected.shape)}"
    if not actual.is_floating_point() or tolerance == 0.0:
        assert torch.equal(actual.to(expected.dtype), expected), f"{name}: not equal"
        return
    ratio = error_ratio(actual, expected)
    assert ratio <= tolerance, f"{name}: error ratio {ratio:.2e} exceeds {tolerance:.0e}"


__all__ = ["Case", "check"]
