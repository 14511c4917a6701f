"""`llmc plan`: what a model costs before anything is allocated, and how fast it can be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from ..options import (
    HumanInt,
    as_params,
    cache_dtype_option,
    device_option,
    dtype_option,
    json_option,
    set_option,
    spec_argument,
)
from ..targets import locate
from ..terminal import big, bytes_text, count, table, write_json

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value
    from ...compiler.plan import Plan
    from ..roofline import Machine


@click.command("plan")
@spec_argument()
@click.option("--batch", type=HumanInt(), default=1, show_default=True, help="Rows at a time.")
@click.option("--ctx", type=HumanInt(), help="Tokens of context; default: the spec's longest.")
@device_option
@dtype_option
@cache_dtype_option
@click.option(
    "--bandwidth", type=click.FloatRange(min=0, min_open=True), metavar="GB/S", help="Assume it; default: measured."
)
@click.option(
    "--tflops", type=click.FloatRange(min=0, min_open=True), metavar="TFLOPS", help="Assume it; default: measured."
)
@set_option
@json_option
def command(
    spec: str,
    batch: int,
    ctx: int | None,
    device: str,
    dtype: str | None,
    cache_dtype: str | None,
    bandwidth: float | None,
    tflops: float | None,
    settings: tuple[tuple[str, Value], ...],
    as_json: bool,
) -> None:
    """Parameters, FLOPs, bytes, state per layer, whether it fits, and the speed that the roofline allows.

    The machine is measured for a second (this imports torch) unless --bandwidth and --tflops say what to assume. For
    a GPU that is elsewhere, --device cuda:sm_90 takes the numbers of a data sheet.
    """
    from ...compiler.pipeline import read
    from ...compiler.plan import plan
    from ...compiler.weight_map import weight_map
    from ...specs.diagnostics import fail

    found = locate(spec, as_params(settings))
    resolved, model = read(found.spec, found.params, origin=found.origin)
    limit = resolved.environment.get("max_seq_len")
    if ctx is not None and isinstance(limit, int) and ctx > limit:
        raise fail(
            "E0801", f"--ctx {ctx} is longer than the context of {limit}", help=f"--set max_seq_len={ctx} if it may be"
        )
    context = ctx or (limit if isinstance(limit, int) else 2048)
    ties = weight_map(resolved, model).ties
    sizes = plan(model, ties, batch=batch, context=context, dtype=dtype or "float32", cache_dtype=cache_dtype)
    machine = _machine(device, sizes.dtype, bandwidth, tflops)
    from ..roofline import predict

    predicted = predict(model, ties, sizes, machine)
    available = _available(device)
    needed = sizes.weight_bytes + sizes.state_bytes
    if as_json:
        write_json(
            {
                "name": resolved.name,
                "batch": batch,
                "context": context,
                "device": device,
                "dtype": sizes.dtype,
                "parameters": sizes.parameters,
                "active_parameters": sizes.active_parameters,
                "weight_bytes": sizes.weight_bytes,
                "packed_weight_bytes": sizes.packed_weight_bytes,
                "prefill_flops": sizes.prefill_flops,
                "decode_flops": sizes.decode_flops,
                "state_bytes": sizes.state_bytes,
                "states": [{"path": s.path, "kind": s.spec.kind, "bytes": s.bytes} for s in sizes.states],
                "needed_bytes": needed,
                "available_bytes": available,
                "fits": None if available is None else needed <= available,
                "bandwidth": machine.bandwidth,
                "flops": machine.flops,
                "assumption": machine.source,
                "decode_tokens_per_second": predicted.decode,
                "prefill_tokens_per_second": predicted.prefill,
            }
        )
        return
    rows = [
        ("parameters", _parameters(sizes)),
        ("weights", _weights(sizes)),
        (
            "FLOPs",
            f"{big(sizes.prefill_flops)} for a prompt of {count(context)}, {big(sizes.decode_flops)} for a token after",
        ),
        *_state_rows(sizes),
        ("memory", _fits(needed, available, sizes)),
        (
            "decode",
            f"at most {predicted.decode:,.1f} tokens/s ({predicted.bound}-bound, "
            f"{bytes_text(predicted.decode_bytes)} read per step)",
        ),
        ("prefill", f"at most {predicted.prefill:,.1f} tokens/s"),
        ("roofline", f"{machine.bandwidth / 1e9:.1f} GB/s, {machine.flops / 1e12:.2f} TFLOPS, {machine.source}"),
    ]
    table([resolved.name, f"batch {batch}, context {count(context)}, {device}"], rows)


def _parameters(sizes: Plan) -> str:
    if sizes.active_parameters == sizes.parameters:
        return count(sizes.parameters)
    return f"{count(sizes.parameters)}, of which a token reads {count(sizes.active_parameters)}"


def _weights(sizes: Plan) -> str:
    text = f"{bytes_text(sizes.weight_bytes)} in {sizes.dtype}"
    if sizes.packed_weight_bytes == sizes.weight_bytes:
        return text
    return f"{text}; {bytes_text(sizes.packed_weight_bytes)} with ternary weights packed in 2 bits"


def _state_rows(sizes: Plan) -> list[tuple[str, str]]:
    """States of one kind and size together, then their sum."""
    counted = Counter((state.spec.kind, state.bytes) for state in sizes.states)
    from ...kernels.states import STATES

    rows = [
        (
            "state",
            f"{number} x {kind}"
            + (f" of {bytes_text(size)}" if kind in STATES else ", of a size not known in this version"),
        )
        for (kind, size), number in counted.items()
    ]
    return [
        *rows,
        ("state in all", f"{bytes_text(sizes.state_bytes)} for {sizes.batch} x {count(sizes.context)} tokens"),
    ]


def _fits(needed: int, available: int | None, sizes: Plan) -> str:
    if available is None:
        return f"{bytes_text(needed)} needed; this system does not say what is free"
    if needed > available:
        return f"does not fit: {bytes_text(needed)} needed, {bytes_text(available)} free"
    room = (available - sizes.weight_bytes) * sizes.batch // sizes.state_bytes if sizes.state_bytes else 0
    more = f"; room for {count(room)} rows of {count(sizes.context)} tokens" if room else ""
    return f"fits: {bytes_text(needed)} needed, {bytes_text(available)} free{more}"


def _machine(device: str, dtype: str, bandwidth: float | None, tflops: float | None) -> Machine:
    from ...kernels.gpu.target import asked_target
    from ..roofline import Machine, measure, of_target

    if bandwidth is not None and tflops is not None:
        return Machine(bandwidth=bandwidth * 1e9, flops=tflops * 1e12, source="assumed")
    target = asked_target(device)
    if target is None and device != "cpu":
        from ...runtime.device import require_device

        require_device(device)
    found = measure(device, dtype) if target is None else of_target(target, dtype)
    if bandwidth is None and tflops is None:
        return found
    return Machine(
        bandwidth=found.bandwidth if bandwidth is None else bandwidth * 1e9,
        flops=found.flops if tflops is None else tflops * 1e12,
        source=f"{'bandwidth' if bandwidth is not None else 'TFLOPS'} assumed, the other {found.source}",
    )


def _available(device: str) -> int | None:
    if device == "cpu":
        from ...runtime.memory import available_bytes

        return available_bytes()
    from ...kernels.gpu.target import asked_target

    target = asked_target(device)
    if target is not None:
        return round(target.memory)
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
