"""Trains the small model that ships with llmc: `python -P -m llmc.tools.train_small --out specs/models/small`.

The weights are a function of text, seed, steps, threads and torch's build, if half of the minutes do for the steps.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from ..runtime.atomic import write_atomically
from ..runtime.load import load
from ..runtime.model import LanguageModel
from ..runtime.strict_json import json_text
from ..runtime.tokenizer import Tokenizer, load_tokenizer
from .bits_per_byte import bits_per_byte, encode_documents, text_bytes, xz_bits_per_byte
from .king_james import TextError, read_corpus
from .pretrain import Measurement, Pretraining, Recipe

SPEC = "small"
RECIPE = Recipe(steps=2600, learning_rate=4e-3)
PAD, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
CONTEXT, STRIDE = 512, 128
EXCERPT = 2
REPORT_STEPS, MEASURE_STEPS = 50, 250
REPETITION_PENALTY = 1.15
"""Without it, greedy text of so small a model runs into a loop within a hundred tokens."""


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> RustTokenizer:
    """Byte-level BPE, so that any text is encoded without loss; `<s>` is put before a text."""
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    bos = (BOS, SPECIAL_TOKENS.index(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: RustTokenizer, max_seq_len: int) -> None:
    """tokenizer.json, and what Hugging Face's classes want beside it."""
    config = {
        "add_bos_token": True,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_seq_len,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "repetition_penalty": REPETITION_PENALTY}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tokenizer.json", tokenizer.to_str())
    write_atomically(folder / "tokenizer_config.json", json_text(config))
    write_atomically(folder / "generation_config.json", json_text(ids))


def curve_text(curve: Sequence[Measurement]) -> str:
    """The loss curve as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(Measurement.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in curve)
    return text.getvalue()


def train(run: Pretraining, tokenizer: Tokenizer, held_out: Sequence[str]) -> None:
    """Go on to the end of the run, with lines of progress and rows of the loss curve."""
    while run.progress < 1:
        loss = run.advance()
        is_over = run.progress >= 1
        if run.step % REPORT_STEPS == 0 or is_over:
            click.echo(
                f"step {run.step:5d}  loss {loss:.4f}  bits/byte {run.to_bits_per_byte(loss):.4f}  "
                f"{run.tokens / run.seconds:6.0f} tokens/s  {run.seconds / 60:5.1f} min"
            )
        if run.step % MEASURE_STEPS == 0 or is_over:
            quick = bits_per_byte(run.model.eval(), tokenizer, held_out, context=256, stride=256)
            click.echo(f"step {run.step:5d}  held out {run.measure(quick).held_out_bits_per_byte:.4f} bits/byte")


def write_folder(folder: Path, run: Pretraining, held_out: Sequence[str]) -> dict[str, object]:
    """Write weights in float16, loss curve, an excerpt of the held-out text and results.json. Gives the results."""
    run.model.half().eval().save(folder)
    write_atomically(folder / "loss_curve.csv", curve_text(run.curve))
    middle = len(held_out) // 2
    write_atomically(folder / "heldout.txt", text_bytes(held_out[middle : middle + EXCERPT]))
    shipped, tokenizer, data = load(folder), load_tokenizer(folder), text_bytes(held_out)
    results: dict[str, object] = {
        "held_out_bytes": len(data),
        "held_out_bits_per_byte": bits_per_byte(shipped, tokenizer, held_out, context=CONTEXT, stride=STRIDE),
        "xz_bits_per_byte": xz_bits_per_byte(data),
        "context": CONTEXT,
        "stride": STRIDE,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "recipe": asdict(run.recipe),
        "steps": run.step,
        "tokens": run.tokens,
        "training_minutes": run.seconds / 60,
        "training_cpu_minutes": run.cpu_seconds / 60,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_atomically(folder / "results.json", json_text(results))
    return results


@click.command()
@click.option("--text", type=click.Path(path_type=Path), help="A text file instead of Debian's King James Bible.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--steps", default=RECIPE.steps, show_default=True, help="Steps of the whole run.")
@click.option("--minutes", default=RECIPE.minutes, show_default=True, help="Training ends by then, with fewer steps.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="CPU threads.")
@click.option("--seed", default=RECIPE.seed, show_default=True, help="Of the fresh weights and the order of the text.")
def main(text: Path | None, out: Path, steps: int, minutes: float, threads: int, seed: int) -> None:
    """Train the small model, and write its folder with its loss curve and its bits per byte on held-out text."""
    torch.set_num_threads(threads)
    try:
        corpus = read_corpus(text)
    except TextError as error:
        raise click.ClickException(str(error)) from None
    model = load(SPEC, seed=seed)
    write_tokenizer(out, train_tokenizer(corpus.training, vocab_size(model)), CONTEXT)
    tokenizer = load_tokenizer(out)
    stream = encode_documents(tokenizer, corpus.training)
    size = len(text_bytes(corpus.training))
    recipe = replace(RECIPE, steps=steps, minutes=minutes, seed=seed)
    run = Pretraining(model, stream, recipe, bytes_per_token=size / len(stream))
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters; {size:,} bytes are {len(stream):,} tokens")
    train(run, tokenizer, corpus.held_out)
    click.echo(json_text(write_folder(out, run, corpus.held_out)))


def vocab_size(model: LanguageModel) -> int:
    """How many rows the spec's embedding has."""
    size = model.program.spec.environment["vocab_size"]
    assert isinstance(size, int)
    return size


if __name__ == "__main__":
    main()
