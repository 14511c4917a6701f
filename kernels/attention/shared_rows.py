"""Attention over keys that several rows of the batch share: these rows become more queries of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from torch import Tensor

from .fields import AttendCached


def shares_keys(attend: Callable[[AttendCached], Tensor]) -> Callable[[AttendCached], Tensor]:
    """`attend_cached` for keys of fewer rows than the queries have: row b of the keys belongs to queries n*b … n*b+n-1.

    So the beams of a prompt read what an encoder said once. Such keys are seen by every query alike: without a causal
    order, a query's row does not matter.
    """

    @wraps(attend)
    def attend_shared(given: AttendCached) -> Tensor:
        rows, q, position = given.keys.shape[0], given.q, given.position
        if rows == q.shape[0]:
            return attend(given)
        joined = {"q": q.reshape(rows, -1, q.shape[-1]), "position": position.reshape(rows, -1)}
        out = attend(replace(given, **joined, plan=None, key_plan=None))  # plans are by rows as they were
        return out.reshape(*position.shape, out.shape[-1])

    return attend_shared
