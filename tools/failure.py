"""How a command ends when something is wrong: a message a user can act on, and an exit status. Never a traceback."""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import suppress

from ..specs.codes import exit_status
from ..specs.diagnostics import LlmcError, printable
from ..specs.render import render, to_json
from .terminal import use_color

INTERRUPTED = 130


def report(error: BaseException, *, as_json: bool) -> int:
    """Say on stderr (as JSON: on stdout) what is wrong, and return the exit status."""
    with suppress(BrokenPipeError):
        return _report(error, as_json)
    return 0


def _report(error: BaseException, as_json: bool) -> int:
    match error:
        case LlmcError():
            if as_json:
                print(json.dumps({"diagnostics": to_json(error.diagnostics)}, indent=1))
            else:
                sys.stderr.write(render(error.diagnostics, color=use_color(sys.stderr)))
            return exit_status(d.code for d in error.diagnostics)
        case KeyboardInterrupt():
            sys.stderr.write("\ninterrupted\n")
            return INTERRUPTED
        case BrokenPipeError():
            _forget_stdout()
            return 0
        case _:
            return _unforeseen(error, as_json)


def _unforeseen(error: BaseException, as_json: bool) -> int:
    """What is no diagnostic: missing packages, a full memory or disk, and our own mistakes."""
    text = printable(str(error).strip().split("\n")[0][:300])
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return _say(4, f"out of memory{': ' + text if text else ''}", as_json)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("llmc"):
        return _say(3, f'the Python package "{error.name}" is missing; pip install llmc brings it', as_json)
    if isinstance(error, OSError):
        return _say(4 if error.errno in (12, 28, 122) else 1, text, as_json)
    if os.environ.get("LLMC_TRACEBACK"):
        traceback.print_exception(error)
    where = "LLMC_TRACEBACK=1 shows where; please report it"
    return _say(1, f"this is a bug in llmc: {type(error).__name__}: {text} ({where})", as_json)


def _say(status: int, message: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": message}))
    else:
        sys.stderr.write(f"error: {message}\n")
    return status


def _forget_stdout() -> None:
    """The reader has gone: what is still buffered must not complain when Python ends."""
    with suppress(Exception):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
