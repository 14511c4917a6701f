"""A kernel that does not compile is set aside once, with a readable warning; other errors are raised."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton")

from triton.errors import TritonError

from llmc.kernels.gpu.set_aside import guarded


def failing(error: Exception) -> Callable[..., object]:
    def attend(*, x: object, scale: float) -> object:
        raise error

    return attend


def test_the_next_kernel_runs_and_the_warning_says_which_and_why() -> None:
    calls: list[str] = []

    def reference(*, x: object, scale: float) -> object:
        calls.append("reference")
        return x

    run = guarded(
        "self_attn.attend (attend_cached, specs/x.yaml:65)",
        [
            ("triton", lambda: failing(TritonError("\n  out of resource: shared memory\nmore"))),
            ("second", lambda: failing(RuntimeError("PassManager::run failed"))),
            ("reference", lambda: reference),
        ],
    )
    with pytest.warns(RuntimeWarning) as caught:
        run(x=torch.zeros(2, 3, dtype=torch.float16), scale=0.5)
    assert [str(one.message) for one in caught] == [
        "self_attn.attend (attend_cached, specs/x.yaml:65): kernel triton does not compile here and is set aside for"
        " second (x [2, 3] float16, scale=0.5): TritonError:   out of resource: shared memory",
        "self_attn.attend (attend_cached, specs/x.yaml:65): kernel second does not compile here and is set aside for"
        " reference (x [2, 3] float16, scale=0.5): RuntimeError: PassManager::run failed",
    ]
    run(x=torch.zeros(1), scale=0.5)
    assert calls == ["reference", "reference"]


def test_other_errors_are_raised() -> None:
    run = guarded("here", [("triton", lambda: failing(ValueError("no"))), ("reference", lambda: failing(KeyError()))])
    with pytest.raises(ValueError, match="no"):
        run(x=1, scale=1.0)
