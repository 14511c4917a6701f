"""Triton's interpreter without its greatest cost: it patches its language anew at every call inside a kernel.

A launch patches `triton.language` and undoes that after it; each function that the kernel calls, `tl.sum` and
`tl.zeros` among them, patches it again, a thousand attributes at a time. Here what has been patched stays so, which
changes nothing for kernels, since interpreted ones are all that a process of tests runs.
"""

# pyright: basic
from __future__ import annotations

import sys
from inspect import ismodule


def patch_once() -> None:
    """From now on, where Triton has been imported and its interpreter has the functions that this stands for."""
    if "triton" not in sys.modules:
        return
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):
        return
    patch, patched = interpreter._patch_lang, set[frozenset[str]]()

    def patch_unless_patched(function: object) -> object:
        seen = frozenset(x.__name__ for x in function.__globals__.values() if ismodule(x))  # type: ignore[attr-defined]
        seen &= {"triton.language", "triton.language.core"}
        if seen not in patched:
            patch(function)
            patched.add(seen)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch_unless_patched
