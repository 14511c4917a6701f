"""The King James Bible as running prose: from Debian's `bible-kjv`, or from a file of the same form.

The text is the translation of 1611 in Debian's package `bible-kjv-text`, whose copyright has expired.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import which

PROGRAM = "bible"
DATA = Path("/usr/lib/bible.data")
WHOLE = "gen1:1-rev22:21"
HELD_OUT = ("Acts", "Rom")
VERSE = re.compile(r"(?P<book>[123]?[A-Za-z]+)(?P<chapter>\d+):\d+ (?P<text>.+)")
REMEDY = "`apt-get install bible-kjv bible-kjv-text` brings it, or give --text FILE"


class TextError(Exception):
    """There is no text to train on; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents of running prose without line breaks; `held_out` is one stretch of the source, not in `training`."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


def read_king_james() -> str:
    """Debian's text, one verse per line (`Ge1:1 In the beginning …`). Raises TextError where a package is missing."""
    if which(PROGRAM) is None:
        raise TextError(f"the program {PROGRAM!r} of Debian's bible-kjv is not installed; {REMEDY}")
    if not DATA.is_file():
        raise TextError(f"{DATA} of Debian's bible-kjv-text is not there; {REMEDY}")
    command = [PROGRAM, "-f", "-l10000", "-p", str(DATA.parent), WHOLE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    text = done.stdout.decode("ascii", errors="replace")
    if done.returncode != 0 or len(text) < 4_000_000:
        problem = done.stderr.decode(errors="replace").strip() or f"{len(text)} characters came out"
        raise TextError(f"`{' '.join(command)}` did not print the whole text: {problem}")
    return text


def chapters(text: str) -> dict[tuple[str, int], str]:
    """The verses of each (book, chapter), in order, as one paragraph. Raises TextError for a line that is no verse."""
    verses: dict[tuple[str, int], list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = VERSE.fullmatch(line.strip())
        if match is None:
            raise TextError(f"line {number} is not a verse like `Ge1:1 In the beginning …`: {line[:60]!r}")
        verses.setdefault((match["book"], int(match["chapter"])), []).append(match["text"])
    return {place: prose(lines) for place, lines in verses.items()}


def prose(lines: Iterable[str]) -> str:
    """One paragraph with single spaces."""
    return " ".join(" ".join(lines).split())


def split_chapters(text: str, held_out: tuple[str, ...] = HELD_OUT) -> Corpus:
    """Acts and Romans are held out, 4.4 % of the text: a narrative and a letter that no other book repeats."""
    all_chapters = chapters(text)
    books = {book for book, _ in all_chapters}
    if missing := set(held_out) - books:
        raise TextError(f"the text has no book {sorted(missing)}; {REMEDY}")
    return Corpus(
        training=tuple(text for (book, _), text in all_chapters.items() if book not in held_out),
        held_out=tuple(text for (book, _), text in all_chapters.items() if book in held_out),
    )


def split_paragraphs(text: str) -> Corpus:
    """Any other text: paragraphs between blank lines; those that begin in the last twentieth are held out."""
    paragraphs = [prose([block]) for block in re.split(r"\n\s*\n", text) if block.strip()]
    total, seen, training = sum(map(len, paragraphs)), 0, 0
    for paragraph in paragraphs:
        if seen >= 0.95 * total:
            break
        seen, training = seen + len(paragraph), training + 1
    corpus = Corpus(training=tuple(paragraphs[:training]), held_out=tuple(paragraphs[training:]))
    if not corpus.training or not corpus.held_out:
        raise TextError("the text has too few paragraphs (between blank lines) to hold some out")
    return corpus


def read_corpus(file: Path | None) -> Corpus:
    """Debian's text, or `file`: the same verse lines, or any text in paragraphs. Raises TextError."""
    if file is None:
        return split_chapters(read_king_james())
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{file} cannot be read as text: {error}") from None
    first = text.lstrip().splitlines()[:1]
    return split_chapters(text) if first and VERSE.fullmatch(first[0].strip()) else split_paragraphs(text)
