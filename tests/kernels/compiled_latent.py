"""Launches of latent decode attention that must compile for a GPU."""

from __future__ import annotations

from .compile_for_gpu import Case


def latent(
    name: str, *, dtype: str = "bf16", rows: int, block: int, warps: int, stages: int = 3, spills: int = 0
) -> Case:
    """One share of latents of 512 with rotated parts of 64."""
    tensors = ("p_q", "p_q_rope", "p_latents", "p_ropes")
    return Case(
        name=f"latent_decode {name}",
        kernel="latent_attention.triton_decode:latent_kernel",
        arguments={
            **{part: f"*{dtype}:16" for part in tensors},
            "p_at": "*i64:16",
            "p_position": "*i64:16",
            "p_out": "*fp32:16",
            "p_lse": "*fp32:16",
            "tokens": "i32:1",
            **{part: "i32:16" for part in ("heads", "slots")},
            "shares": "i32",
            "scale": "fp32",
            **{f"stride_{part}": "i32:16" for part in ("qb", "qt", "qh", "eb", "et", "lb", "ls", "rb", "rs", "ab")},
            "stride_as": "i32:1",
            **{f"stride_{part}": "i32:1" for part in ("pb", "pt")},
        },
        constexprs={
            "RANK": 512, "ROPE": 64, "IS_WHOLE": False, "BLOCK_M": rows, "BLOCK_N": block, "BLOCK_R": 512,
            "BLOCK_E": 64, "SCAN_BLOCKS": 2048 // block,
        },
        num_warps=warps,
        num_stages=stages,
        spills=spills,
    )  # fmt: skip


CASES = (
    latent("16 rows", rows=16, block=32, warps=4),
    latent("64 rows", rows=64, block=32, warps=8, spills=128),
    latent("float32", dtype="fp32", rows=16, block=16, warps=4),
)
