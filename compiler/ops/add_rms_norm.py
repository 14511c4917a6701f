"""RMS norm fused with the residual add before it."""

from __future__ import annotations

from .normalised import with_residual_add
from .rms_norm import RMS_NORM

ADD_RMS_NORM = with_residual_add(RMS_NORM)
