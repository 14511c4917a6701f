"""A whole program as C: one function per definition, and the table in which the runtime finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...kernels.native.node import NotNative
from ..lowered import Lowered, Module, site_of
from ..places import Places
from .body import AS_THEY_ARE
from .buffers import rounded
from .definition import MODEL_TYPES, NativeDefinition, refused_nodes, write_packed
from .formats import UNPACKED, Formats
from .function import function_name
from .sharing import Sharing, sharing
from .slots import Slot, place_values


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeProgram:
    """The C text of what can be compiled of a program, and where each call's values lie."""

    text: str
    definitions: Mapping[str, NativeDefinition]
    refused: Mapping[str, NotNative]
    """The definitions that torch runs, with the reason."""
    refused_nodes: Mapping[str, Mapping[str, str]]
    """By definition that torch runs and path of a node, why that one has no code; the others are there for its sake."""
    unpacked: Mapping[str, Mapping[str, tuple[str, str]]]
    """By definition and placeholder of a matrix that was to be packed, the node that reads it as it is, and why."""
    slots: Mapping[str, Slot]
    """Where the values lie that calls of one axis hand to each other."""
    outside: tuple[str, ...]
    """The other values that calls read and write, in the order in which the code counts them: the model's inputs, what
    is kept between passes or lies between axes, and the model's outputs."""
    sharing: Sharing
    values_floats: int
    locals_floats: int
    widest: int
    """Inputs of the widest matrix; 0 where there is none."""
    sources: tuple[str, ...]

    def takes_parts(self, definition: str, placeholder: str) -> bool:
        """Whether a fused matrix is wanted as its parts: the code reads them where they lie, or they will be packed."""
        found = self.definitions.get(definition)
        wanted = [] if found is None else [one for one in found.parameters if one.placeholder == placeholder]
        return found is not None and all(one.part is not None or one.format not in AS_THEY_ARE for one in wanted)

    def function(self, definition: str) -> int:
        """The number under which the entry knows a definition."""
        return list(self.definitions).index(definition)


def write_program(module: Module, dtype: str, document: Path = Path(), formats: Formats = UNPACKED) -> NativeProgram:
    """Compile every definition that can be; the others stay with torch. Matrices stay as they are where their node has
    no code for them packed.

    document: the spec, whose folder the comments are relative to; formats: of packed parameters, by definition and
    placeholder.
    """
    places, caches = Places(document), sharing(module)
    definitions: dict[str, NativeDefinition] = {}
    plain: dict[str, Mapping[str, tuple[str, str]]] = {}
    refused: dict[str, NotNative] = {}
    for name, lowered in module.definitions.items():
        try:
            if name in caches.uneven:
                raise NotNative("its calls read caches of different kinds")
            definitions[name], plain[name] = write_packed(
                lowered,
                dtype,
                places,
                formats=formats.get(name, {}),
                lent=caches.lent.get(name, {}),
                borrowed=caches.borrowed.get(name, ()),
            )
        except NotNative as reason:
            refused[name] = reason
    refused |= _refuse_together(definitions, caches)
    reasons = {name: _reasons(module.definitions[name], dtype, places, caches) for name in refused}
    slots, values_floats, crossing = place_values(module, definitions, caches)
    inputs = [port.name for port in module.model.inputs]
    return NativeProgram(
        text=_text(definitions, dtype),
        definitions=definitions,
        refused=refused,
        refused_nodes=reasons,
        unpacked={name: plain[name] for name in definitions if plain[name]},
        slots=slots,
        outside=(*inputs, *crossing, *module.outputs.values()),
        sharing=caches,
        values_floats=values_floats,
        locals_floats=max((rounded(d.floats) for d in definitions.values()), default=0),
        widest=max((d.widest for d in definitions.values()), default=0),
        sources=(
            "native/team.c",
            "native/program.c",
            "sampling/native.c",
            "sampling/beams.c",
            *dict.fromkeys(source for d in definitions.values() for source in d.sources),
        ),
    )


def _reasons(lowered: Lowered, dtype: str, places: Places, caches: Sharing) -> Mapping[str, str]:
    """By path of a node, why it has no code; empty where the reason is the definition as a whole."""
    lent, borrowed = caches.lent.get(lowered.name, {}), caches.borrowed.get(lowered.name, ())
    try:
        found = refused_nodes(lowered, dtype, places, lent=lent, borrowed=borrowed)
    except NotNative:
        return {}
    return {reason.path or site_of(node).path: reason.reason for node, reason in found.items()}


def _refuse_together(definitions: dict[str, NativeDefinition], caches: Sharing) -> dict[str, NotNative]:
    """Take out the definitions that share a cache with one that torch runs."""
    refused: dict[str, NotNative] = {}
    while True:
        split = [group for group in caches.together if 0 < len(group & definitions.keys()) < len(group)]
        if not split:
            return refused
        for name in split[0] & definitions.keys():
            other = next(iter(split[0] - definitions.keys()))
            refused[name] = NotNative(f"it shares a cache with {other}, which torch runs")
            del definitions[name]


def _text(definitions: Mapping[str, NativeDefinition], dtype: str) -> str:
    headers = dict.fromkeys(header for d in definitions.values() for header in d.headers)
    names = ", ".join(function_name(name) for name in definitions)
    return "\n".join(
        [
            "/* Emitted by llmc: one function per definition of the program, run for each call with its operands. */",
            "#include <math.h>",
            "#include <string.h>",
            "",
            '#include "native/program.h"',
            *(f'#include "{header}"' for header in headers),
            "",
            f"#define LLMC_MODEL_TYPE {MODEL_TYPES.get(dtype, 'LLMC_FLOAT32')}",
            "",
            *(definition.text for definition in definitions.values()),
            f"llmc_segment *const llmc_segments[] = {{{names or '0'}}};",
            "",
        ]
    )
