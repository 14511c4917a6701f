"""Launches of the cache appends that must compile for a GPU."""

from __future__ import annotations

from .compile_for_gpu import Case


def append(
    name: str,
    *,
    rotary: int = 0,
    is_interleaved: bool = False,
    is_ring: bool = False,
    seen: bool = False,
    cache: str = "bf16",
    given: str = "bf16",
    is_one: bool = False,
) -> Case:
    """One launch with 8 heads of 128."""
    tensors = {f"p_{part}": f"*{cache}:16" for part in ("keys", "values", "seen_keys", "seen_values")}
    sizes = ("tokens", "heads", "slots", "seen", "head_tiles", "q_heads", "tiles")
    return Case(
        name=f"kv_append {name}",
        kernel="cache.triton_append:append_kernel",
        arguments={
            "p_k": f"*{given}:16",
            "p_v": f"*{given}:16",
            **({"p_table": "*fp32:16", "p_q": "*bf16:16"} if rotary else {"p_table": "None", "p_q": "None"}),
            "p_turned": "*bf16:16",
            **tensors,
            **({} if seen else {"p_seen_keys": "None", "p_seen_values": "None"}),
            **{f"p_{part}": "*i64:16" for part in ("position", "last", "lengths", "at")},
            **{part: "i32:1" if is_one else "i32" for part in sizes},
            **{f"stride_{part}": "i32:16" for part in ("kb", "kt", "vb", "vt", "tb", "tt", "qb", "qt")},
            **{f"stride_{part}": "i32" for part in ("pb", "pt")},
        },
        constexprs={
            "KEY_DIM": 128, "VALUE_DIM": 128, "ROTARY": rotary, "IS_INTERLEAVED": is_interleaved, "IS_RING": is_ring,
            "HAS_SEEN": seen, "HAS_Q": rotary > 0, "BLOCK_H": 8, "BLOCK_K": 128, "BLOCK_V": 128, "POSITIONS": 1024,
        },
    )  # fmt: skip


CASES = (
    append("one token of one head", rotary=128, is_one=True),
    append("one token of one head, ring", is_ring=True, is_one=True),
    append("rotated", rotary=128),
    append("plain, ring", is_ring=True),
    append("interleaved, ring, several tokens", rotary=64, is_interleaved=True, is_ring=True, seen=True),
    append("rotated, float8", rotary=128, cache="fp8e4nv"),
    append("bytes of float8, ring", is_ring=True, seen=True, cache="i8", given="i8"),
)
