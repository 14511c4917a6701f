"""`short_conv` in C."""

from __future__ import annotations

from ..native.node import NativeNode


def short_conv(node: NativeNode) -> None:
    """`reference.short_conv`."""
    x, weight, y = node.input("x"), node.input("weight"), node.output("out")
    bias = node.input("bias").pointer if node.has("bias") else "0"
    tail = node.state().pointers[0] if node.has("state") else "0"
    node.region(
        f"llmc_short_conv(t, &(llmc_conv){{.x = {x.pointer}, .x_stride = {x.stride}, .out = {y.pointer},\n"
        f"  .batch = pass->batch, .tokens = pass->tokens, .channels = {y.width}, .taps = {weight.shape[-1]},\n"
        f"  .position = pass->position, .weight = {weight.pointer}, .bias = {bias},\n"
        f"  .activate = llmc_activate_{node.field('activation')}, .tail = {tail}, .type = LLMC_MODEL_TYPE}});"
    )
