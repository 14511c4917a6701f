"""Device functions on whole numbers packed in bytes: products of four at once, fields of two and of four bits.

On a GPU each is one or two instructions in PTX; the interpreter, which has no PTX, computes the same numbers.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from .op import is_interpreted

_IS_INTERPRETED = tl.constexpr(is_interpreted())


@triton.jit
def dot4(b_unsigned, b_signed, b_sum):
    """int32 blocks of four bytes each, those of the first without sign -> b_sum + their four products."""
    if _IS_INTERPRETED:
        for i in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
            b_sum += ((b_unsigned >> (8 * i)) & 0xFF) * ((b_signed << (24 - 8 * i)) >> 24)
    else:
        b_sum = tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [b_unsigned, b_signed, b_sum],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return b_sum


@triton.jit
def fields_of_2(b_bytes):
    """uint8 block -> four int8 blocks of 0 to 3: its bits 0 and 1, 2 and 3, 4 and 5, 6 and 7."""
    if _IS_INTERPRETED:
        b_0, b_1 = (b_bytes & 3).to(tl.int8), ((b_bytes >> 2) & 3).to(tl.int8)
        b_2, b_3 = ((b_bytes >> 4) & 3).to(tl.int8), ((b_bytes >> 6) & 3).to(tl.int8)
    else:
        b_0, b_1, b_2, b_3 = tl.inline_asm_elementwise(
            """{
            .reg .b32 t;
            and.b32 $0, $4, 0x03030303;
            shr.u32 t, $4, 2;
            and.b32 $1, t, 0x03030303;
            shr.u32 t, $4, 4;
            and.b32 $2, t, 0x03030303;
            shr.u32 t, $4, 6;
            and.b32 $3, t, 0x03030303;
            }""",
            "=r,=r,=r,=r,r", [b_bytes], dtype=(tl.int8, tl.int8, tl.int8, tl.int8), is_pure=True, pack=4,
        )  # fmt: skip
    return b_0, b_1, b_2, b_3


@triton.jit
def fields_of_4(b_bytes):
    """uint8 block -> two int8 blocks of 0 to 15: its lower and its upper four bits."""
    if _IS_INTERPRETED:
        b_0, b_1 = (b_bytes & 15).to(tl.int8), ((b_bytes >> 4) & 15).to(tl.int8)
    else:
        b_0, b_1 = tl.inline_asm_elementwise(
            """{
            .reg .b32 t;
            and.b32 $0, $2, 0x0f0f0f0f;
            shr.u32 t, $2, 4;
            and.b32 $1, t, 0x0f0f0f0f;
            }""",
            "=r,=r,r", [b_bytes], dtype=(tl.int8, tl.int8), is_pure=True, pack=4,
        )  # fmt: skip
    return b_0, b_1
