"""What is known about one kind of mistake: its title, its long text with two examples, its exit status."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of mistake. `explanation` is what `llmc explain E0203` prints."""

    title: str
    explanation: str
    exit_status: int = 1


def code(title: str, why: str, *, wrong: str, right: str, exit_status: int = 1) -> Code:
    """A code whose long text ends in a wrong and a right example."""
    examples = f"Wrong:\n{indent(wrong, '    ')}\n\nRight:\n{indent(right, '    ')}\n"
    return Code(title, f"{why}\n\n{examples}", exit_status)
