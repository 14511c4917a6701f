"""Launches of Triton kernels as the benchmark's cases make them at real sizes, recorded without a GPU or data.

Run as a script it is the child process, in which the interpreter is off: architectures on its input, on its output what
was launched and what became of it. Operators run their launches on tensors without data, and a launch is written down
as a `Case` that compiles.
"""

# pyright: basic
from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if __package__:
    from .compile_for_gpu import Case, Compiled
else:
    sys.path.append(str(Path(__file__).parent))
    from compile_for_gpu import Case, Compiled, compiled_here
    from wide_launches import more

TYPES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int64: "i64", torch.int32: "i32",
    torch.uint8: "u8", torch.int8: "i8", torch.bool: "i1", torch.float8_e4m3fn: "fp8e4nv",
}  # fmt: skip
FLOAT8 = "fp8e4nv"
UNCHANGED = ("llmc.kernels.gpu.op", "llmc.kernels.gpu.bytes")
"""Modules whose code is not to take CPU tensors for ones of a GPU: the registration, and what chooses instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the cases of the benchmark do on one architecture."""

    kernels: Sequence[str]
    """`attention.triton_prefill:_forward`, those launched."""
    tunables: Sequence[str]
    """Those whose parameters were asked for."""
    failed: Sequence[str]
    """Cases that do not come to a launch, with the error."""
    compiled: Mapping[str, Compiled]
    """By name of launch."""


def record(
    architectures: Sequence[str], cache: Path, *, only: Sequence[str] | None = None, is_wide: bool = True
) -> Mapping[str, Recorded]:
    """By architecture, all of one generation, the oldest first.

    only: the kernels that are compiled, null for all; is_wide: those of `wide_launches` too. `cache` is an empty folder
    for Triton.
    """
    done = subprocess.run(
        [sys.executable, "-P", __file__],
        input=json.dumps({"architectures": architectures, "only": only, "is_wide": is_wide}),
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "TRITON_DUMP_PTXAS_LOG": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {
        architecture: Recorded(**{**found, "compiled": {name: Compiled(**x) for name, x in found["compiled"].items()}})
        for architecture, found in json.loads(done.stdout.splitlines()[-1]).items()
    }


class Launches:
    """Stands for `launchable`: the launches that were asked for, without repetitions."""

    def __init__(self) -> None:
        self.begin("")

    def begin(self, architecture: str) -> dict[str, Case]:
        """Where the launches on this architecture are kept from now on, by name."""
        self.architecture = architecture
        self.cases: dict[str, Case] = {}
        return self.cases

    def __call__(self, kernel: Any) -> Launches:
        self.kernel = kernel
        return self

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self._keep

    def _keep(self, *arguments: object, **named: Any) -> None:
        kernel = self.kernel
        options = {name: named.pop(name) for name in ("num_warps", "num_stages") if name in named}
        given = {**dict(zip(kernel.arg_names, arguments, strict=False)), **named}
        fixed = {one.name for one in kernel.params if one.is_constexpr}
        name = f"{kernel.fn.__module__.removeprefix('llmc.kernels.')}:{kernel.fn.__name__}"
        types = {key: _type_of(given[key]) for key in kernel.arg_names if key not in fixed}
        constants = {key: given[key] for key in kernel.arg_names if key in fixed}
        case = Case(
            name=f"{name} {constants} {types} {options}", kernel=name, arguments=types, constexprs=constants,
            architecture=self.architecture, **options,
        )  # fmt: skip
        self.cases[case.name] = case


def _type_of(value: object) -> str:
    """As Triton's launcher specialises an argument."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        is_whole = value.storage_offset() * value.itemsize % 16 == 0
        return f"*{TYPES[value.dtype]}{':16' * is_whole}"
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        return "i32:1" if value == 1 else f"{'i32' if abs(value) < 2**31 else 'i64'}{':16' * (value % 16 == 0)}"
    assert isinstance(value, float), value
    return "fp32"


class Operator:
    """Stands for an operator of torch: runs the launch, and its gradient as registered."""

    def __init__(self, launch: Callable[..., Any]) -> None:
        self.launch = launch
        self.signature = inspect.signature(launch)
        self.function: Any = None

    def register_autograd(self, backward: Any, *, setup_context: Any) -> None:
        def forward(ctx: Any, *arguments: Any) -> Any:
            out = self.launch(*arguments)
            setup_context(ctx, arguments, out)
            return out

        functions = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self.function = type("Recorded", (torch.autograd.Function,), functions)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.function is None or not torch.is_grad_enabled():
            return self.launch(*arguments, **named)
        bound = self.signature.bind(*arguments, **named)
        bound.apply_defaults()
        return self.function.apply(*bound.args)


class NoReads(TorchFunctionMode):
    """Numbers that the benchmark reads of operands, for its figures and tables of addresses, are 1."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return 1 if func in (Tensor.__int__, Tensor.item, Tensor.data_ptr) else func(*args, **(kwargs or {}))


def _recorded(*, is_wide: bool) -> dict[str, object]:
    """All cases once."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from llmc.kernels.gpu.tuning import recorded
    from llmc.tools.bench.gpu import FAMILIES
    from llmc.tools.bench.gpu_cases.case import Sizes

    sizes = Sizes(device=torch.device("cpu"), dtype=torch.bfloat16, is_tiny=False)
    failed = []
    with FakeTensorMode(allow_non_fake_inputs=True), NoReads(), recorded() as asked:
        for build in chain.from_iterable(
            family(sizes) for family in (*FAMILIES.values(), *([more] if is_wide else []))
        ):
            try:
                build().ours()
            except Exception as error:
                failed.append(f"{build}: {type(error).__name__}: {error}")
    return {"tunables": sorted({tunable.name for tunable, _ in asked.values()}), "failed": failed}


def _compiled(launches: Mapping[str, Mapping[str, Case]]) -> dict[str, dict[str, Compiled]]:
    """By architecture and name: every launch up to its shared memory; then, of each kernel, the one that takes the most
    of it entirely, on the oldest architecture that has it, whose instructions the later ones of the generation have.

    Triton's passes ask for the generation. So what one architecture launches as another does is compiled once, unless
    it takes more than half of a block's shared memory, or is of float8, which not all of a generation have.
    """
    from llmc.kernels.gpu.target import TARGETS

    found: dict[str, dict[str, Compiled]] = {architecture: {} for architecture in launches}
    known: dict[str, Compiled] = {}
    for architecture, cases in launches.items():
        for name, case in cases.items():
            made = known.get(name)
            if made is None or FLOAT8 in name or made.shared_memory > TARGETS[architecture].shared_memory // 2:
                made = compiled_here(case, is_whole=False)
            known[name] = found[architecture][name] = made
    entirely = set()
    for architecture, cases in launches.items():
        taken = found[architecture]
        for name in sorted(cases, key=lambda name: -taken[name].shared_memory):
            kind = cases[name].kernel, FLOAT8 in name
            if kind not in entirely and not taken[name].error:
                entirely.add(kind)
                taken[name] = compiled_here(cases[name])
    return found


def _main() -> None:
    from importlib import import_module

    import llmc.kernels.gpu.op as op
    from llmc.kernels.gpu import target

    request = json.load(sys.stdin)
    op.launchable = launches = Launches()  # type: ignore[assignment]
    op.gpu_op = lambda name, launch, **_others: Operator(op._by_items(launch))  # type: ignore[assignment]
    kernels = Path(target.__file__).parents[1]
    for path in sorted(kernels.rglob("triton_*.py")):
        module = import_module(".".join(("llmc.kernels", *path.relative_to(kernels).with_suffix("").parts)))
        if hasattr(module, "is_interpreted") and module.__name__ not in UNCHANGED:
            vars(module)["is_interpreted"] = lambda: True
    answer: dict[str, dict[str, object]] = {}
    made: dict[str, dict[str, Case]] = {}
    for architecture in request["architectures"]:
        with mock.patch.object(target, "_present", return_value=architecture):
            target.multiprocessors.cache_clear()
            made[architecture] = launches.begin(architecture)
            answer[architecture] = _recorded(is_wide=request["is_wide"])
        answer[architecture]["kernels"] = sorted({case.kernel for case in made[architecture].values()})
        if request["only"] is not None:
            made[architecture] = {x: case for x, case in made[architecture].items() if case.kernel in request["only"]}
    for architecture, compiled in _compiled(made).items():
        answer[architecture]["compiled"] = {name: asdict(one) for name, one in compiled.items()}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
