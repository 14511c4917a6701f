"""A root of modules that has no children and no parameters until somebody looks for them.

Torch keeps both in two dicts of the instance. Until the tree is grown they are not there, so whatever asks for them
(parameters, children, a layer by its name, a copy) comes to `__getattr__`, which grows it first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

_TREE = ("_modules", "_parameters")


class LateTree(nn.Module):
    """A module whose tree can be put off."""

    def put_off(self, grow: Callable[[], None]) -> None:
        """Let `grow` add the children and parameters when they are first asked for. There are none yet."""
        assert not any(self.__dict__.pop(name) for name in _TREE)
        self.__dict__["_grow"] = grow

    @property
    def is_put_off(self) -> bool:
        """Whether nobody has asked for the tree so far."""
        return "_grow" in self.__dict__

    def _grow_now(self) -> None:
        grow: Callable[[], None] = self.__dict__.pop("_grow")
        self.__dict__ |= {name: {} for name in _TREE}
        try:
            grow()
        except BaseException:
            self.__dict__ |= {name: {} for name in _TREE}
            self.put_off(grow)
            raise
        self.train(self.training)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if self.is_put_off:
            self._grow_now()
            found: Tensor | nn.Module = getattr(self, name)
            return found
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: object) -> None:
        if self.is_put_off and name not in self.__dict__ and not hasattr(type(self), name):
            self._grow_now()
        super().__setattr__(name, value)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        if self.is_put_off:
            self._grow_now()
        return super().__getstate__()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if self.is_put_off:
            self._grow_now()
        super().register_parameter(name, param)

    def train(self, mode: bool = True) -> Self:
        if self.is_put_off:
            self.training = mode
            return self
        return super().train(mode)
