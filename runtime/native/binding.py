"""The tables that compiled code reads: for every call, where its values, parameters, states and scalars are."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...compiler.ir import Call
from ...compiler.native.body import AS_THEY_ARE, Operand
from ...compiler.native.outline import Outline
from ...compiler.native.sharing import buffer_count
from ...specs.diagnostics import fail
from ..execute import State
from ..storage import Bound, operand_name
from .abi import CallStruct
from .packing import pack, packed_bytes


@dataclass(slots=True, kw_only=True)
class Binding:
    """A program's calls in C. `packed` holds the packed matrices by call and placeholder, those that were given too."""

    outline: Outline
    library: ctypes.CDLL
    packed: dict[str, Tensor]
    calls: ctypes.Array[CallStruct] = field(init=False)
    _paths: list[tuple[str, ...]] = field(init=False)
    """By call, the states that it reads."""
    _states: list[tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int64]]] = field(init=False)
    _kept: list[object] = field(init=False)
    """Everything that the tables point into."""
    _made: dict[tuple[int, str], Tensor] = field(init=False)
    """By the identity of a parameter that several calls share, what was made of it."""

    def bind(self, parameters: Sequence[tuple[Bound, ...]]) -> None:
        """Fill the tables; `parameters` are those of each call. Raises E0753 where packed ones are not as expected."""
        calls = self.outline.calls
        self.calls, self._paths, self._states = (CallStruct * len(calls))(), [], []
        self._kept, self._made = [], {}
        for index, (call, tensors) in enumerate(zip(calls, parameters, strict=True)):
            interface = self.outline.interfaces[call.definition]
            self._bind_states(index, call)
            if call.definition in self.outline.native.definitions:
                self._bind_call(self.calls[index], call, dict(zip(interface.parameters, tensors, strict=True)))
        self._made.clear()

    def _bind_states(self, index: int, call: Call) -> None:
        """Room for the addresses of a call's own states and then of those that it borrows; what it stores of these."""
        sharing = self.outline.native.sharing
        borrowed = sharing.borrowed.get(call.definition, ())
        own = self.outline.interfaces[call.definition].states.values()
        count = sum(map(buffer_count, [*(spec for _, spec in own), *(cache.spec for cache in borrowed)]))
        pointers, slots = (ctypes.c_void_p * max(1, count))(), (ctypes.c_int64 * max(1, count))()
        stores = [int(sharing.last[path] == index) for path in sharing.states.get(index, ())]
        stored = (ctypes.c_int64 * max(1, len(stores)))(*stores)
        self._paths.append((*(call.binding.own(path) for path, _ in own), *sharing.states.get(index, ())))
        self._states.append((pointers, slots))
        self._kept.append(stored)
        entry = self.calls[index]
        entry.states, entry.slots = ctypes.addressof(pointers), ctypes.addressof(slots)
        entry.stores = ctypes.addressof(stored)

    def _bind_call(self, entry: CallStruct, call: Call, named: Mapping[str, Bound]) -> None:
        definition = self.outline.native.definitions[call.definition]
        interface = self.outline.interfaces[call.definition]
        operands = [
            self._plain(operand, named) if operand.format in AS_THEY_ARE else self._packed(call, operand, named)
            for operand in definition.parameters
        ]
        names = [*map(call.inputs.get, interface.inputs), *map(call.outputs.get, interface.outputs)]
        numbers = [float(call.binding.scalars[key]) for key in interface.scalars.values()]  # type: ignore[arg-type]
        addresses = (ctypes.c_void_p * max(1, len(operands)))(*(tensor.data_ptr() for tensor in operands))
        values = (ctypes.c_int64 * max(1, len(names)))(*map(self._place, names))
        scalars = (ctypes.c_double * max(1, len(numbers)))(*numbers)
        self._kept += [operands, addresses, values, scalars]
        entry.function = self.outline.native.function(call.definition)
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
        if not parts:  # an earlier process compared its size with that of the parameter
            return self.packed[key]
        lies = {"is_pair": operand.is_pair, "is_in_out": operand.is_in_out}
        if key not in self.packed:
            if parts[0].is_meta:
                raise fail("E0753", f"the packed weights lack {key}")
            same = (id(found), f"{operand.format} {lies}")
            if same not in self._made:
                weight = parts[0] if len(parts) == 1 else torch.cat(parts)
                self._made[same] = pack(self.library, weight, operand.format, **lies)
            self.packed[key] = self._made[same]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        size = packed_bytes(self.library, shape, operand.format, **lies)
        if self.packed[key].dtype != torch.uint8 or self.packed[key].numel() != size:
            raise fail("E0753", f"the packed weight {key} has {self.packed[key].nbytes} bytes, not {size}")
        return self.packed[key]

    def _place(self, name: object) -> int:
        """Where a value between calls lies: floats a row, or -1-i for one that lies outside."""
        assert isinstance(name, str)
        native = self.outline.native
        if name in native.outside:
            return -1 - native.outside.index(name)
        return native.slots[name].floats if name in native.slots else 0  # positions of a cache lie nowhere

    def point_at(self, states: Mapping[str, State]) -> None:
        """Let the table of each call name the buffers of these states."""
        for paths, (pointers, slots) in zip(self._paths, self._states, strict=True):
            index = 0
            for path in paths:
                for buffer in states[path]:
                    pointers[index], slots[index] = buffer.data_ptr(), buffer.shape[2] if buffer.dim() > 2 else 0
                    index += 1
