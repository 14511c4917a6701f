"""Writes one definition as C: asks the emitter of every node, joins row loops, and plans the definition's memory."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from torch import fx

from ...kernels.native.node import CacheView, CType, NotNative, Place, Rows, StateBuffers, Weight, literal
from ...kernels.native.registry import native_kernel
from ...kernels.registry import resolve_reference
from ...kernels.states import STATES
from ..lowered import Lowered, Site, identifier, site_of, type_of
from ..ops.declaration import TensorType
from ..places import Places
from .buffers import Buffer, place

_ALWAYS_IMPLIED = ("state", "position", "lengths", "training", "dropout")
"""Operands that every pass has, or that inference does not use."""

Known: TypeAlias = "Place | CacheView"


@dataclass(frozen=True, slots=True)
class Operand:
    """A parameter that the C function takes: a placeholder of the definition, in a format. `float32`: converted;
    `stored`: as it is; else packed, and then `is_pair` where its rows are a gate and an up half."""

    placeholder: str
    format: str
    is_pair: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeDefinition:
    """One definition in C. `values` are its inputs and then its outputs."""

    name: str
    text: str
    values: tuple[str, ...]
    parameters: tuple[Operand, ...]
    floats: int
    """Floats a row of its own buffers."""
    widest: int
    """Inputs of its widest matrix."""
    headers: tuple[str, ...]
    sources: tuple[str, ...]


def function_name(definition: str) -> str:
    """The C function of a definition; the prefix keeps it apart from the names of C."""
    return f"call_{identifier(definition)}"


def rows_of(found: TensorType) -> tuple[Rows, tuple[int, ...]]:
    """How many rows a type has, and the axes of one. Raises NotNative where it has no rows."""
    shape = found.shape
    if shape[:2] == ("B", "T") and all(isinstance(dim, int) for dim in shape[2:]):
        return "tokens", cast("tuple[int, ...]", shape[2:])
    if shape[:1] == ("B",) and all(isinstance(dim, int) for dim in shape[1:]):
        return "batch", cast("tuple[int, ...]", shape[1:])
    if all(isinstance(dim, int) for dim in shape) and shape:
        return "one", cast("tuple[int, ...]", shape)
    raise NotNative(f"a value of shape {found} has no rows")


def ctype_of(found: TensorType) -> CType:
    """The element type in C. Raises NotNative for those that have none."""
    if found.dtype in ("float", "float32"):
        return "float"
    if found.dtype == "int64":
        return "int64_t"
    raise NotNative(f"values of type {found.dtype} are not written in C")


def floats_of(shape: tuple[int, ...], ctype: CType) -> int:
    """Floats that one row takes."""
    count = 1
    for size in shape:
        count *= size
    return count * (2 if ctype == "int64_t" else 1)


@dataclass(slots=True, kw_only=True)
class _Step:
    """A loop over rows, or a region that all threads run."""

    kind: Rows | None
    """None: a region."""
    text: str


@dataclass(slots=True)
class _Code:
    """What has been written of a definition."""

    lowered: Lowered
    places: Places
    formats: Mapping[str, str]
    """Of the parameters that are packed."""
    steps: list[_Step] = field(default_factory=list[_Step])
    buffers: dict[str, Buffer] = field(default_factory=dict[str, Buffer])
    ctypes: dict[str, CType] = field(default_factory=dict[str, CType])
    known: dict[fx.Node, Known] = field(default_factory=dict[fx.Node, Known])
    parameters: list[Operand] = field(default_factory=list[Operand])
    constants: list[str] = field(default_factory=list[str])
    headers: dict[str, None] = field(default_factory=dict[str, None])
    sources: dict[str, None] = field(default_factory=dict[str, None])
    widest: int = 0

    def add_row(self, text: str, kind: Rows) -> None:
        """Join the last loop where it runs over the same rows."""
        if self.steps and self.steps[-1].kind == kind:
            self.steps[-1].text += text
        else:
            self.steps.append(_Step(kind=kind, text=text))

    def new_buffer(self, floats: int, ctype: CType) -> str:
        name = f"b{len(self.buffers)}"
        at = len(self.steps)
        self.buffers[name] = Buffer(name=name, floats=floats, first=max(0, at - 1), last=at)
        self.ctypes[name] = ctype
        return name

    def keep(self, name: str, step: int) -> None:
        """A buffer is alive up to this step; memory of the caller always is."""
        if name in self.buffers:
            self.buffers[name].last = max(self.buffers[name].last, step)


def buffers_of(*known: Known) -> list[str]:
    """The buffers in which values lie."""
    places = [one for value in known for one in (value.new if isinstance(value, CacheView) else (value,))]
    return [one.buffer for one in places]


class Writer:
    """The `NativeNode` of one fx node."""

    def __init__(self, code: _Code, node: fx.Node, site: Site, dtype: str) -> None:
        self._code, self._node, self._site, self._dtype = code, node, site, dtype
        self.outputs: dict[str, Known] = {}
        self.workspaces: list[str] = []
        self.asked: set[str] = set()
        """What the emitter has looked at."""

    @property
    def path(self) -> str:
        return self._site.path

    @property
    def op(self) -> str:
        return self._site.op.name

    def has(self, name: str) -> bool:
        self.asked.add(name)
        return isinstance(self._node.kwargs.get(name), fx.Node)

    def input(self, name: str) -> Place:
        self.asked.add(name)
        operand = self._node.kwargs[name]
        assert isinstance(operand, fx.Node)
        return self._place(operand)

    def inputs(self, name: str) -> Sequence[Place]:
        self.asked.add(name)
        operands = cast("Sequence[fx.Node]", self._node.kwargs[name])
        return [self._place(operand) for operand in operands]

    def _place(self, operand: fx.Node) -> Place:
        if operand.op == "placeholder" and str(operand.target) in self._code.lowered.parameters:
            shape = self._code.lowered.parameters[str(operand.target)].shape
            index = self._operand(Operand(str(operand.target), "float32"))
            return Place(pointer=f"((const float *)call->parameters[{index}])", shape=shape, stride=0, rows="one")
        known = self._known(operand)
        if isinstance(known, CacheView):
            raise NotNative("a cache is not read as a value", self.path)
        return known

    def view(self, name: str) -> CacheView:
        self.asked.add(name)
        operand = self._node.kwargs[name]
        assert isinstance(operand, fx.Node)
        known = self._known(operand)
        if not isinstance(known, CacheView):
            raise NotNative(f"{name} is not a cache", self.path)
        return known

    def _known(self, operand: fx.Node) -> Known:
        if operand not in self._code.known:
            raise NotNative(f"{operand.name} is not a value in C", self.path)
        return self._code.known[operand]

    def weight(self, name: str, *, is_pair: bool = False, packing: str | None = None) -> Weight:
        self.asked.add(name)
        operand = self._node.kwargs[name]
        assert isinstance(operand, fx.Node)
        target = str(operand.target)
        if target not in self._code.lowered.parameters:
            raise NotNative(f"{name} is not a parameter", self.path)
        packed = packing or self._code.formats.get(target)
        index = self._operand(Operand(target, packed or "stored", is_pair and packed is not None))
        return Weight(
            pointer=f"call->parameters[{index}]",
            shape=self._code.lowered.parameters[target].shape,
            format=packed or self._dtype,
        )

    def _operand(self, operand: Operand) -> int:
        if operand not in self._code.parameters:
            self._code.parameters.append(operand)
        return self._code.parameters.index(operand)

    def field(self, name: str) -> object:
        self.asked.add(name)
        value = self._node.kwargs.get(name)
        if isinstance(value, fx.Node):
            raise NotNative(f"{name} differs between layers", self.path)
        if name in self._node.kwargs:
            return value
        signature = inspect.signature(resolve_reference(self._site.op.reference))
        return signature.parameters[name].default

    def number(self, name: str) -> str:
        self.asked.add(name)
        value = self._node.kwargs.get(name)
        if isinstance(value, fx.Node):
            names = list(self._code.lowered.scalars)
            return f"call->scalars[{names.index(str(value.target))}]"
        return literal(float(cast("float", self.field(name))))

    def state(self) -> StateBuffers:
        operand = self._node.kwargs["state"]
        assert isinstance(operand, fx.Node)
        name = str(operand.target)
        index = 0
        for other, (_, spec) in self._code.lowered.states.items():
            kind = STATES[spec.kind]
            count = len(kind.slots(spec.sizes, 1))
            if other == name:
                pointers = tuple(f"call->states[{index + i}]" for i in range(count))
                return StateBuffers(
                    pointers=pointers, slots=f"call->slots[{index}]", kind=spec.kind, sizes=spec.sizes, name=name
                )
            index += count
        raise NotNative(f"{name} is not a state", self.path)

    def output(self, port: str = "out", *, rows: Rows = "tokens") -> Place:
        found = self._site.types[port]
        kind, shape = rows_of(found)
        ctype = ctype_of(found)
        name = self._code.new_buffer(floats_of(shape, ctype), ctype)
        made = Place(pointer=name, shape=shape, stride=floats_of(shape, "float"), rows=kind, ctype=ctype, buffer=name)
        self.outputs[port] = made
        return made

    def alias(self, port: str, place: Place | CacheView) -> None:
        self.outputs[port] = place

    def workspace(self, name: str, floats: int, *, rows: Rows = "tokens") -> str:
        self.workspaces.append(self._code.new_buffer(floats, "float"))
        return self.workspaces[-1]

    def matrix_workspace(self, inputs: int) -> str:
        self._code.widest = max(self._code.widest, inputs)
        return "pass->workspace"

    def constant(self, name: str, values: Sequence[float]) -> str:
        full = f"{identifier(self._code.lowered.name)}_{identifier(self.path)}_{name}"
        body = ", ".join(float(value).hex() + "f" for value in values)
        self._code.constants.append(f"static const float {full}[{len(values)}] = {{{body}}};")
        return full

    def row(self, text: str, *, rows: Rows = "tokens") -> None:
        self._code.add_row(self._comment() + text.rstrip() + "\n", rows)
        self._settle()

    def region(self, text: str) -> None:
        self._code.steps.append(_Step(kind=None, text=self._comment() + text.rstrip() + "\n"))
        self._settle()

    def _comment(self) -> str:
        return f"/* {commented(self._code.places.at(self._site.span))} {self.path} */\n"

    def _settle(self) -> None:
        """Operands, results and workspaces of this node are alive in the step just written."""
        known = [self._code.known[operand] for operand in self._node.all_input_nodes if operand in self._code.known]
        for name in (*self.workspaces, *buffers_of(*known, *self.outputs.values())):
            self._code.keep(name, len(self._code.steps) - 1)


def commented(text: str) -> str:
    """Text that may stand in a comment of C."""
    return ascii(text)[1:-1].replace("*/", "*_/")


def write_definition(lowered: Lowered, dtype: str, places: Places, formats: Mapping[str, str]) -> NativeDefinition:
    """The C function of a definition. Raises NotNative where a node of it has no code."""
    code = _Code(lowered, places, formats)
    values = (*lowered.inputs, *lowered.outputs)
    for index, name in enumerate(lowered.inputs):
        node = (
            lowered.placeholders[identifier(name)] if name not in lowered.placeholders else lowered.placeholders[name]
        )
        code.known[node] = _operand_place(type_of(node), f"v{index}")
    for name in lowered.ambient:
        node = lowered.placeholders[name]
        kind, shape = rows_of(type_of(node))
        code.known[node] = Place(pointer=f"pass->{name}", shape=shape, stride=1, rows=kind, ctype="int64_t")
    for node in lowered.graph.nodes:
        if node.op == "call_function":
            _write_node(code, node, dtype)
    renamed = _bind_outputs(code, lowered)
    floats = place(buffer for name, buffer in code.buffers.items() if name not in renamed)
    text = _function(code, lowered, values, renamed)
    return NativeDefinition(
        name=lowered.name,
        text=text,
        values=values,
        parameters=tuple(code.parameters),
        floats=floats,
        widest=code.widest,
        headers=tuple(code.headers),
        sources=tuple(code.sources),
    )


def _operand_place(found: TensorType, pointer: str) -> Place:
    kind, shape = rows_of(found)
    return Place(
        pointer=pointer, shape=shape, stride=floats_of(shape, "float"), rows=kind, ctype=ctype_of(found), buffer=pointer
    )


def _write_node(code: _Code, node: fx.Node, dtype: str) -> None:
    if node.target is operator.getitem:
        return
    site = site_of(node)
    kernel = native_kernel(site.op.name)
    if kernel is None:
        raise NotNative(f"op {site.op.name} has no kernel in C", site.path)
    writer = Writer(code, node, site, dtype)
    try:
        kernel.emit(writer)
    except NotNative as error:
        raise NotNative(error.reason, error.path or site.path) from error
    _require_all_read(node, writer.asked | {*kernel.implied, *_ALWAYS_IMPLIED})
    for header in kernel.headers:
        code.headers[header] = None
    for source in kernel.sources:
        code.sources[source] = None
    names = list(site.types)
    if len(names) == 1:
        code.known[node] = writer.outputs[names[0]]
        return
    for user in node.users:
        name = names[cast("int", user.args[1])]
        if name in writer.outputs:
            code.known[user] = writer.outputs[name]


def _require_all_read(node: fx.Node, known: set[str]) -> None:
    """Raises NotNative for an operand that the emitter left out: its code would compute something else."""
    path = site_of(node).path
    unread = sorted(set(node.kwargs) - known)
    if unread:
        raise NotNative(f"the kernel in C knows nothing of {', '.join(unread)}", path)
    for name in ("position", "lengths"):
        operand = node.kwargs.get(name)
        if isinstance(operand, fx.Node) and operand.target != name:
            raise NotNative(f"{name} is {operand.target}, not that of the tokens", path)


def _bind_outputs(code: _Code, lowered: Lowered) -> dict[str, str]:
    """Let the buffers that become outputs be the caller's memory, and copy what is not a buffer of its own."""
    renamed: dict[str, str] = {}
    for index, node in enumerate(lowered.results[: len(lowered.outputs)]):
        target = f"v{len(lowered.inputs) + index}"
        known = code.known.get(node)
        if node.op == "placeholder" and str(node.target) in lowered.parameters:
            raise NotNative("an output is a parameter")
        if known is None or isinstance(known, CacheView):
            raise NotNative("an output is not a value in C")
        is_own = known.buffer in code.buffers and known.buffer not in renamed and known.pointer == known.buffer
        if is_own and known.is_dense:
            renamed[known.buffer] = target
            continue
        to, size = f"({known.ctype} *){target} + r * {known.width}", f"{known.width} * sizeof({known.ctype})"
        copy = f"memcpy({to}, {known.row()}, {size});\n"
        code.add_row(f"/* output {lowered.outputs[index]} */\n{copy}", known.rows)
        code.keep(known.buffer, len(code.steps) - 1)
    return renamed


_COUNTS: dict[str, str] = {"tokens": "pass->rows", "batch": "pass->batch", "one": "1"}


def _function(code: _Code, lowered: Lowered, values: Sequence[str], renamed: dict[str, str]) -> str:
    lines = [*code.constants]
    if code.constants:
        lines.append("")
    lines += [
        f"static void {function_name(lowered.name)}(llmc_thread *t, const llmc_pass *pass, const llmc_call *call) {{"
    ]
    lines.append("    const int64_t rows = pass->rows;")
    types = {
        **{f"v{i}": _ctype_of_input(code, lowered, i) for i in range(len(lowered.inputs))},
        **{target: code.ctypes[name] for name, target in renamed.items()},
    }
    for index, name in enumerate(values):
        ctype = types.get(f"v{index}", "float")
        qualifier = "const " if index < len(lowered.inputs) else ""
        lines.append(f"    {qualifier}{ctype} *v{index} = llmc_value(pass, call->values[{index}]); /* {name} */")
    for name, buffer in code.buffers.items():
        ctype = code.ctypes[name]
        if name in renamed:
            lines.append(f"    {ctype} *{name} = {renamed[name]};")
        else:
            cast_text = "(int64_t *)" if ctype == "int64_t" else ""
            lines.append(f"    {ctype} *{name} = {cast_text}(pass->locals + rows * {buffer.offset});")
    lines.append("    (void)rows;")
    for step in code.steps:
        body = step.text.rstrip("\n").splitlines()
        if step.kind is None:
            lines += [f"    {line}" for line in body]
            continue
        count = _COUNTS[step.kind]
        lines.append(f"    LLMC_ROWS(t, r, {count}) {{")
        lines += [f"        {line}" for line in body]
        lines.append("    }")
    lines += ["}", ""]
    return "\n".join(lines)


def _ctype_of_input(code: _Code, lowered: Lowered, index: int) -> CType:
    name = lowered.inputs[index]
    node = lowered.placeholders.get(name) or lowered.placeholders[identifier(name)]
    return ctype_of(type_of(node))
