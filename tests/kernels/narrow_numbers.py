"""Finds 32-bit sums and products of a Triton kernel that may overflow, from bounds on its arguments, without a GPU.

Run as a script it is the child process, in which the interpreter is off: cases and bounds on its input, findings on its
output. Each whole number of the intermediate form is followed by its upper bound; none is taken to be negative.
"""

# pyright: basic
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compile_for_gpu import Case

AS_FIRST = ("splat", "broadcast", "expand_dims", "reshape", "trans", "extsi", "extui", "trunci", "subi", "divsi")
"""Operations whose result is at most their first operand."""


def may_overflow(cases: Sequence[Case], bounds: Mapping[str, int], *, timeout: float = 900.0) -> dict[str, list[str]]:
    """By name of case, the lines of the intermediate form that may pass 2^31. `bounds` holds the greatest value of each
    32-bit argument and, as x, y and z, of a program's number; timeout in seconds. Raises KeyError for a missing one."""
    done = subprocess.run(
        [sys.executable, "-P", __file__],
        input=json.dumps([[asdict(case) for case in cases], dict(bounds)]),
        env=os.environ | {"TRITON_INTERPRET": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    )
    return json.loads(done.stdout)


def findings(text: str, bounds: Mapping[str, int]) -> list[str]:
    """The lines of a kernel's intermediate form whose 32-bit result may pass 2^31."""
    known: dict[str, int] = {}
    found: list[str] = []
    for line in text.splitlines():
        line = re.sub(r" loc\([^)]*\)+", "", line).strip()
        if line.startswith("tt.func"):
            known |= {f"%{name}": bounds[name] for name in re.findall(r"%(\w+): i32", line)}
        elif loop := re.match(r"(?:%[\w:]+ = )?scf\.for (%\w+) = \S+ to (\S+) step \S+(?: iter_args\((.*?)\))?", line):
            known[loop[1]] = known[loop[2]]
        elif made := re.match(r'(%\w+)(?::\d+)? = "?\w+\.([\w.]+)"?\s*(.*)', line):
            name, operation, rest = made.groups()
            size = _bound(operation, rest, known, bounds)
            if size is not None:
                known[name] = size
                if size >= 2**31 and re.search(r"\bi32\b|xi32\b", rest.split("->")[-1].rsplit(" : ", 1)[-1]):
                    found.append(line)
    return found


def _bound(operation: str, rest: str, known: Mapping[str, int], bounds: Mapping[str, int]) -> int | None:
    """The upper bound of a result, None where it is no number of interest: floats, masks, what is loaded."""
    sizes = [known.get(name) for name in re.findall(r"%\w+", rest.split(" : ")[0])]
    given = [size for size in sizes if size is not None]
    if operation == "constant":
        value = re.match(r"(?:dense<)?(-?\d+)>? : .*i(?:32|64)\b", rest)
        return abs(int(value[1])) if value else None
    if operation in ("get_program_id", "get_num_programs"):
        return bounds[rest[0]]
    if operation == "make_range":
        return int(re.findall(r"end = (\d+)", rest)[0])
    if not given or (len(given) < len(sizes) and operation != "select"):
        return None
    if operation in AS_FIRST:
        return given[0]
    if operation == "addi":
        return sum(given)
    if operation == "muli":
        return given[0] * given[1]
    if operation in ("remsi", "minsi"):
        return min(given)
    return max(given) if operation in ("maxsi", "select") else None


def _form(case: Mapping[str, Any]) -> str:
    """A kernel's intermediate form, as Triton has it before it knows of threads."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    from llmc.kernels.kernel import resolve

    function = resolve(case["kernel"])
    types = {name: kind.partition(":") for name, kind in case["arguments"].items()}
    constants = case["constexprs"] | {name: 1 for name, (_, _, hint) in types.items() if hint == "1"}
    constants |= {name: None for name, (kind, _, _) in types.items() if kind == "None"}
    signature = {name: "constexpr" if name in constants else types[name][0] for name in function.arg_names}
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", 90, 32)
    backend: Any = make_backend(target)
    options = backend.parse_options({"num_warps": case["num_warps"]})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module = source.make_ir(
        target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context
    )
    return str(backend.make_ttir(module, {}, options, 90))


if __name__ == "__main__":
    asked, most = json.load(sys.stdin)
    json.dump({case["name"]: findings(_form(case), most) for case in asked}, sys.stdout)
