"""Device functions on whole numbers packed in bytes: products of four at once, fields of two and of four bits, and
weights of four.

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


@triton.jit
def weights_of_4(b_bytes, b_low, b_high):
    """uint8 block, scales in 16 bits -> two blocks of their dtype: lower and upper four bits, less 8, times the scale.

    Two instructions a weight: bits become the last of a mantissa, 128 or 1024 and the weight, from which that is taken
    off exactly.
    """
    if _IS_INTERPRETED:
        b_0 = ((b_bytes & 15).to(tl.int32) - 8).to(b_low.dtype) * b_low
        b_1 = (((b_bytes >> 4) & 15).to(tl.int32) - 8).to(b_low.dtype) * b_high
    elif b_low.dtype == tl.bfloat16:
        b_0, b_1 = tl.inline_asm_elementwise(
            """{
            .reg .b32 one, less, a, b;
            mov.b32 one, 0x3f803f80;
            mov.b32 less, 0xc308c308;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            lop3.b32 $0, a, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 $1, b, 0x000f000f, 0x43004300, 0xea;
            shr.u32 a, a, 4;
            shr.u32 b, b, 4;
            lop3.b32 $2, a, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 $3, b, 0x000f000f, 0x43004300, 0xea;
            fma.rn.bf16x2 $0, $0, one, less;
            fma.rn.bf16x2 $1, $1, one, less;
            fma.rn.bf16x2 $2, $2, one, less;
            fma.rn.bf16x2 $3, $3, one, less;
            mov.b32 less, 0x80008000;
            fma.rn.bf16x2 $0, $0, $5, less;
            fma.rn.bf16x2 $1, $1, $6, less;
            fma.rn.bf16x2 $2, $2, $7, less;
            fma.rn.bf16x2 $3, $3, $8, less;
            }""",
            "=r,=r,=r,=r,r,r,r,r,r", [b_bytes, b_low, b_high], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
    else:
        b_0, b_1 = tl.inline_asm_elementwise(
            """{
            .reg .b32 less, a, b;
            mov.b32 less, 0x64086408;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            lop3.b32 $0, a, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $1, b, 0x000f000f, 0x64006400, 0xea;
            shr.u32 a, a, 4;
            shr.u32 b, b, 4;
            lop3.b32 $2, a, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $3, b, 0x000f000f, 0x64006400, 0xea;
            sub.rn.f16x2 $0, $0, less;
            sub.rn.f16x2 $1, $1, less;
            sub.rn.f16x2 $2, $2, less;
            sub.rn.f16x2 $3, $3, less;
            mul.rn.f16x2 $0, $0, $5;
            mul.rn.f16x2 $1, $1, $6;
            mul.rn.f16x2 $2, $2, $7;
            mul.rn.f16x2 $3, $3, $8;
            }""",
            "=r,=r,=r,=r,r,r,r,r,r", [b_bytes, b_low, b_high], dtype=(tl.float16, tl.float16), is_pure=True, pack=4,
        )  # fmt: skip
    return b_0, b_1
