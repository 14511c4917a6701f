"""The C compiler of this machine: which one it is, for which processor it compiles, and one call of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from ...kernels.native.kernel import KERNELS
from ..user_cache import identity, known

FLAGS = ("-std=gnu11", "-O2", "-march=native", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-pthread")


class NoCompiler(Exception):
    """Why nothing can be compiled here, in one line."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """An executable that takes the options of cc, and its version as it prints it."""

    path: str
    version: str

    def run(self, arguments: Sequence[str], folder: Path) -> None:
        """One call with `folder` as its working directory. Raises NoCompiler with what it said."""
        command = [
            self.path,
            *FLAGS,
            f"-ffile-prefix-map={KERNELS}=kernels",
            f"-ffile-prefix-map={folder}=.",
            *arguments,
        ]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoCompiler(f"{self.path} could not be run: {error}") from error
        if done.returncode:
            raise NoCompiler(f"{self.path} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")


@cache
def find_compiler(named: str | None = None) -> Compiler:
    """`$CC`, else cc, gcc or clang. Raises NoCompiler where there is none."""
    wanted = (named,) if named else ("cc", "gcc", "clang")
    for name in wanted:
        path = shutil.which(name)
        if path is None:
            continue
        version = known("compiler", identity([Path(path)]), partial(_version, path))
        if version:
            return Compiler(path, version)
    raise NoCompiler(f"there is no C compiler here (looked for {', '.join(wanted)})")


def _version(path: str) -> str:
    """The first line of what it says of itself; nothing where it does not run."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()[:1] or [Path(path).name]
    return said[0] if done.returncode == 0 else ""


def compiler() -> Compiler:
    """The compiler to use now."""
    return find_compiler(os.environ.get("CC"))


@cache
def processor() -> str:
    """What `-march=native` depends on: the architecture and the features of the processor, as a hash."""
    features = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            kept = ("flags", "Features", "model name", "vendor_id", "cpu family", "model", "CPU part")
            lines = [line.strip() for line in file if line.split(":")[0].strip() in kept]
        features = "\n".join(dict.fromkeys(lines))
    except OSError:
        import platform

        features = platform.processor()
    return hashlib.sha256(f"{os.uname().machine}\n{features}".encode()).hexdigest()
