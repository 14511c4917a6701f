"""Compiles Triton kernels for a GPU that need not be there: their types, shared memory, registers and spills.

Run as a script it is the child process, in which the interpreter is off: cases on its input, results on its output.
"""

# pyright: basic
from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel with the types and the block sizes of one launch."""

    name: str
    kernel: str
    """`norm.triton_rms_norm:_forward`, under `llmc.kernels`."""
    arguments: Mapping[str, str]
    """Triton's types: `*bf16`, `i32`, `fp32`; `*bf16:16` and `i32:16` are multiples of 16, as torch's pointers and most
    sizes are (without it nothing is loaded asynchronously); `i32:1` is the constant 1, as a last stride is, and
    `None` an absent tensor."""
    constexprs: Mapping[str, int | float | bool | str | None]
    num_warps: int = 4
    num_stages: int = 3
    architecture: str = "sm_90"
    spills: int = 0
    """Bytes that may be spilled."""
    may_wait: bool = False
    """Its products on tensor cores may each wait for the one before, as `Compiled.waits` tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What one thread and one block of a kernel take, or why it does not compile."""

    error: str = ""
    registers: int = 0
    """Of a thread, in words."""
    spills: int = 0
    """Bytes stored and loaded again for want of registers."""
    shared_memory: int = 0
    """Bytes of a block."""
    waits: str = ""
    """Why the assembler made asynchronous products (wgmma) wait for each other."""


def compile_for_gpu(cases: Sequence[Case], cache: Path, *, timeout: float = 900.0) -> dict[str, Compiled]:
    """Results by name of case. `cache` is an empty folder for what Triton keeps; timeout in seconds for all of them."""
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "TRITON_DUMP_PTXAS_LOG": "1"}
    done = subprocess.run(
        [sys.executable, "-P", __file__],
        input=json.dumps([asdict(case) for case in cases]),
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    )
    return {name: Compiled(**found) for name, found in json.loads(done.stdout).items()}


class SharedMemory(Exception):
    """Bytes of a block, as they stand before a kernel becomes LLVM's code; raised to leave the rest of it out."""


@contextlib.contextmanager
def only_to_shared_memory() -> Iterator[None]:
    """Compilation ends with `SharedMemory` after Triton's own passes, about a third of it."""
    from triton.backends.nvidia.compiler import CUDABackend, nvidia

    whole = CUDABackend.make_llir

    def make_llir(self: Any, module: Any, *others: Any) -> None:
        def settled(passes: Any, *_: Any) -> None:
            passes.run(module, "make_llir")
            raise SharedMemory(module.get_int_attr("ttg.shared"))

        with mock.patch.object(nvidia.passes.ttgpuir, "add_to_llvmir", settled):
            whole(self, module, *others)

    with mock.patch.object(CUDABackend, "make_llir", make_llir):
        yield


def compiled_here(case: Case, *, is_whole: bool = True) -> Compiled:
    """In this process, in which kernels are not interpreted. Else nothing is known of registers and spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from llmc.kernels.kernel import resolve

    function = resolve(case.kernel)
    types = {name: kind.partition(":") for name, kind in case.arguments.items()}
    constants = {
        **case.constexprs,
        **{name: 1 for name, (_, _, hint) in types.items() if hint == "1"},
        **{name: None for name, (kind, _, _) in types.items() if kind == "None"},
    }
    names = function.arg_names
    unknown = (set(types) | set(constants)) ^ set(names)
    if unknown:
        return Compiled(error=f"{case.kernel} takes {names}; missing or unknown: {sorted(unknown)}")
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else types[name][0] for name in names},
        constexprs=constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name, (*_, hint) in types.items() if hint == "16"},
    )
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log), contextlib.nullcontext() if is_whole else only_to_shared_memory():
            made = triton.compile(
                source,
                target=GPUTarget("cuda", int(case.architecture.removeprefix("sm_")), 32),
                options={"num_warps": case.num_warps, "num_stages": case.num_stages},
            )
    except SharedMemory as found:
        return Compiled(shared_memory=found.args[0])
    except Exception as error:
        return Compiled(error=f"{type(error).__name__}: {error}\n{log.getvalue()[:2000]}")
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    if registers is None:
        return Compiled(error=f"no registers in the assembler's log: {log.getvalue()!r}")
    spills = re.findall(r"(\d+) bytes spill", log.getvalue())
    waits = re.search(r"serialized due to (.*?) in the", log.getvalue())
    return Compiled(
        registers=int(registers[1]),
        spills=sum(map(int, spills)),
        shared_memory=made.metadata.shared,
        waits=waits[1] if waits else "",
    )


if __name__ == "__main__":
    asked = [Case(**given) for given in json.load(sys.stdin)]
    json.dump({case.name: asdict(compiled_here(case)) for case in asked}, sys.stdout)
