"""What a transformers model computes on given tokens: the input and output of each of its modules, by path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..specs.diagnostics import fail
from .containment import inside, read_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """One module of the reference: its first tensor argument, and its (first) output."""

    input: Tensor | None
    output: Tensor


def reference_trace(folder: Path, tokens: Tensor, prompt: Tensor | None = None) -> dict[str, Meeting]:
    """Run the folder's model in float32 on `tokens [B, T]`; modules that run more than once are left out.

    Where a `prompt [B, S]` is given, its encoder reads that, and its decoder the tokens.

    Raises E0903 where transformers is not installed, E0715 where it does not know the architecture.
    """
    model = _load(folder)
    found: dict[str, Meeting] = {}
    repeated: set[str] = set()

    def note(path: str) -> Any:
        def hook(_module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], output: object) -> None:
            if path in found:
                repeated.add(path)
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            first = next(iter(cast("tuple[object, ...]", output))) if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                found[path] = Meeting(input=None if given is None else given.detach(), output=first.detach().clone())

        return hook

    for path, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules()):
        if path:
            module.register_forward_hook(note(path), with_kwargs=True)  # pyright: ignore[reportUnknownMemberType]
    with torch.no_grad():
        if prompt is None:
            model(tokens)
        else:
            model(input_ids=prompt, decoder_input_ids=tokens)
    return {path: meeting for path, meeting in found.items() if path not in repeated}


def _load(folder: Path) -> nn.Module:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise fail(
            "E0903", "verify compares with transformers, which is not installed", help="pip install 'llmc[test]'"
        ) from error
    listed = read_json_object(inside(folder, "config.json"), 4 << 20).get("architectures")
    names = cast("list[object]", listed) if isinstance(listed, list) else []
    kind = cast("Any", getattr(transformers, str(names[0]), None)) if names else None
    if kind is None:
        raise fail("E0715", f"transformers {transformers.__version__} has no {names[0] if names else 'architecture'}")
    model = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False
    )
    return cast("nn.Module", model.eval())
