"""Launch parameters of kernels: a rule for each, bettered by what was measured on a GPU, never during a request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias, cast

Config: TypeAlias = Mapping[str, int]
"""Block sizes by their names in the kernel, and `num_warps` and `num_stages`."""
Key: TypeAlias = Mapping[str, int | str]
"""What the best configuration depends on: sizes in buckets, dtypes, flags."""

SHIPPED = Path(__file__).parent / "tuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """One kernel's configurations. `space` is the bounded set that tuning tries; `rule` guesses without measuring."""

    name: str
    rule: Callable[[Key], Config]
    space: Callable[[Key], tuple[Config, ...]]

    def config(self, key: Key) -> Config:
        """What was measured for this key on this GPU, else the rule's guess."""
        if _asked is not None:
            _asked[self.entry(key)] = (self, key)
        return _forced.get(self.name) or measured().get(self.entry(key)) or self.rule(key)

    def entry(self, key: Key) -> str:
        """The key's name in a table: `attention_forward(dtype=bfloat16,head_dim=128)`."""
        return f"{self.name}({written(key)})"


Asked: TypeAlias = "dict[str, tuple[Tunable, Key]]"
_forced: dict[str, Config] = {}
_asked: Asked | None = None


@contextmanager
def recorded() -> Generator[Asked, None, None]:
    """Gives a table that fills with every configuration that is asked for while the block runs."""
    global _asked
    _asked = found = dict[str, "tuple[Tunable, Key]"]()
    try:
        yield found
    finally:
        _asked = None


@contextmanager
def forced(name: str, config: Config) -> Generator[None, None, None]:
    """While the block runs, the kernel uses this configuration: for the tuner and for tests."""
    _forced[name] = config
    try:
        yield
    finally:
        del _forced[name]


def written(key: Key) -> str:
    """A key as tables hold it: `dtype=bfloat16,head_dim=128`."""
    return ",".join(f"{name}={value}" for name, value in sorted(key.items()))


def gpu_name() -> str | None:
    """The GPU as tables are named for it: `nvidia_h200`; None where there is none."""
    import torch

    return torch.cuda.get_device_name().lower().replace(" ", "_") if torch.cuda.is_available() else None


def user_table(gpu: str) -> Path:
    """Where the tuner of this machine writes: in llmc's cache folder, as all that can be made again."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "llmc" / "tuned" / f"{gpu}.json"


@cache
def measured() -> Mapping[str, Config]:
    """What was tuned on this GPU: the table that llmc ships, and over it that of this machine. Read once."""
    gpu = gpu_name()
    if gpu is None:
        return {}
    tables = [read_table(path) for path in (SHIPPED / f"{gpu}.json", user_table(gpu))]
    return {entry: config for table in tables for entry, config in table.items()}


def read_table(path: Path) -> Mapping[str, Config]:
    """A table, empty where the file is absent or is none: a damaged cache only costs speed."""
    try:
        found = cast("object", json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
    return cast("Mapping[str, Config]", found) if isinstance(found, dict) else {}
