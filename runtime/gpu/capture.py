"""One step of work, recorded once as a CUDA graph and then replayed with a single launch."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UPS = 2
"""Runs before recording: kernels are compiled, libraries make their handles and workspaces."""


def capture(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What repeats `step`, which touches only tensors that live as long as the result and reads nothing on the host.

    The step runs a few times before it is recorded, so it must be harmless when it is called. On a CPU there is
    nothing to record and the step itself is returned. Raises RuntimeError where the step cannot be recorded.
    """
    if device.type != "cuda":
        return step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
