"""Predicts speed from two numbers of a machine: bytes it reads per second, and operations it does per second.

A decoded token reads every parameter that it uses and the state once; a prompt is bound by its operations. A prediction
is the larger of both times: what is lost to overheads is not in it, so real speeds are lower.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..compiler.ir import Model
from ..compiler.plan import Plan, input_types, off_stream, parameters
from ..kernels.gpu.target import GpuTarget

PROBE_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Bytes and floating-point operations per second, and where the numbers are from."""

    bandwidth: float
    flops: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Tokens per second of all rows together."""

    decode: float
    prefill: float
    decode_bytes: int
    bound: str


def measure(device: str, dtype: str) -> Machine:
    """A quick probe: reads and arithmetic in C on a CPU that has a compiler, else through torch."""
    if device != "cpu":
        return measure_by_torch(device, dtype)
    from ..runtime.native.probe import KINDS, Probe
    from ..runtime.native.team import thread_count
    from ..runtime.native.toolchain import NoCompiler

    try:
        probe = Probe(PROBE_BYTES)
    except NoCompiler:
        return measure_by_torch(device, dtype)
    kinds = {dtype, "float32"} if dtype == "bfloat16" else {dtype if dtype in KINDS else "float32"}
    bandwidth = max(probe.bandwidth() for _ in range(5))
    flops = max(probe.rate(kind) for kind in kinds for _ in range(3))
    return Machine(bandwidth=bandwidth, flops=flops, source=f"measured on cpu, {thread_count()} threads")


def of_target(target: GpuTarget, dtype: str) -> Machine:
    """What a GPU of the architecture reaches at most, by its data sheet."""
    flops = target.flops_float32 if dtype == "float32" else target.flops
    return Machine(
        bandwidth=target.bandwidth, flops=flops, source=f"data sheet of {target.example}, {target.architecture}"
    )


def measure_by_torch(device: str, dtype: str) -> Machine:
    """The sum of 256 MiB, and a product of matrices."""
    import torch

    kind = getattr(torch, dtype)
    data = torch.ones(PROBE_BYTES // 4, dtype=torch.float32, device=device)
    bandwidth = PROBE_BYTES / _best(lambda: data.sum(), device)
    size = 1024 if device == "cpu" else 8192
    left = torch.ones(size, size, dtype=kind, device=device)
    flops = 2 * size**3 / _best(lambda: left @ left, device)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    return Machine(bandwidth=bandwidth, flops=flops, source=f"measured on {device}{threads}")


def _best(work: object, device: str) -> float:
    """The shortest of five runs after one to warm up, in seconds."""
    import torch

    assert callable(work)
    times: list[float] = []
    for _ in range(6):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def predict(model: Model, ties: Mapping[str, str], plan: Plan, machine: Machine) -> Prediction:
    """Tokens per second at the plan's batch and full context."""
    itemsize = plan.weight_bytes // max(plan.parameters, 1)
    read = (plan.parameters - unread_parameters(model, ties, plan.batch)) * itemsize + plan.state_bytes
    by_bytes, by_flops = read / machine.bandwidth, plan.decode_flops / machine.flops
    return Prediction(
        decode=plan.batch / max(by_bytes, by_flops),
        prefill=plan.batch * plan.context / max(plan.prefill_flops / machine.flops, by_bytes),
        decode_bytes=round(read),
        bound="memory" if by_bytes >= by_flops else "compute",
    )


def unread_parameters(model: Model, ties: Mapping[str, str], batch: int) -> int:
    """Parameters that a decoded token of `batch` rows does not touch: an encoder's, other rows of tables, experts not
    chosen.

    A table that is also the output matrix is read as that.
    """
    owned = parameters(model)
    unread = float(sum(prod(owned[path].shape) for path in off_stream(model, ties) if path not in ties))
    for call in model.calls:
        typed = model.definitions[call.definition]
        for node in typed.definition.nodes:
            size = sum(prod(spec.shape) for spec in typed.parameters[node.path])
            if node.op.name == "embedding" and not _is_tied(call.binding.absolute(node.path), ties):
                unread += size * max(0.0, 1 - batch / node.fields.int("rows"))
            elif node.op.name == "experts":
                chosen = input_types(typed, node.path)["weights"].features
                assert isinstance(chosen, int)
                unread += size * max(0.0, 1 - batch * chosen / node.fields.int("num_experts"))
    return round(unread)


def _is_tied(path: str, ties: Mapping[str, str]) -> bool:
    return any(end.rpartition(".")[0] == path for pair in ties.items() for end in pair)
