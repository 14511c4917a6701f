"""Launches of the decode kernels of attention that must compile for a GPU."""

from __future__ import annotations

from .compile_for_gpu import Case

TENSORS = ("p_q", "p_keys", "p_values")
OPTIONAL = ("p_lengths", "p_bias", "p_distance", "p_sink", "p_key_scale", "p_value_scale")
SIZES = ("tokens", "group", "shares", "window", "chunk", "reach", "power")
STRIDES = ("qb", "qt", "kb", "kh", "ks", "vb", "vh", "vs", "ab", "pb", "pt", "bh", "bt", "bs", "scale")
FLAGS = ("WINDOW", "CHUNK", "SOFTCAP", "ALIBI", "BIAS", "DISTANCE", "SINK", "SCALES")


def share(
    name: str,
    *,
    dtype: str = "bf16",
    cache: str = "",
    head_dim: int = 128,
    block: int = 64,
    rows: int = 16,
    page: int = 0,
    flags: tuple[str, ...] = (),
    present: tuple[str, ...] = (),
    is_causal: bool = True,
    is_whole: bool = False,
    spills: int = 0,
    num_stages: int = 3,
    ones: tuple[str, ...] = ("tokens",),
) -> Case:
    """One launch of `share_kernel`; `flags` of FLAGS are on, `present` of OPTIONAL are given, `ones` are 1."""
    width = max(16, 1 << (head_dim - 1).bit_length())
    return Case(
        name=f"attend_decode {name}",
        kernel="attention.triton_shares:share_kernel",
        arguments={
            **{part: f"*{dtype}:16" for part in TENSORS},
            **({"p_keys": f"*{cache}:16", "p_values": f"*{cache}:16"} if cache else {}),
            "p_at": "*i64:16",
            "p_position": "*i64:16",
            **{part: "None" for part in OPTIONAL},
            **{part: "*i64:16" if part == "p_lengths" else "*fp32:16" for part in present},
            "p_out": f"*{dtype}:16" if is_whole else "*fp32:16",
            "p_lse": "None" if is_whole else "*fp32:16",
            **{part: "i32:1" if part in ones else "i32" for part in SIZES},
            "slots": "i32:16",
            "scale": "fp32",
            "softcap": "fp32",
            **{f"stride_{part}": "i32:16" for part in STRIDES},
            "stride_as": "i32:1",
        },
        constexprs={
            "HEAD_DIM": head_dim,
            "V_HEAD_DIM": head_dim,
            "IS_CAUSAL": is_causal,
            **{f"HAS_{flag}": flag in flags for flag in FLAGS},
            "IS_WHOLE": is_whole,
            "PAGE": page,
            "BLOCK_M": rows,
            "BLOCK_N": block,
            "BLOCK_D": width,
            "BLOCK_V": width,
            "SCAN_BLOCKS": 2048 // block,
        },
        num_stages=num_stages,
        spills=spills,
    )


CASES = (
    share("128"),
    share("64, windowed, sink", head_dim=64, block=128, flags=("WINDOW", "SINK"), present=("p_sink",)),
    share("256, softcap", head_dim=256, block=32, flags=("SOFTCAP",)),
    share("96, chunks, whole", head_dim=96, flags=("CHUNK",), is_whole=True),
    share("128, 16 tokens", rows=64, ones=()),
    share("128, all ones", flags=("WINDOW", "CHUNK", "ALIBI"), is_whole=True, ones=SIZES),
    share("128, pages, all ones", page=16, block=16, present=("p_lengths",), is_whole=True, ones=SIZES),
    share("128, alibi, bias", flags=("ALIBI", "BIAS"), present=("p_bias",)),
    share("64, distance", head_dim=64, block=128, flags=("DISTANCE",), present=("p_distance",), is_causal=False),
    share("128, float8", cache="fp8e4nv", block=128, flags=("SCALES",), present=("p_key_scale", "p_value_scale")),
    share("128, float32", dtype="fp32", block=32),
    share("128, pages of 64", page=64, present=("p_lengths",)),
    Case(
        name="attend_combine",
        kernel="attention.triton_combine:_combine",
        arguments={
            "p_part": "*fp32:16",
            "p_lse": "*fp32:16",
            "p_out": "*bf16:16",
            "heads": "i32:16",
            "tokens": "i32:1",
            "shares": "i32",
        },
        constexprs={"WIDTH": 128, "BLOCK_D": 128, "BLOCK_S": 64, "CHUNK": 16},
    ),
)
