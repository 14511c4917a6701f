"""Attention over keys that several rows of the batch share: these rows become more queries of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from torch import Tensor

P = ParamSpec("P")


def shares_keys(attend: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """`attend_cached` for keys of fewer rows than the queries have: row b of the keys belongs to queries n*b … n*b+n-1.

    So the beams of a prompt read what an encoder said once. Such keys are seen by every query alike: without a causal
    order, a query's row does not matter.
    """

    @wraps(attend)
    def attend_shared(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        q, keys, position = kwargs["q"], kwargs["keys"], kwargs["position"]
        assert isinstance(q, Tensor)
        assert isinstance(keys, Tensor)
        assert isinstance(position, Tensor)
        rows = keys.shape[0]
        if rows == q.shape[0]:
            return attend(*args, **kwargs)
        kwargs["q"], kwargs["position"] = q.reshape(rows, -1, q.shape[-1]), position.reshape(rows, -1)
        out = attend(*args, **kwargs)
        return out.reshape(*position.shape, out.shape[-1])

    return attend_shared
