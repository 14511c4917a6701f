"""`generation: {unmasking: …}` belongs to a model that reads its whole text at each pass."""

from __future__ import annotations

from ..specs.diagnostics import fail
from .ir import Model
from .plan import model_states
from .spec import Spec


def check_unmasking(spec: Spec, model: Model) -> None:
    """Raises E0810 where the spec asks for unmasking and a node keeps a state, and so sees earlier tokens only."""
    section = None if spec.generation is None else spec.generation.get("unmasking")
    states = model_states(model)
    if section is not None and states:
        path, state = states[0]
        raise fail(
            "E0810",
            f"unmasking needs a model whose tokens all see each other, but {path} keeps the state {state.kind!r}",
            span=section.span,
            help="write mask: bidirectional at every attention node, and use no scan or short_conv",
        )
