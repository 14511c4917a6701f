"""The error of packed weights on a text: `python -P -m llmc.tools.bench.quantisation [FOLDER] [--help]`.

Compares every format with the float32 model on windows of the text: mean KL of the next token in nats, how often both
find the same token likeliest, and perplexity before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ...compiler.native.formats import QUANTIZE
from ...runtime.load import load
from ...runtime.quantisation_error import QuantisationError, quantisation_error, windows
from ...specs.packaged import packaged_folder


def measure(folder: Path, text: str, formats: list[str], *, size: int, most: int) -> dict[str, QuantisationError]:
    """By format; `size` tokens a window, at most `most` windows. Raises LlmcError as `load` does."""
    reference = load(folder, dtype="float32")
    if reference.tokenizer is None:
        sys.exit(f"{folder} has no tokenizer.json to read a text with")
    tokens = windows(reference.tokenizer.encode(text), size, most)
    return {
        name: quantisation_error(reference, load(folder, dtype="float32", quantize=name), tokens) for name in formats
    }


def show(found: dict[str, QuantisationError]) -> None:
    """Prints the table in Markdown."""
    print("| format | KL, nats | top-1 agreement | perplexity before | after | change | positions |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, error in found.items():
        cells = (
            f"{error.divergence:.2e}",
            f"{error.agreement:.2%}",
            f"{error.before:.4f}",
            f"{error.after:.4f}",
            f"{error.after / error.before - 1:+.2%}",
            error.positions,
        )
        print(f"| {name} | {' | '.join(map(str, cells))} |")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="weights and tokenizer; default: the model that ships")
    parser.add_argument("--text", type=Path, help="default: the held-out text of the model that ships")
    parser.add_argument("--formats", nargs="+", choices=QUANTIZE, default=list(QUANTIZE))
    parser.add_argument("--window", type=int, default=256, help="tokens")
    parser.add_argument("--windows", type=int, default=16, help="at most so many")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shipped = packaged_folder() / "models" / "small"
    text = (options.text or shipped / "heldout.txt").read_text(encoding="utf-8")
    found = measure(options.folder or shipped, text, options.formats, size=options.window, most=options.windows)
    if options.json:
        print(json.dumps({name: asdict(error) for name, error in found.items()}, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    main()
