"""Kernels in C as the compiler has them written: cases of ops, emitted into one library."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch

from llmc.kernels.native.node import ROW_COUNTS, CacheView, CType, Place, Rows, StateBuffers, Weight, literal
from llmc.kernels.native.registry import native_kernel

from .emitted_case import LEADING, Case, Operands, Parameter, Scalar, State, Value, reference_of, sample
from .native import KERNELS, library

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
IMPLIED = {"state", "position", "lengths"}
EACH_ROW = """
typedef void row_function(const llmc_pass *, const llmc_call *, int64_t);
__attribute__((noinline, unused)) static void each_row(llmc_thread *t, const llmc_pass *pass, const llmc_call *call,
                                                       int64_t rows, row_function *function) {
    LLMC_ROWS(t, r, rows) function(pass, call, r);
}
"""
"""The loop over rows once, which the compiler writes into every function: it takes long to compile."""


class Text:
    """One case as a C function, and what it takes."""

    def __init__(self, case: Case, name: str) -> None:
        self.case, self.name = case, name
        self.steps: list[str] = []
        self.constants: list[str] = []
        self.scalars: list[float] = []
        self.floats = self.widest = 0
        """Floats a row of workspaces, and the inputs of the widest matrix."""
        self.memory: list[tuple[object, str]] = []
        """What `pass->inputs` points to: an operand and the type of its elements, a buffer of a state, an output."""
        self.outputs: dict[str, Place] = {}
        made = sample(case, torch.zeros(2, dtype=torch.int64), 3, torch.Generator().manual_seed(0), {})
        self._found = dict(zip(case.ports, case.expected(made.before, made.given)[0], strict=True))
        self.headers, self.sources = dict[str, None](), dict[str, None]()
        views: dict[str, CacheView] = {}
        for op, operands in case.nodes:
            kernel, node = native_kernel(op), Node(self, op, operands, views)
            assert kernel is not None
            kernel.emit(node)
            unread = operands.keys() - node.asked - IMPLIED - set(kernel.implied)
            assert not unread, f"{op} leaves out {unread}"
            views = node.views
            self.headers |= dict.fromkeys(kernel.headers)
            self.sources |= dict.fromkeys(kernel.sources)
        assert self.outputs.keys() == self._found.keys()

    def number(self, operand: object, kind: str = "float32") -> int:
        """Where an operand lies in `pass->inputs`."""
        key = (operand, kind)
        if key not in self.memory:
            self.memory += [key] * (len(operand.shapes) if isinstance(operand, State) else 1)
        return self.memory.index(key)

    def place(self, operand: object) -> Place:
        """A computed operand, or a parameter as float32."""
        at = f"pass->inputs[{self.number(operand)}]"
        if isinstance(operand, Parameter):
            return Place(pointer=f"((const float *){at})", shape=operand.shape, stride=0, rows="one")
        assert isinstance(operand, Value)
        pointer, stride = f"((const {operand.ctype} *){at} + {operand.gap // 2})", prod(operand.shape) + operand.gap
        return Place(pointer=pointer, shape=operand.shape, stride=stride, rows=operand.rows, ctype=operand.ctype)

    def output(self, port: str) -> Place:
        """The memory of an output."""
        found, rows = self._found[port], self.case.rows
        shape = tuple(found.shape[LEADING[rows] :])
        ctype: CType = "float" if found.is_floating_point() else "int64_t"
        pointer = f"(({ctype} *)pass->inputs[{self.number(port)}])"
        made = Place(pointer=pointer, shape=shape, stride=prod(shape), rows=rows, ctype=ctype, buffer=pointer)
        self.outputs[port] = made
        return made

    def function(self) -> str:
        """The C function."""
        lines = [
            "#undef LLMC_MODEL_TYPE",
            f"#define LLMC_MODEL_TYPE LLMC_{NAMES[self.case.dtype].upper()}",
            *self.constants,
            f"static void {self.name}(llmc_thread *t, const llmc_pass *pass, const llmc_call *call) {{",
            "(void)t, (void)pass, (void)call;",
            *self.steps,
            "}",
        ]
        return "\n".join(lines)


class Node:
    """The `NativeNode` of one node of a case."""

    def __init__(self, text: Text, op: str, operands: Operands, views: Mapping[str, CacheView]) -> None:
        self._text, self._op, self._operands, self._views = text, op, operands, views
        self.asked: set[str] = set()
        self.views: dict[str, CacheView] = {}

    @property
    def path(self) -> str:
        return self._text.name

    @property
    def op(self) -> str:
        return self._op

    def has(self, name: str) -> bool:
        self.asked.add(name)
        return name in self._operands

    def input(self, name: str) -> Place:
        self.asked.add(name)
        if name == "position":
            return Place(pointer="pass->position", shape=(), stride=1, ctype="int64_t")
        return self._text.place(self._operands[name])

    def inputs(self, name: str) -> Sequence[Place]:
        self.asked.add(name)
        return [self._text.place(one) for one in cast("Sequence[Value]", self._operands[name])]

    def view(self, name: str) -> CacheView:
        self.asked.add(name)
        return self._views[name]

    def weight(
        self,
        name: str,
        *,
        is_pair: bool = False,
        is_in_out: bool = False,
        packing: str | None = None,
        takes_parts: bool = False,
    ) -> Weight:
        del takes_parts  # what `test_linear_native` is about
        self.asked.add(name)
        parameter = cast("Parameter", self._operands[name])
        format = packing or parameter.packed or NAMES[self._text.case.dtype]
        details = [word for word, holds in (("pair", is_pair), ("in_out", is_in_out)) if holds]
        number = self._text.number(parameter, " ".join(["stored", format, *details]))
        return Weight(pointer=f"pass->inputs[{number}]", shape=parameter.shape, format=format)

    def field(self, name: str) -> object:
        self.asked.add(name)
        default = inspect.signature(reference_of(self._op)).parameters[name].default
        return self._operands.get(name, default)

    def number(self, name: str) -> str:
        self.asked.add(name)
        found = self._operands.get(name)
        if isinstance(found, Scalar):
            self._text.scalars.append(found.value)
            return f"call->scalars[{len(self._text.scalars) - 1}]"
        return literal(float(cast("float", self.field(name))))

    def state(self) -> StateBuffers:
        self.asked.add("state")
        state = cast("State", self._operands["state"])
        first = self._text.number(state)
        pointers = tuple(f"pass->inputs[{first + i}]" for i in range(len(state.shapes)))
        slots = "pass->tokens" if state.slots < 0 else str(state.slots)
        return StateBuffers(pointers=pointers, slots=slots, kind=state.kind, sizes=state.sizes)

    def output(self, port: str = "out") -> Place:
        return self._text.output(port)

    def alias(self, port: str, place: Place | CacheView) -> None:
        if isinstance(place, CacheView):
            self.views[port] = place
            return
        y = self._text.output(port)
        assert (place.shape, place.rows) == (y.shape, y.rows)
        self.row(f"memcpy({y.row()}, {place.row()}, {y.width} * sizeof({y.ctype}));", rows=y.rows)

    def workspace(self, floats: int) -> str:
        first, self._text.floats = self._text.floats, self._text.floats + floats
        return f"(pass->locals + llmc_room(pass) * {first})"

    def matrix_workspace(self, inputs: int) -> str:
        self._text.widest = max(self._text.widest, inputs)
        return "pass->workspace"

    def constant(self, name: str, values: Sequence[float]) -> str:
        full = f"{self._text.name}_{name}"
        numbers = ", ".join(float(value).hex() + "f" for value in values)
        self._text.constants.append(f"static const float {full}[{len(values)}] = {{{numbers}}};")
        return full

    def row(self, text: str, *, rows: Rows = "tokens") -> None:
        name = f"{self._text.name}_row_{len(self._text.steps)}"
        arguments = "const llmc_pass *pass, const llmc_call *call, int64_t r"
        self._text.constants.append(f"static void {name}({arguments}) {{\n(void)pass, (void)call, (void)r;\n{text}\n}}")
        self._text.steps.append(f"each_row(t, pass, call, {ROW_COUNTS[rows]}, {name});")

    def region(self, text: str) -> None:
        self._text.steps.append(text)


@dataclass(frozen=True)
class Emitted:
    """Cases in one library."""

    texts: Sequence[Text]
    module: ctypes.CDLL


def emit(isa: str, cases: Sequence[Case]) -> Emitted:
    """All cases, compiled for an instruction set."""
    texts = [Text(case, f"case_{number}") for number, case in enumerate(cases)]
    headers = dict.fromkeys(header for text in texts for header in text.headers)
    sources = dict.fromkeys(source for text in texts for source in text.sources)
    lines = [
        "#include <math.h>",
        f'#include "{KERNELS / "native" / "program.h"}"',
        *(f'#include "{KERNELS / header}"' for header in ("native/numbers.h", *headers)),
        EACH_ROW,
        *(text.function() for text in texts),
        f"llmc_segment *const llmc_segments[] = {{{', '.join(text.name for text in texts)}}};",
    ]
    paths = tuple(
        KERNELS / source
        for source in ("native/team.c", "native/program.c", "sampling/native.c", "sampling/beams.c", *sources)
    )
    module = library(isa, paths, "\n".join(lines))
    module.llmc_team_new.restype = ctypes.c_void_p
    module.llmc_team_new.argtypes = (ctypes.c_int, ctypes.c_size_t)
    module.llmc_team_free.argtypes = (ctypes.c_void_p,)
    module.llmc_run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    if hasattr(module, "llmc_linear_workspace"):
        module.llmc_linear_workspace.restype = ctypes.c_size_t
        module.llmc_linear_workspace.argtypes = (ctypes.c_int64, ctypes.c_int64)
    return Emitted(texts, module)
