"""Layer norm fused with the residual add before it."""

from __future__ import annotations

from .layer_norm import LAYER_NORM
from .normalised import with_residual_add

ADD_LAYER_NORM = with_residual_add(LAYER_NORM)
