"""The tables that compiled code reads: for every call, where its values, parameters, states and scalars are."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...compiler.ir import Call
from ...compiler.native.body import AS_THEY_ARE, Operand
from ...compiler.native.source import NativeProgram
from ...compiler.ops.declaration import StateSpec
from ...compiler.program import Program
from ...kernels.states import STATES
from ...specs.diagnostics import fail
from ..execute import State
from ..storage import Bound
from ..tree import scalar_operands
from .abi import CallStruct
from .packing import pack, packed_bytes


@dataclass(slots=True, kw_only=True)
class Binding:
    """A program's calls in C. `packed` holds the packed matrices by call and placeholder, those that were given too."""

    program: Program
    native: NativeProgram
    library: ctypes.CDLL
    outside: Sequence[str]
    """The model's inputs and then its outputs: values that do not lie in the program's memory."""
    packed: dict[str, Tensor]
    calls: ctypes.Array[CallStruct] = field(init=False)
    _states: list[tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int64]]] = field(init=False)
    _kept: list[object] = field(init=False)
    """Everything that the tables point into."""
    _made: dict[tuple[int, str], Tensor] = field(init=False)
    """By the identity of a parameter that several calls share, what was made of it."""

    def bind(self, parameters: Sequence[tuple[Bound, ...]]) -> None:
        """Fill the tables; `parameters` are those of each call. Raises E0753 where packed ones are not as expected."""
        calls = self.program.module.calls
        self.calls, self._states, self._kept, self._made = (CallStruct * len(calls))(), [], [], {}
        for entry, call, tensors in zip(self.calls, calls, parameters, strict=True):
            lowered = self.program.module.definitions[call.definition]
            count = sum(_buffer_count(spec) for _, spec in lowered.states.values())
            pointers, slots = (ctypes.c_void_p * max(1, count))(), (ctypes.c_int64 * max(1, count))()
            self._states.append((pointers, slots))
            entry.states, entry.slots = ctypes.addressof(pointers), ctypes.addressof(slots)
            if call.definition in self.native.definitions:
                self._bind_call(entry, call, dict(zip(lowered.parameters, tensors, strict=True)))
        self._made.clear()

    def _bind_call(self, entry: CallStruct, call: Call, named: Mapping[str, Bound]) -> None:
        definition = self.native.definitions[call.definition]
        lowered = self.program.module.definitions[call.definition]
        operands = [
            self._plain(operand, named) if operand.format in AS_THEY_ARE else self._packed(call, operand, named)
            for operand in definition.parameters
        ]
        names = [*map(call.inputs.get, lowered.inputs), *map(call.outputs.get, lowered.outputs)]
        numbers = [float(value) for value in scalar_operands(lowered, call).values()]  # type: ignore[arg-type]
        addresses = (ctypes.c_void_p * max(1, len(operands)))(*(tensor.data_ptr() for tensor in operands))
        values = (ctypes.c_int64 * max(1, len(names)))(*map(self._place, names))
        scalars = (ctypes.c_double * max(1, len(numbers)))(*numbers)
        self._kept += [operands, addresses, values, scalars]
        entry.function = self.native.function(call.definition)
        entry.values, entry.parameters = ctypes.addressof(values), ctypes.addressof(addresses)
        entry.scalars = ctypes.addressof(scalars)

    def _plain(self, operand: Operand, named: Mapping[str, Bound]) -> Tensor:
        """A parameter as the code reads it; those that are already so are not copied."""
        found = named[operand.placeholder]
        tensor = found[operand.part or 0] if isinstance(found, tuple) else found
        if tensor.is_meta:
            raise fail("E0753", f"the weights lack {operand.placeholder}")
        if operand.format == "float32" and tensor.dtype != torch.float32:
            same = (id(tensor), operand.format)
            if same not in self._made:
                self._made[same] = tensor.float()
            tensor = self._made[same]
        return tensor.contiguous()

    def _packed(self, call: Call, operand: Operand, named: Mapping[str, Bound]) -> Tensor:
        """A matrix in its packed form: the one that was given, or made now."""
        key, found = operand_name(call, operand.placeholder), named[operand.placeholder]
        parts = found if isinstance(found, tuple) else (found,)
        if key not in self.packed:
            if parts[0].is_meta:
                raise fail("E0753", f"the packed weights lack {key}")
            same = (id(found), f"{operand.format} {operand.is_pair}")
            if same not in self._made:
                weight = parts[0] if len(parts) == 1 else torch.cat(parts)
                self._made[same] = pack(self.library, weight, operand.format, is_pair=operand.is_pair)
            self.packed[key] = self._made[same]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        size = packed_bytes(self.library, shape, operand.format, is_pair=operand.is_pair)
        if self.packed[key].dtype != torch.uint8 or self.packed[key].numel() != size:
            raise fail("E0753", f"the packed weight {key} has {self.packed[key].nbytes} bytes, not {size}")
        return self.packed[key]

    def _place(self, name: object) -> int:
        """Where a value between calls lies: floats a row, or -1-i for one that lies outside."""
        assert isinstance(name, str)
        return -1 - self.outside.index(name) if name in self.outside else self.native.slots[name]

    def point_at(self, paths: Sequence[Sequence[str]], states: Mapping[str, State]) -> None:
        """Let the table of each call name the buffers of these states; `paths` are the states of each call."""
        for own, (pointers, slots) in zip(paths, self._states, strict=True):
            index = 0
            for path in own:
                for buffer in states[path]:
                    pointers[index], slots[index] = buffer.data_ptr(), buffer.shape[2] if buffer.dim() > 2 else 0
                    index += 1


def operand_name(call: Call, placeholder: str) -> str:
    """What a parameter of one call is called: `model.layers.3:mlp_down_proj_weight`."""
    return f"{call.binding.prefix}:{placeholder}"


def _buffer_count(spec: StateSpec) -> int:
    return len(STATES[spec.kind].slots(spec.sizes, 1))
