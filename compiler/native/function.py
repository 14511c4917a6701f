"""The text of a definition's C function, once its body is written and its memory is placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...kernels.native.node import ROW_COUNTS, CType
from ..lowered import identifier
from .body import Body, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A value of the caller's, an input or an output of the definition."""

    name: str
    ctype: CType
    is_input: bool


def function_name(definition: str) -> str:
    """The C function of a definition; the prefix keeps it apart from the names of C."""
    return f"call_{identifier(definition)}"


def function_text(body: Body, ports: Sequence[Port | None], renamed: Mapping[str, str]) -> str:
    """The function.

    ports: its values, None for those without memory; renamed: the buffers that are memory of the caller, by the name of
    the port's variable.
    """
    name = function_name(body.lowered.name)
    return "\n".join(
        [
            *body.constants,
            *([""] if body.constants else []),
            f"static void {name}(llmc_thread *t, const llmc_pass *pass, const llmc_call *call) {{",
            "    const int64_t rows = llmc_room(pass);",
            *(_port(index, port) for index, port in enumerate(ports) if port is not None),
            *(_buffer(body, name, renamed) for name in body.buffers),
            "    (void)rows;",
            *(line for step in body.steps for line in _step(step)),
            "}",
            "",
        ]
    )


def _port(index: int, port: Port) -> str:
    qualifier = "const " if port.is_input else ""
    place = f"llmc_value(pass, call->values[{index}])"
    return f"    {qualifier}{port.ctype} *v{index} = {place}; /* {port.name} */"


def _buffer(body: Body, name: str, renamed: Mapping[str, str]) -> str:
    ctype = body.ctypes[name]
    if name in renamed:
        return f"    {ctype} *{name} = {renamed[name]};"
    converted = "(int64_t *)" if ctype == "int64_t" else ""
    return f"    {ctype} *{name} = {converted}(pass->locals + rows * {body.buffers[name].offset});"


def _step(step: Step) -> list[str]:
    lines = step.text.rstrip("\n").splitlines()
    if step.rows is None:
        return [f"    {line}" for line in lines]
    return [f"    LLMC_ROWS(t, r, {ROW_COUNTS[step.rows]}) {{", *(f"        {line}" for line in lines), "    }"]
