"""What a kernel in C is: an emitter of one op's code, the sources that it calls, and the reason why it cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..kernel import Request, resolve
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
    serves: str = "native.kernel:serves_all"

    @property
    def sources(self) -> tuple[str, ...]:
        """The C files of the headers."""
        found: list[Path] = []
        for header in self.headers:
            path = KERNELS / header
            found += sorted(path.parent.glob("*.c")) if path.parent.name == "native" else [path.with_suffix(".c")]
        return tuple(dict.fromkeys(path.relative_to(KERNELS).as_posix() for path in found if path.is_file()))

    def emit(self, node: NativeNode) -> None:
        """Write the node's code."""
        cast("Callable[[NativeNode], None]", resolve(self.emitter))(node)

    def refusal(self, request: Request) -> str | None:
        """None where the kernel serves the request, else why not."""
        return cast("str | None", resolve(self.serves)(request))


def serves_all(_request: Request) -> str | None:
    """The verdict of kernels that have no limits."""
    return None
