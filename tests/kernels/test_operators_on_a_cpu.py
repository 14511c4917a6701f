"""Where Triton does not interpret, an operator on CPU tensors is its reference, gradients included."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

CHILD = """
import torch
from llmc.kernels.attention import reference, triton_attention
from llmc.kernels.moe import reference as moe, triton_experts, triton_router
from llmc.kernels.norm import reference as norm, triton_rms_norm
from llmc.kernels.scan import reference as scan, triton_delta

x = [torch.randn(2, 5, n, requires_grad=True) for n in (32, 16, 16)]
grad, at = torch.randn(2, 5, 32), torch.arange(5).expand(2, 5)
weight = torch.randn(32, requires_grad=True)
each, of_routers = torch.randn(4, 32, requires_grad=True), torch.randn(2, 5, 2)
up, down, shares = (torch.randn(s, requires_grad=True) for s in ((4, 6, 32), (4, 32, 6), (2, 5, 2)))
mixture = dict(x=x[0], weights=shares, experts=torch.randint(0, 3, (2, 5, 2)), up_proj=up, down_proj=down)
v, k, decay, beta, dt, skip = (torch.rand(2, 5, n) for n in (24, 8, 4, 4, 4, 4))
written = {"v": v, "k": k, "q": k + 0.1, "decay": -decay, "beta": beta, "dt": dt, "skip": skip[0, 0].clone()}
for value in written.values():
    value.requires_grad_()
law = {"key_dim": 4, "value_dim": 6, "update": "delta", "decay_per": "token_head", "position": at}
for inputs, grad, ours, exact in (
    (x, grad, *(m.attention(q=x[0], k=x[1], v=x[2], position=at, head_dim=8) for m in (triton_attention, reference))),
    ((x[0], weight), grad, *(m.rms_norm(x=x[0], weight=weight, eps=1e-6) for m in (triton_rms_norm, norm))),
    ((x[0], shares, up, down), grad, *(m.experts(**mixture) for m in (triton_experts, moe))),
    ((x[0], each), of_routers, *(m.router(x=x[0], weight=each, top_k=2)[0] for m in (triton_router, moe))),
    (list(written.values()), grad[..., :24], *(m.scan(**written, **law) for m in (triton_delta, scan))),
):
    torch.testing.assert_close(ours, exact)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(exact, inputs, grad))


class Scan(torch.nn.Module):
    def forward(self, v, k, at, decay, beta):
        return triton_delta.scan(**law | {"position": at}, v=v, k=k, q=k, decay=decay, beta=beta)


def given(n):
    return torch.rand(2, n, 24), torch.rand(2, n, 8), torch.arange(n).expand(2, n), *torch.rand(2, 2, n, 4)


lengths = ({1: torch.export.Dim("tokens", min=2, max=4096)},) * 5
exported = torch.export.export(Scan(), given(9), dynamic_shapes=lengths, strict=False).module()
for long in (given(5), given(130)):
    torch.testing.assert_close(exported(*long), Scan()(*long))
"""


@pytest.mark.slow
def test_values_and_gradients_are_the_references() -> None:
    """And a scan is exported for every length, though how it is cut depends on that."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
