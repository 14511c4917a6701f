"""Prints the fused program as one readable Python module. It is for reading: nothing executes it.

One function per definition, one line per op, each followed by its place in the spec, its path there, its type and the
kernel that runs it. Names are identifiers, values go through `literal`, comments are one printable line: text from a
spec cannot become code.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import cast

from torch import fx

from ..specs.diagnostics import printable
from .emit_calls import emit_calls
from .emitted_names import Names
from .ir import Call
from .lowered import Lowered, Site, identifier, site_of, type_of
from .ops import OP_INDEX
from .parameters import Concat, Formula
from .places import Places
from .program import Program

COMMENT_COLUMN = 96
_INDENT = "    "


def emit(program: Program) -> str:
    """The module's text. The same program gives the same text, wherever and whenever it is built."""
    places = Places(program.spec.document.path)
    names = Names({*OP_INDEX, *(identifier(name) for name in program.module.definitions)})
    parts = [_head(program)]
    for name, lowered in program.module.definitions.items():
        parts.append("\n".join(_definition(program, name, lowered, names.copy(), places)))
    parts.append("\n".join(emit_calls(program.module, names.copy())))
    return "\n\n\n".join(parts) + "\n"


def _head(program: Program) -> str:
    text = f"{program.spec.name}, compiled by llmc for {program.target.device} in {program.target.dtype}"
    return (
        f'"""{comment(text)}: {program.ops_before} ops, {program.ops_after} after fusion.\n\n'
        "For reading only: llmc never runs this file. Each line ends with the place in the spec, the node's path,\n"
        'the type of its first output, and the kernel (prefill and decode apart where they differ).\n"""'
    )


def _definition(program: Program, name: str, lowered: Lowered, names: Names, places: Places) -> list[str]:
    values: dict[fx.Node, str] = {}
    lines = [f"def {identifier(name)}("]
    for target, node in lowered.placeholders.items():
        values[node] = names.new(target)
        lines.append(_with_comment(f"{_INDENT}{values[node]},", _operand(lowered, target, node)))
    calls = program.module.calls_of(name)
    lines += ["):", f'{_INDENT}"""{comment(_bound_to(calls))}"""']
    kernels = _kernels(program, name)
    for node in lowered.graph.nodes:
        if node.op == "call_function" and "site" in node.meta:
            site = site_of(node)
            target = _target(node, site, values, names)
            arguments = [f"{key}={_argument(value, values)}" for key, value in node.kwargs.items()]
            kernel = kernels.get(site.path, "reference")
            note = f"{places.at(site.span)} {site.path}{_first_type(site)} {kernel}"
            lines += _statement(f"{_INDENT}{target} = {site.op.name}(", arguments, note)
    results = lowered.results
    count = len(lowered.outputs)
    outputs = ", ".join(values[node] for node in results[:count])
    lines.append(f"{_INDENT}return ({', '.join(values[node] for node in results)}{',' if len(results) == 1 else ''})")
    if len(results) > count:
        lines[-1] = _with_comment(lines[-1], f"outputs: {outputs}; then states" if outputs else "states only")
    return lines


def _target(node: fx.Node, site: Site, values: dict[fx.Node, str], names: Names) -> str:
    """What the op's result is assigned to: a name, or one for each output that is read."""
    if len(site.types) == 1:
        values[node] = names.new(site.path)
        return values[node]
    parts = dict.fromkeys(range(len(site.types)), "_")
    for item in node.users:
        index = item.args[1]
        assert item.target is operator.getitem
        assert isinstance(index, int)
        parts[index] = values[item] = names.new(f"{_stem(site.path)}_{list(site.types)[index]}")
    return ", ".join(parts.values())


def _stem(path: str) -> str:
    """What a node's outputs are named after: a split's are siblings of what it splits, an append's are its reader's."""
    parent, _, last = path.rpartition(".")
    return parent if last in ("append", "read") else parent.rpartition(".")[0] if last == "split" else path


def _first_type(site: Site) -> str:
    """The type of the first output that is no state."""
    return next((f" {_dims(found)}" for port, found in site.types.items() if port != "state"), "")


def _statement(head: str, arguments: Sequence[str], note: str) -> list[str]:
    """A call on one line, or where it is long with its arguments below."""
    line = f"{head}{', '.join(arguments)})"
    if len(line) <= COMMENT_COLUMN:
        return [_with_comment(line, note)]
    lines = [_with_comment(head, note)]
    for argument in arguments:
        if len(lines) > 1 and len(lines[-1]) + len(argument) + 2 <= COMMENT_COLUMN:
            lines[-1] += f" {argument},"
        else:
            lines.append(f"{_INDENT * 2}{argument},")
    return [*lines, f"{_INDENT})"]


def _operand(lowered: Lowered, target: str, node: fx.Node) -> str:
    """What a parameter of the function is."""
    if target in lowered.parameters:
        return _formula(lowered.parameters[target])
    if target in lowered.states:
        path, state = lowered.states[target]
        return f"state of {path}: {state.kind} {literal(dict(state.sizes))}"
    if target in lowered.scalars:
        path, field = lowered.scalars[target]
        return f"scalar {path}.{field}"
    return _dims(type_of(node)) + (" ambient" if target in lowered.ambient else "")


def _formula(formula: Formula) -> str:
    if isinstance(formula, Concat):
        return f"{list(formula.shape)} rows of " + ", ".join(part.path for part in formula.parts)
    return f"{list(formula.shape)} {formula.path}"


def _dims(found: object) -> str:
    shape = getattr(found, "shape", ())
    dtype = getattr(found, "dtype", "float")
    return f"[{', '.join(str(dim) for dim in shape)}]" + ("" if dtype == "float" else f" {dtype}")


def _bound_to(calls: Sequence[Call]) -> str:
    named = [call.binding.prefix for call in calls if call.binding.prefix]
    rate = "; run at the first call of a request only" if calls[0].rate == "once" else ""
    if not named:
        return (f"Called once{rate}" if len(calls) == 1 else f"Called {len(calls)} times{rate}") + "."
    ends = named[0] if len(named) == 1 else f"{named[0]} to {named[-1]}"
    return f"{len(named)} instance{'' if len(named) == 1 else 's'}: {ends}{rate}"


def _kernels(program: Program, definition: str) -> dict[str, str]:
    """By path, the kernel of prefill and decode."""
    found: dict[str, str] = {}
    by_phase = {phase: selections[definition].choices for phase, selections in program.selections.items()}
    first, *others = by_phase
    for index, choice in enumerate(by_phase[first]):
        kernels = {phase: by_phase[phase][index].kernel for phase in (first, *others)}
        same = len(set(kernels.values())) == 1
        found[choice.path] = choice.kernel if same else " ".join(f"{phase}:{name}" for phase, name in kernels.items())
    return found


def _argument(value: object, values: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return values[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument(item, values) for item in cast('Sequence[object]', value))}]"
    return literal(value)


def literal(value: object) -> str:
    """A value as Python reads it back; only data that a spec can hold."""
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return f"float({str(value)!r})"
        case None | bool() | int() | float():
            return repr(value)
        case str():
            return ascii(value)
        case list() | tuple():
            return f"[{', '.join(literal(item) for item in cast('Sequence[object]', value))}]"
        case Mapping():
            items = cast("Mapping[str, object]", value).items()
            return "{" + ", ".join(f"{literal(str(key))}: {literal(item)}" for key, item in items) + "}"
        case _:
            raise TypeError(f"{type(value).__name__} is no literal of a spec")


def comment(text: str) -> str:
    """Text for a comment or a docstring: one printable ASCII line that closes nothing."""
    return ascii(printable(text))[1:-1].replace('"""', "'''").replace("\\", "/")


def _with_comment(code: str, text: str) -> str:
    return f"{code:<{COMMENT_COLUMN}}  # {comment(text)}"
