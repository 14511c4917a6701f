"""In which dtypes caches can hold keys and values, by what runs the model."""

from __future__ import annotations

import torch

from ..kernels.gpu.target import target_of
from ..kernels.states import STATES
from .execute import Executor, TorchExecutor
from .gpu.executor import GpuExecutor
from .native.executor import NativeExecutor


def refuse_cache_dtype(dtype: torch.dtype, own: torch.dtype, executor: Executor) -> str | None:
    """None where keys and values of a model in `own` may be `dtype`, else what would allow it."""
    if dtype == own:
        return None
    if isinstance(executor, NativeExecutor):
        if dtype.itemsize == 1:
            return "machine code has no float8: take float16 or bfloat16, or run on a GPU"
        if not executor.takes_other_caches:
            return "it needs keys and values, and machine code for all of the model"
        return None
    if dtype.itemsize != 1:
        return "it needs machine code for all of the model; a GPU takes float8_e4m3fn, or the model's own dtype"
    assert isinstance(executor, TorchExecutor)
    program = executor.program
    if not any(STATES[spec.kind].may_be_shorter for spec in program.states.values()):
        return "the model keeps no keys and values of heads"
    target = target_of(program.target.device) if isinstance(executor, GpuExecutor) else None
    if target is not None and not target.has_float8:
        return f"{target.architecture} has no float8: sm_89 and later have"
    return None
