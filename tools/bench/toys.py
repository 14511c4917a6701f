"""Generation with models so small that everything but arithmetic counts: `python -P -m llmc.tools.bench.toys [--help]`.

Every line is whole calls of `generate`, from token ids to the last token, greedy unless --temperature says otherwise,
until the context is full. LiteTorch (NumPy) made 490 to 522 tokens a second with the same two models.
"""

from __future__ import annotations

import argparse
import statistics
import time

from ...runtime.load import load
from ...runtime.model import LanguageModel

MODELS = ("litetorch_gpt_tiny", "litetorch_gpt_small")
LITETORCH = 522
"""Tokens per second, the better of its two figures."""
PROMPT = [1, 2, 3, 4]


def seconds(model: LanguageModel, tokens: int, temperature: float) -> tuple[float, float]:
    """Of one call, by the clock and of the processor."""
    started, cpu = time.perf_counter(), time.process_time()
    made = model.generate(PROMPT, max_new_tokens=tokens, temperature=temperature, ignore_eos=True)
    assert len(made.tokens) == tokens
    return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    print("| model | tokens | tok/s: best | median | by processor time, median | of LiteTorch's, best | median |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in MODELS:
        model = load(name)
        tokens = (model.max_seq_len or 64) - len(PROMPT)
        seconds(model, tokens, options.temperature)
        runs = [seconds(model, tokens, options.temperature) for _ in range(options.repeats)]
        best, median = tokens / min(runs)[0], tokens / statistics.median(wall for wall, _ in runs)
        cpu = tokens / statistics.median(used for _, used in runs)
        print(f"| {name} | {tokens} | {best:.0f} | {median:.0f} | {cpu:.0f} ", end="")
        print(f"| {best / LITETORCH:.0f}x | {median / LITETORCH:.0f}x |", flush=True)


if __name__ == "__main__":
    main()
