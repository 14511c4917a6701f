"""Whether a long prompt may run in pieces, each continuing the states that the one before it left."""

from __future__ import annotations

from .lowered import Module

_BACKWARD = frozenset(
    {
        "scan",
        "short_conv",
        "token_shift",
        "kv_full_append",
        "kv_window_append",
        "kv_latent_append",
        "rope_kv_full_append",
        "rope_kv_window_append",
        "attend_cached",
        "append_attend",
        "latent_attend_cached",
        "shared_keys",
        "attend_shared",
    }
)
"""Ops that read tokens before their own, and those through a state alone."""
_BY_LENGTH = ("dynamic", "longrope")
"""Scalings of RoPE by how long a row is after the call."""


def refuse_pieces(module: Module) -> str | None:
    """Why a prompt must run as a whole; None where pieces give the same."""
    for lowered in module.definitions.values():
        for node, site in lowered.sites():
            if not site.op.is_tokenwise and site.op.name not in _BACKWARD:
                return f"{site.path}: {site.op.name} reads all tokens of a call"
            if node.kwargs.get("mask", "causal") != "causal":
                return f"{site.path} reads tokens after its own"
            if node.kwargs.get("scaling") in _BY_LENGTH:
                return f"{site.path} depends on the length of the call"
    return None
