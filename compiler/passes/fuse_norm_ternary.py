"""Takes an RMS norm into the ternary projection that alone reads it: for GPUs, where it is rounded in the same launch.

rewrite: n, s = add_rms_norm(d, r); y = ternary_projection(n)  ->  y, s = add_rms_norm_ternary_projection(d, r)
rewrite: n = rms_norm(x); y = ternary_linear(n)                ->  y = rms_norm_ternary_projection(x)
"""

from __future__ import annotations

from ..lowered import Module
from ..ops.add_rms_norm_ternary_projection import ADD_RMS_NORM_TERNARY_PROJECTION
from ..ops.rms_norm_ternary_projection import RMS_NORM_TERNARY_PROJECTION
from .fuse_norm_linear import take_norm

FUSED = {"rms_norm": RMS_NORM_TERNARY_PROJECTION, "add_rms_norm": ADD_RMS_NORM_TERNARY_PROJECTION}


def fuse_norm_ternary(module: Module) -> int:
    """Returns the number of norms taken in."""
    count = 0
    for lowered in module.definitions.values():
        for node, site in lowered.sites():
            if site.op.name in ("ternary_linear", "ternary_projection"):
                count += take_norm(lowered, node, FUSED)
    return count
