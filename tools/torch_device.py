"""Whether the device that was asked for is there."""

from __future__ import annotations

from ..specs.diagnostics import fail


def require_device(device: str) -> None:
    """Raises E0902 for a GPU that torch does not see."""
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise fail(
            "E0902", f"--device {device}: torch {torch.__version__} sees no GPU here", help="run with --device cpu"
        )
    if ":sm_" in device:
        raise fail("E0902", f"--device {device} names an architecture, not a device", help="run with --device cuda")
