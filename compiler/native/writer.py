"""What the emitter of one node writes with: the node's operands, and the body that its statements go to."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import cast

from torch import fx

from ...kernels.native.node import CacheView, NotNative, Place, Rows, StateBuffers, Weight, literal
from ...kernels.registry import resolve_reference
from ..lowered import Site, identifier
from ..parameters import Concat
from .body import Body, Known, Operand, buffers_of
from .layout import ctype_of, floats_of, rows_of


class Writer:
    """The `NativeNode` of one fx node."""

    def __init__(self, body: Body, node: fx.Node, site: Site, *, dtype: str, comment: str) -> None:
        """dtype: of weights that are not packed; comment: the first line of every piece of this node's text."""
        self._body, self._node, self._site = body, node, site
        self._dtype, self._comment = dtype, comment
        self._workspaces: list[str] = []
        self.outputs: dict[str, Known] = {}
        self.asked: set[str] = set()
        """The operands that the emitter has looked at."""

    @property
    def path(self) -> str:
        return self._site.path

    @property
    def op(self) -> str:
        return self._site.op.name

    # --- operands ------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        self.asked.add(name)
        return isinstance(self._node.kwargs.get(name), fx.Node)

    def input(self, name: str) -> Place:
        return self._place(self._operand(name))

    def inputs(self, name: str) -> Sequence[Place]:
        self.asked.add(name)
        return [self._place(operand) for operand in cast("Sequence[fx.Node]", self._node.kwargs[name])]

    def view(self, name: str) -> CacheView:
        operand = self._operand(name)
        known = self._known(operand)
        if not isinstance(known, CacheView):
            raise NotNative(f"{name} is not a cache", self.path)
        readers = [node for node in self._body.lowered.graph.nodes if node in operand.users and node.op != "output"]
        if readers[-1] is self._node:
            return known
        return replace(known, state=replace(known.state, stores="0"))

    def weight(
        self,
        name: str,
        *,
        is_pair: bool = False,
        is_in_out: bool = False,
        packing: str | None = None,
        takes_parts: bool = False,
    ) -> Weight:
        target = str(self._operand(name).target)
        formula = self._body.lowered.parameters.get(target)
        if formula is None:
            raise NotNative(f"{name} is not a parameter", self.path)
        packed = packing or self._body.formats.get(target)
        if takes_parts and packed is None and isinstance(formula, Concat):
            parts = tuple(
                (self._body.parameter(Operand(target, "stored", part=number)), part.shape[0])
                for number, part in enumerate(formula.parts)
            )
            return Weight(pointer=parts[0][0], shape=formula.shape, format=self._dtype, parts=parts)
        operand = Operand(target, "stored") if packed is None else Operand(target, packed, is_pair, is_in_out)
        return Weight(pointer=self._body.parameter(operand), shape=formula.shape, format=packed or self._dtype)

    def field(self, name: str) -> object:
        self.asked.add(name)
        value = self._node.kwargs.get(name)
        if isinstance(value, fx.Node):
            raise NotNative(f"{name} differs between layers", self.path)
        if name in self._node.kwargs:
            return value
        return inspect.signature(resolve_reference(self._site.op.reference)).parameters[name].default

    def number(self, name: str) -> str:
        self.asked.add(name)
        value = self._node.kwargs.get(name)
        if isinstance(value, fx.Node):
            return f"call->scalars[{list(self._body.lowered.scalars).index(str(value.target))}]"
        return literal(float(cast("float", self.field(name))))

    def state(self) -> StateBuffers:
        name = str(self._operand("state").target)
        if name not in self._body.lowered.states:
            raise NotNative(f"{name} is not a state", self.path)
        return self._body.state(name)

    def _operand(self, name: str) -> fx.Node:
        self.asked.add(name)
        operand = self._node.kwargs[name]
        assert isinstance(operand, fx.Node)
        return operand

    def _known(self, operand: fx.Node) -> Known:
        if operand not in self._body.known:
            raise NotNative(f"{operand.name} is not a value in C", self.path)
        return self._body.known[operand]

    def _place(self, operand: fx.Node) -> Place:
        formula = self._body.lowered.parameters.get(str(operand.target)) if operand.op == "placeholder" else None
        if formula is not None:
            pointer = self._body.parameter(Operand(str(operand.target), "float32"))
            return Place(pointer=f"((const float *){pointer})", shape=formula.shape, stride=0, rows="one")
        known = self._known(operand)
        if isinstance(known, CacheView):
            raise NotNative("a cache is not read as a value", self.path)
        return known

    # --- memory --------------------------------------------------------------------------------------------------

    def output(self, port: str = "out") -> Place:
        rows, shape = rows_of(self._site.types[port])
        ctype = ctype_of(self._site.types[port])
        name = self._body.new_buffer(floats_of(shape, ctype), ctype)
        made = Place(pointer=name, shape=shape, stride=prod(shape), rows=rows, ctype=ctype, buffer=name)
        self.outputs[port] = made
        return made

    def alias(self, port: str, place: Known) -> None:
        self.outputs[port] = place

    def workspace(self, floats: int) -> str:
        self._workspaces.append(self._body.new_buffer(floats, "float"))
        return self._workspaces[-1]

    def matrix_workspace(self, inputs: int) -> str:
        self._body.widest = max(self._body.widest, inputs)
        return "pass->workspace"

    def constant(self, name: str, values: Sequence[float]) -> str:
        full = f"{identifier(self._body.lowered.name)}_{self._node.name}_{name}"
        numbers = ", ".join(float(value).hex() + "f" for value in values)
        self._body.constants.append(f"static const float {full}[{len(values)}] = {{{numbers}}};")
        return full

    # --- statements ----------------------------------------------------------------------------------------------

    def row(self, text: str, *, rows: Rows = "tokens") -> None:
        self._body.add_row(self._commented(text), rows)
        self._settle()

    def region(self, text: str) -> None:
        self._body.add_region(self._commented(text))
        self._settle()

    def _commented(self, text: str) -> str:
        return f"/* {self._comment} */\n{text.rstrip()}\n"

    def _settle(self) -> None:
        """Operands, results and workspaces of this node are alive in the step just written."""
        operands = [self._body.known[one] for one in self._node.all_input_nodes if one in self._body.known]
        self._body.keep((*self._workspaces, *buffers_of((*operands, *self.outputs.values()))))
