"""What a kernel in C is: an emitter of one op's code, and the sources that it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..kernel import resolve
from .node import NativeNode

KERNELS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeKernel:
    """The code of `op`. Functions are named for `resolve`, headers by path under `kernels/`."""

    op: str
    emitter: str
    headers: tuple[str, ...] = ()
    """What the code includes. The functions of `x.h` are in `x.c` beside it; those of a header in a folder `native`
    are in all C files of that folder."""
    implied: tuple[str, ...] = ()
    """Operands that the emitter need not look at. Any other that it leaves out makes the node one for torch."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The C files of the headers."""
        found: list[Path] = []
        for header in self.headers:
            path = KERNELS / header
            found += sorted(path.parent.glob("*.c")) if path.parent.name == "native" else [path.with_suffix(".c")]
        return tuple(dict.fromkeys(path.relative_to(KERNELS).as_posix() for path in found if path.is_file()))

    def emit(self, node: NativeNode) -> None:
        """Write the node's code. Raises NotNative with the reason where it cannot."""
        cast("Callable[[NativeNode], None]", resolve(self.emitter))(node)
