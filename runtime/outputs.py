"""What a call of a model gives: one tensor, or an object with the outputs' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


class Outputs(Mapping[str, Tensor]):
    """Several outputs, read as attributes (`out.pooled_output`) or by key."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"this model gives {', '.join(self.__dict__['_values'])}, not {name!r}") from None

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Outputs({', '.join(f'{name}={list(value.shape)}' for name, value in self._values.items())})"


def unwrap(values: Mapping[str, Tensor]) -> Tensor | Outputs:
    """The only output itself, else all of them by name."""
    return next(iter(values.values())) if len(values) == 1 else Outputs(values)
