"""Every op and its reference agree: what lowering passes is taken, what it leaves out has the op's default."""

from __future__ import annotations

import inspect

import pytest

from llmc.compiler.ops import OPS
from llmc.compiler.ops.declaration import Op
from llmc.kernels.registry import resolve_reference


@pytest.mark.parametrize("op", [op for op in OPS if op.name != "parameter"], ids=lambda op: op.name)
def test_reference_takes_what_lowering_passes(op: Op) -> None:
    given = dict(inspect.signature(resolve_reference(op.reference)).parameters)
    wanted = [port.name for port in op.ports] + list(op.operands)
    wanted += [name for name in op.ambient if op.port(name) is None] + list(op.ambient_of)
    wanted += op.hints
    if op.reads_training:
        wanted.append("training")
    assert set(wanted) <= set(given)
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in given.values())
    for name in op.operands:
        field = op.field_index[name]
        if not field.is_required and not op.is_internal:
            assert given[name].default == field.default, name
    for port in op.ports:
        if not port.is_optional:
            assert given[port.name].default is inspect.Parameter.empty, port.name
        else:
            assert given[port.name].default is None, port.name
