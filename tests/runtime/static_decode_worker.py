"""Decode steps of GPU programs on tensors that hold no data: whatever would read one on the host, or copy to the GPU,
fails, as capturing the step in a CUDA graph would.

Run as a script: names of specs as arguments, `beams:<name>` for a step of a beam search; on the output a line of
JSON, name -> what failed, "" for nothing.
"""

# pyright: basic
from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import llmc
from llmc.compiler.axes import is_of_stream
from llmc.compiler.lowered import type_of
from llmc.compiler.program import Program
from llmc.kernels.cache import triton_rows
from llmc.kernels.states import STATES
from llmc.runtime.beam_settings import BeamSettings
from llmc.runtime.execute import State, TorchExecutor
from llmc.runtime.gpu import executor as gpu_executor

BATCH, CAPACITY, ONCE = 2, 640, 24
"""Rows, tokens of a cache, and tokens that are given once."""


class NoCopies(TorchDispatchMode):
    """A copy from the host's memory cannot be captured in a CUDA graph."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not x.is_cuda]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_cuda]
        if made and given and ("copy" in str(func) or any(x.dim() > 0 for x in given)):
            raise RuntimeError(f"{func} copies {list(given[0].shape)} from the host")
        return out


READS = (Tensor.__int__, Tensor.__bool__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist)
PLAIN: Mapping[Any, Any] = {
    Tensor.__invert__: torch.bitwise_not,
    Tensor.copy_: torch.ops.aten.copy_,
    Tensor.contiguous: torch.ops.aten.contiguous,
    **dict.fromkeys(READS, torch.ops.aten._local_scalar_dense),
}


class PlainOperators(TorchFunctionMode):
    """Operators without the guard of a device, which torch's build for CPUs lacks for GPUs."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in PLAIN:
            return PLAIN[func](*args)
        if func is Tensor.__getitem__:
            x, tensors = part(args[0], args[1])
            return torch.ops.aten.index(x, tensors) if tensors else x
        if func is Tensor.__setitem__:
            x, tensors = part(args[0], args[1])
            value = args[2] if isinstance(args[2], Tensor) else torch.full_like(x, args[2])
            return torch.ops.aten.index_put_(x, tensors, value) if tensors else torch.ops.aten.copy_(x, value)
        return func(*args, **(kwargs or {}))


def part(x: Tensor, index: object) -> tuple[Tensor, list[Tensor | None]]:
    """The view that numbers, slices, None and ... give, and the tensors of the index by dimension of it."""
    entries = list(index) if isinstance(index, tuple) else [index]
    counted = sum(entry is not None and entry is not ... for entry in entries)
    if ... in [entry for entry in entries if not isinstance(entry, Tensor)]:
        at = next(i for i, entry in enumerate(entries) if entry is ...)
        entries[at : at + 1] = [slice(None)] * (x.dim() - counted)
    dim = 0
    tensors: list[Tensor | None] = []
    for entry in entries:
        if isinstance(entry, int):
            x = x.select(dim, entry)
            continue
        if entry is None:
            x = x.unsqueeze(dim)
        elif isinstance(entry, slice) and entry != slice(None):
            x = torch.ops.aten.slice(x, dim, entry.start, entry.stop, entry.step or 1)
        elif not isinstance(entry, (slice, Tensor)):
            raise TypeError(f"an index of {type(entry).__name__} is copied from the host")
        tensors.append(entry if isinstance(entry, Tensor) else None)
        dim += 1
    return x, tensors if any(entry is not None for entry in tensors) else []


def empty_parameters(program: Program) -> list[tuple[Tensor, ...]]:
    """Of each call, in bfloat16."""
    dtypes = {"float": torch.bfloat16, "float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
    parameters = []
    for call in program.module.calls:
        lowered = program.module.definitions[call.definition]
        places = lowered.placeholders
        parameters.append(tuple(
            torch.empty(formula.shape, dtype=dtypes[type_of(places[name]).dtype], device="cuda")
            for name, formula in lowered.parameters.items()
        ))  # fmt: skip
    return parameters


def empty_states(program: Program, rows: int) -> dict[str, State]:
    """A cache's."""
    return {
        path: STATES[spec.kind].allocate(spec.sizes, rows, CAPACITY, torch.bfloat16, "cuda")
        for path, spec in program.states.items()
    }


def search(program: Program) -> None:
    """One step of a beam search, as it is recorded. Raises as `step` does."""
    settings = BeamSettings(num_beams=3)
    gpu_executor.capture = lambda step, _: step
    triton_rows.described = lambda parts: ([[0] * 4 for _ in parts], 2)  # no buffer has an address
    with PlainOperators(), torch.inference_mode():
        executor = gpu_executor.GpuExecutor(program, empty_parameters(program))
        states = empty_states(program, BATCH * settings.num_beams)
        made = executor.searching(states, program.states, settings, prompts=BATCH, ends=[1, 2], counts=True)
        assert made is not None
        with NoCopies():
            made.replay()


def step(program: Program) -> None:
    """One decode step in bfloat16. Raises what a read on the host or a copy from it raises."""
    with PlainOperators():
        executor = TorchExecutor(program, empty_parameters(program))
    states = empty_states(program, BATCH)
    ambient = {
        "position": torch.zeros(BATCH, 1, dtype=torch.int64, device="cuda"),
        "lengths": torch.zeros(BATCH, dtype=torch.int64, device="cuda"),
    }
    stream = [port for port in program.model.inputs if port.rate == "stream"]
    inputs = {port.name: torch.zeros(BATCH, 1, dtype=torch.int64, device="cuda") for port in stream}
    kept: dict[str, Tensor] = {}
    with PlainOperators(), torch.inference_mode():
        if len(stream) < len(program.model.inputs):
            executor.run("decode", inputs | given_once(program), ambient | off_stream(program), states, kept=kept)
        with NoCopies():
            outputs = executor.run("decode", inputs, ambient, states, kept=kept)
    assert all(x.shape[:2] == (BATCH, 1) for x in outputs.values())


def given_once(program: Program) -> dict[str, Tensor]:
    """What comes with the first token of a request: the ids of another axis."""
    once = [port for port in program.model.inputs if port.rate == "once"]
    return {port.name: torch.zeros(BATCH, ONCE, dtype=torch.int64, device="cuda") for port in once}


def off_stream(program: Program) -> dict[str, Tensor]:
    """Positions and lengths on the axes of what is given once."""
    names = {name for lowered in program.module.definitions.values() for name in lowered.ambient}
    return {
        name: torch.zeros((BATCH,) if name.startswith("lengths") else (BATCH, ONCE), dtype=torch.int64, device="cuda")
        for name in names
        if not is_of_stream(name)
    }


def failure(name: str) -> str:
    """What keeps the decode step of a spec from being captured, or nothing. `references:<name>` has no kernels."""
    kernels, _, spec = name.rpartition(":")
    os.environ["LLMC_KERNELS"] = "0" if kernels == "references" else "1"
    program = llmc.build(spec, device="cuda:sm_90", dtype="bfloat16")
    try:
        with FakeTensorMode():
            (search if kernels == "beams" else step)(program)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


if __name__ == "__main__":
    print(json.dumps({name: failure(name) for name in sys.argv[1:]}))
