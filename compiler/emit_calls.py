"""Prints the calls of a program: the last function of an emitted module. Instances in a row are a loop."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from .emitted_names import Names
from .ir import Call
from .lowered import Module, identifier

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")


def emit_calls(module: Module, names: Names) -> list[str]:
    """The lines of `program()`."""
    return _Calls(module, names).lines()


class _Calls:
    def __init__(self, module: Module, names: Names) -> None:
        self.module, self.names = module, names
        self.variables: dict[str, str] = {}
        self.readers: dict[str, list[int]] = {}
        for index, call in enumerate(module.calls):
            for value in call.inputs.values():
                for name in value if isinstance(value, tuple) else (value,):
                    self.readers.setdefault(name, []).append(index)
        for name in module.outputs.values():
            self.readers.setdefault(name, []).append(len(module.calls))

    def lines(self) -> list[str]:
        inputs = [port.name for port in self.module.model.inputs]
        for name in inputs:
            self.variables[name] = self.names.new(name)
        ambient = sorted({name for lowered in self.module.definitions.values() for name in lowered.ambient})
        self.ambient = {name: self.names.new(name) for name in ambient}
        signature = ", ".join([*(self.variables[name] for name in inputs), *self.ambient.values(), "bound"])
        lines = [
            f"def program({signature}):",
            '    """All calls in order. `bound(prefix)` gives an instance its parameters, states and scalars."""',
        ]
        start = 0
        for end in self._runs():
            run = self.module.calls[start:end]
            lines += self._loop(run) if len(run) > 1 else [f"    {self._call(run[0])}"]
            start = end
        outputs = ", ".join(f"{name!r}: {self.variables[value]}" for name, value in self.module.outputs.items())
        return [*lines, f"    return {{{outputs}}}"]

    def _runs(self) -> Iterator[int]:
        """Where each run ends: calls whose prefixes differ in a number, each reading what the one before gives."""
        calls = self.module.calls
        end = 0
        while end < len(calls):
            start, end = end, end + 1
            while end < len(calls) and self._continues(calls[start:end], end):
                end += 1
            while end - start > 1 and not self._is_closed(start, end):
                end -= 1
            yield end

    def _continues(self, run: Sequence[Call], index: int) -> bool:
        first, last, call = run[0], run[-1], self.module.calls[index]
        if call.definition != first.definition or call.rate != first.rate or _pattern([*run, call]) is None:
            return False
        for port, value in call.inputs.items():
            if value == first.inputs[port] == last.inputs[port]:
                continue
            carried = next((out for out, name in last.outputs.items() if name == value), None)
            if carried is None:
                return False
            if len(run) > 1 and _carried(run[0], run[1]).get(port) != carried:
                return False
        return True

    def _is_closed(self, start: int, end: int) -> bool:
        """Whether what the run computes is read by the next instance, or after the run from the last one."""
        return all(
            reader == index + 1
            for index in range(start, end - 1)
            for value in self.module.calls[index].outputs.values()
            for reader in self.readers.get(value, [])
        )

    def _loop(self, run: Sequence[Call]) -> list[str]:
        carried = _carried(run[0], run[1])
        lines: list[str] = []
        variables: dict[str, str] = {}
        for port, out in carried.items():
            value = run[0].inputs[port]
            assert isinstance(value, str)
            variables[out] = self.names.new(f"{run[0].definition}_{port}")
            lines.append(f"    {variables[out]} = {self.variables[value]}")
        given = {p: variables[carried[p]] if p in carried else self._read(v) for p, v in run[0].inputs.items()}
        results = [variables[out] if out in variables else self._result(run[-1], out) for out in run[0].outputs]
        for out, variable in zip(run[0].outputs, results, strict=True):
            self.variables[run[-1].outputs[out]] = variable
        pattern = _pattern(run)
        assert pattern is not None
        prefix, numbers = pattern
        step = numbers[1] - numbers[0]
        bounds = [numbers[0], numbers[-1] + step, step] if step > 1 else [numbers[0], numbers[-1] + 1]
        span = f"range({', '.join(map(str, bounds if any(bounds[:1] + bounds[2:]) else bounds[1:]))})"
        lines.append(f"    for i in {span}:")
        lines.append(f"        {_assign(results)}{self._application(run[0], given, f'f{prefix!r}')}")
        return lines

    def _call(self, call: Call) -> str:
        given = {port: self._read(value) for port, value in call.inputs.items()}
        results = [self._result(call, out) for out in call.outputs]
        for out, variable in zip(call.outputs, results, strict=True):
            self.variables[call.outputs[out]] = variable
        return f"{_assign(results)}{self._application(call, given, repr(call.binding.prefix))}"

    def _result(self, call: Call, out: str) -> str:
        return self.names.new(f"{call.binding.prefix}_{out}" if call.binding.prefix else out)

    def _read(self, value: str | tuple[str, ...]) -> str:
        if isinstance(value, tuple):
            return f"[{', '.join(self.variables[name] for name in value)}]"
        return self.variables[value]

    def _application(self, call: Call, given: dict[str, str], prefix: str) -> str:
        lowered = self.module.definitions[call.definition]
        operands = [*(given[name] for name in lowered.inputs), *(self.ambient[name] for name in lowered.ambient)]
        return f"{identifier(call.definition)}({', '.join([*operands, f'**bound({prefix})'])})"


def _assign(results: Sequence[str]) -> str:
    """What stands before a call; nothing where it only changes states."""
    return f"{', '.join(results)} = " if results else ""


def _carried(first: Call, second: Call) -> dict[str, str]:
    """Input port -> the output port of the instance before that feeds it."""
    produced = {name: out for out, name in first.outputs.items()}
    return {
        port: produced[value] for port, value in second.inputs.items() if isinstance(value, str) and value in produced
    }


def _pattern(calls: Sequence[Call]) -> tuple[str, list[int]] | None:
    """`model.layers.{i}` and the numbers, where the prefixes differ in one number that grows evenly."""
    prefixes = [call.binding.prefix for call in calls]
    first = [match.span() for match in _NUMBER.finditer(prefixes[0])]
    for start, end in reversed(first):
        head, tail = prefixes[0][:start], prefixes[0][end:]
        numbers: list[int] = []
        for prefix in prefixes:
            middle = prefix[len(head) : len(prefix) - len(tail)] if tail else prefix[len(head) :]
            if not prefix.startswith(head) or not prefix.endswith(tail) or not re.fullmatch("[0-9]+", middle):
                break
            numbers.append(int(middle))
        if len(numbers) == len(prefixes):
            steps = {after - before for before, after in itertools.pairwise(numbers)}
            if len(steps) <= 1 and steps != {0} and "{" not in head + tail and all(step > 0 for step in steps):
                return f"{head}{{i}}{tail}", numbers
    return None
