"""Where a program of attention works, and the tiles it loads there."""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(rows, blocks, at_once):
    """Row (of batch and head) and block of this program: of `at_once` rows, which share the cache, block 0 first."""
    i_program = tl.program_id(0)
    i_set = i_program // (at_once * blocks)
    in_set = i_program - i_set * at_once * blocks
    set_size = tl.minimum(at_once, rows - i_set * at_once)
    return i_set * at_once + in_set % set_size, in_set // set_size


@triton.jit
def unknown_zeros(count, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Zeros, but each a value of its own to the compiler: sums that start from one constant are set again where their
    loop is skipped, which lies between the start and the end of the tensor cores' work, and the assembler then makes
    these wait at every step. count is any number that only the device knows.
    """
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    return ((o_row[:, None] * COLUMNS + o_column[None, :]) ^ count).to(tl.float32) * 0.0


@triton.jit
def load_rows(
    p_rows, descriptor, i_first, s_row, rows, size,
    DESCRIBED: tl.constexpr, ALL_ROWS: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """BLOCK rows from i_first on -> `[BLOCK, SIZE]`, zeros where there are none. ALL_ROWS: there are."""
    if DESCRIBED:
        b_rows = descriptor.load([i_first, 0])
    else:
        o_row, o_size = tl.arange(0, BLOCK), tl.arange(0, SIZE)
        p_block = p_rows + i_first.to(tl.int64) * s_row + o_row[:, None] * s_row + o_size[None, :]
        if ALL_ROWS and EVEN:
            b_rows = tl.load(p_block)
        elif ALL_ROWS:
            b_rows = tl.load(p_block, mask=o_size[None, :] < size, other=0.0)
        else:
            b_rows = tl.load(p_block, mask=(o_size[None, :] < size) & (i_first + o_row[:, None] < rows), other=0.0)
    return b_rows


@triton.jit
def store_rows(
    p_rows, b_rows, i_first, s_row, rows, size, BLOCK: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """`[BLOCK, SIZE]` to the rows from i_first on, as many as there are."""
    o_row, o_size = tl.arange(0, BLOCK), tl.arange(0, SIZE)
    p_block = p_rows + i_first.to(tl.int64) * s_row + o_row[:, None] * s_row + o_size[None, :]
    m_block = (o_size[None, :] < size) & (i_first + o_row[:, None] < rows)
    tl.store(p_block, b_rows.to(p_rows.dtype.element_ty), mask=m_block)
