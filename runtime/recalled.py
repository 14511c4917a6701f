"""A model as an earlier process left it: what runs, and what is only made when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compiler.facts import Facts
from ..compiler.native.formats import Quantize
from ..compiler.program import Program
from .native.executor import NativeExecutor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """A bound executor and the facts that running needs; `compile` gives the Program, where that is wanted after all.

    parameters: by path, without tied ones, as the executor reads them; none where the matrices are packed.
    """

    facts: Facts
    executor: NativeExecutor
    dtype: torch.dtype
    quantize: Quantize | None
    parameters: Mapping[str, Tensor]
    compile: Callable[[], Program]
