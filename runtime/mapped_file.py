"""A file mapped into memory, and tensors that lie in it: private pages, read when they are touched.

Pages are huge ones (2 MiB) where the system's file cache holds the file in such: Linux does for ext4 from 6.16 on, for
XFS from 5.18 on, where a file is written in blocks of that size or first read through a mapping that asks for them. A
huge page is one fault instead of hundreds, and costs decoding no look-ups of addresses. Elsewhere nothing changes.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where one tensor lies: the number of its file, and its first byte there. `dtype` as torch calls it."""

    file: int
    begin: int
    shape: tuple[int, ...]
    dtype: str


HUGE_PAGE = 2 << 20
"""Bytes of a huge page on most processors; elsewhere it is only the size of the blocks in which files are written."""


class MappedFile:
    """All of a file. Tensors keep it mapped; writing to them never reaches it."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        with suppress(AttributeError, OSError):
            self._memory.madvise(mmap.MADV_HUGEPAGE)

    def tensor(self, stored: Stored) -> Tensor:
        """The tensor at its place. Raises ValueError where the file ends before it does."""
        dtype: torch.dtype = getattr(torch, stored.dtype)
        count = prod(stored.shape)
        if count == 0:
            return torch.empty(stored.shape, dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=stored.begin).view(stored.shape)
