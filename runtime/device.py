"""Whether the device that was asked for is there."""

from __future__ import annotations

import torch

from ..specs.diagnostics import fail, quoted


def require_device(device: str) -> None:
    """Raises E0902 for a GPU that torch does not see, or a device that it has no name for."""
    if device == "cpu":
        return
    if not device.startswith("cuda"):
        raise fail("E0902", f"there is no device {quoted(device)}", help="take device cpu or cuda")
    if not torch.cuda.is_available():
        raise fail("E0902", f"device {device}: torch {torch.__version__} sees no GPU here", help="take device cpu")
    if ":sm_" in device:
        raise fail("E0902", f"device {device} names an architecture, not a device", help="take device cuda")
