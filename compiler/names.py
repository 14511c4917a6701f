"""Which names a spec may use: dot-separated identifiers that can safely become module paths and generated source."""

from __future__ import annotations

import keyword
import re

from ..specs.diagnostics import Diagnostic, quoted
from ..specs.source import Span

MAX_LENGTH = 64
MAX_PATH_LENGTH = 256
"""Of a whole path in the model, e.g. that of a share."""

_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PATH_PART = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]{1,6})\Z")

_RESERVED_WORDS = (
    "T_destination add_module append apply bfloat16 buffers call_super_init children compile cpu cuda double "
    "dump_patches eval extend extra_repr float forward get_buffer get_extra_state get_parameter get_submodule "
    "half insert ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters "
    "parameters pop register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
    "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
    "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
    "register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to "
    "to_empty train training type xpu zero_grad "
    # of llmc's own modules
    "cache_dtype check_ids default_inputs device dtype executor facts folder_decoder_start_id folder_eos_ids "
    "folder_repetition_penalty generate graph is_put_off keep_keys_as layout lease_cache lookup loss max_seq_len "
    "named_owned_parameters new_cache pack packed_executor program put_off quantize retie run_program save scalars "
    "source tokenizer"
)
RESERVED = frozenset(_RESERVED_WORDS.split())
"""Names that a path may not use as a part: they are attributes of torch's modules, or of llmc's."""

AMBIENT_NAMES = frozenset(("position", "lengths", "attention_mask", "block_table"))
"""Tensors that every block can read by name."""

LAYER_NAMES = frozenset(("layer", "num_layers", "use"))
"""Names that a repeat gives to expressions."""


def check_name(name: str, what: str, span: Span, *, is_path: bool, max_length: int = MAX_LENGTH) -> Diagnostic | None:
    """What is wrong with the name of a node (`is_path`: dots and digit parts allowed), a block, a port or a param."""
    reason = _reason(name, is_path=is_path, max_length=max_length)
    if reason is None:
        return None
    shape = "dot-separated words of letters, digits and _" if is_path else "a word of letters, digits and _"
    return Diagnostic(
        code="E0301",
        message=f"{what} cannot be named {quoted(name, MAX_LENGTH + 6)}: {reason}",
        span=span,
        help=f"use {shape}, at most {max_length} characters",
    )


def _reason(name: str, *, is_path: bool, max_length: int) -> str | None:
    if len(name) > max_length:
        return f"it has {len(name)} characters"
    pattern = _PATH_PART if is_path else _PART
    parts = name.split(".") if is_path else [name]
    for part in parts:
        if not pattern.match(part):
            return (
                f"{quoted(part)} is not an identifier" if part else "a part is empty" if "." in name else "it is empty"
            )
        if keyword.iskeyword(part):
            return f"{part!r} is a Python keyword"
        if part.startswith("__"):
            return f"{part!r} begins with two underscores"
        if is_path and part in RESERVED:
            return f"{part!r} is an attribute of modules"
    if parts[0].isdigit():
        return "it begins with a digit"
    return None
