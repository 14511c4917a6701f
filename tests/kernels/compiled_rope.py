"""Launches of RoPE that must compile for a GPU."""

from __future__ import annotations

from llmc.kernels.rope.triton_rope import blocks
from llmc.kernels.rope.triton_table import Law, constexprs

from .compile_for_gpu import Case


def turn(heads: int, head_dim: int, dims: int, *, is_interleaved: bool) -> Case:
    """One token's heads."""
    held, pairs = blocks(heads, dims)
    return Case(
        name=f"rope {heads}x{head_dim} of {dims}",
        kernel="rope.triton_rope:_turn",
        arguments={
            "p_x": "*bf16:16", "p_table": "*fp32:16", "p_out": "*bf16:16", "heads": "i32", "head_dim": "i32:16",
            "dims": "i32:16", "stride": "i32:16",
        },
        constexprs={
            "IS_INTERLEAVED": is_interleaved, "IS_BACK": False, "HAS_REST": dims < head_dim, "HEADS": held,
            "PAIRS": pairs, "REST": 64,
        },
    )  # fmt: skip


def table(law: Law) -> Case:
    """A table of heads of 128."""
    return Case(
        name=f"table {law.scaling}",
        kernel="rope.triton_table:_fill",
        arguments={"p_position": "*i64:16", "p_table": "*fp32:16", "tokens": "i32"},
        constexprs=constexprs(law, 128),  # type: ignore[arg-type]
    )


CASES = (
    turn(32, 128, 128, is_interleaved=False),
    turn(128, 192, 128, is_interleaved=True),
    table(Law("none", 10000.0)),
    table(Law("dynamic", 10000.0, factor=2.0, trained=4096)),
    table(Law("llama3", 500000.0, factor=8.0, low=1.0, high=4.0, trained=8192)),
    table(Law("yarn", 10000.0, factor=4.0, low=20.0, high=46.0, trained=4096, gain=1.1)),
    table(Law("longrope", 10000.0, factor=32.0, trained=4096, short=(1.0,) * 64, long=(2.0,) * 64, gain=1.19)),
    table(Law("proportional", 10000.0, factor=2.0, turning=16)),
)
