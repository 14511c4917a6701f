"""A file mapped into memory, and tensors that lie in it: private pages, read when they are touched."""

from __future__ import annotations

import mmap
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


class MappedFile:
    """All of a file. Tensors keep it mapped; writing to them never reaches it."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)

    def tensor(self, stored: Stored) -> Tensor:
        """The tensor at its place. Raises ValueError where the file ends before it does."""
        dtype: torch.dtype = getattr(torch, stored.dtype)
        count = prod(stored.shape)
        if count == 0:
            return torch.empty(stored.shape, dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=stored.begin).view(stored.shape)
