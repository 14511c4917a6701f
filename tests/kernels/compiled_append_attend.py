"""Launches of attention joined with the cache's append that must compile for a GPU."""

from __future__ import annotations

from .compile_for_gpu import Case

OPTIONAL = ("p_q_weight", "p_k_weight", "p_distance", "p_sink")
FLAGS = ("NORM", "OFFSET", "WINDOW", "CHUNK", "SOFTCAP", "ALIBI", "DISTANCE", "SINK")


def joined(
    name: str,
    *,
    dtype: str = "bf16",
    head_dim: int = 128,
    block: int = 64,
    heads: int = 4,
    rotary: int | None = None,
    is_interleaved: bool = False,
    is_ring: bool = False,
    flags: tuple[str, ...] = (),
    present: tuple[str, ...] = (),
    is_whole: bool = False,
    is_joined: bool = True,
    ones: tuple[str, ...] = (),
    spills: int = 0,
    cache: str = "",
) -> Case:
    """One launch for `heads` query heads a key head; `flags` of FLAGS are on, `present` of OPTIONAL are given."""
    width = max(16, 1 << (head_dim - 1).bit_length())
    return Case(
        name=f"append_attend {name}",
        kernel="attention.triton_append_attend:append_attend_kernel",
        arguments={
            **{f"p_{part}": f"*{dtype}:16" for part in ("q", "k", "v", "keys", "values", "out")},
            **{f"p_{part}": f"*{cache or dtype}:16" for part in ("keys", "values")},
            **{f"p_{part}_scale": "*fp32:16" if cache else "None" for part in ("key", "value")},
            "p_table": "*fp32:16",
            **{part: "None" for part in OPTIONAL},
            **{part: f"*{dtype}:16" for part in present},
            **{f"p_{part}": "*i64:16" for part in ("position", "lengths")},
            **{f"p_{part}": "None" if is_whole else "*fp32:16" for part in ("part", "lse")},
            "p_arrived": "*i32:16",
            **{part: "i32:1" if part in ones else "i32" for part in ("group", "shares", "window", "chunk", "power")},
            "slots": "i32:16",
            **{part: "fp32" for part in ("eps", "offset", "scale", "softcap")},
            "reach": "i32",
            **{f"stride_{part}": "i32:16" for part in ("qb", "kb", "vb", "tb")},
            "stride_pb": "i32:1",
        },
        constexprs={
            "HEAD_DIM": head_dim, "V_HEAD_DIM": head_dim, "ROTARY": head_dim if rotary is None else rotary,
            "IS_INTERLEAVED": is_interleaved, "IS_RING": is_ring, **{f"HAS_{flag}": flag in flags for flag in FLAGS},
            "HAS_SCALES": cache != "",
            "IS_WHOLE": is_whole, "IS_JOINED": is_joined, "BLOCK_M": 16, "BLOCK_N": block, "BLOCK_D": width,
            "BLOCK_V": width, "HEADS": heads, "BLOCK_S": 64, "CHUNK": max(1, 8192 // (heads * width)),
        },
        spills=spills,
    )  # fmt: skip


CASES = (
    joined("128"),
    joined("64, 1 head", head_dim=64, block=128, heads=1, ones=("group",)),
    joined("64, ring, sink", head_dim=64, block=128, heads=8, is_ring=True, flags=("WINDOW", "SINK"),
           present=("p_sink",)),
    joined("256, normed, ring", head_dim=256, block=32, is_ring=True, flags=("NORM", "OFFSET", "WINDOW"),
           present=("p_q_weight", "p_k_weight")),
    joined("256, softcap, apart", head_dim=256, block=32, heads=2, flags=("SOFTCAP",), is_joined=False),
    joined("96, chunks, whole", head_dim=96, flags=("CHUNK",), is_ring=True, is_whole=True),
    joined("80, half of it turned, interleaved", head_dim=80, rotary=40, is_interleaved=True),
    joined("128, alibi", rotary=0, flags=("ALIBI",), ones=("group", "shares")),
    joined("64, distance", head_dim=64, block=128, rotary=0, flags=("DISTANCE",), present=("p_distance",)),
    joined("128, float8", block=128, cache="fp8e4nv"),
    joined("64, float8, ring", head_dim=64, block=128, heads=8, is_ring=True, flags=("WINDOW",), cache="fp8e4nv"),
    Case(
        name="expand_float8",
        kernel="cache.triton_float8:expand_kernel",
        arguments={
            "p_x": "*fp8e4nv:16", "p_scale": "*fp32:16", "p_at": "*i64:16", "p_out": "*bf16:16", "heads": "i32",
            "slots": "i32:16", "stride_ab": "i32:16", "stride_as": "i32:1",
        },
        constexprs={"DIM": 128, "BLOCK_S": 64, "BLOCK_D": 128},
    ),
    joined("128, float32", dtype="fp32", block=32, spills=64),
)  # fmt: skip
