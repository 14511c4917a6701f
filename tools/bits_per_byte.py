"""How many bits a model needs for a text, per byte of it; and how many `xz -9` needs."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..runtime.model import LanguageModel
from ..runtime.tokenizer import Tokenizer

ROWS = 8


def text_bytes(documents: Sequence[str]) -> bytes:
    """The text that is counted: each document and the line break after it, UTF-8."""
    return "".join(document + "\n" for document in documents).encode()


def encode_documents(tokenizer: Tokenizer, documents: Sequence[str]) -> Tensor:
    """`<s> document </s> <s> document </s> …` -> `[N]` int64. `</s>` stands for the line break."""
    bos, (eos, *_) = tokenizer.bos_id, tokenizer.eos_ids
    assert bos is not None
    ids: list[int] = []
    for document in documents:
        ids += [bos, *tokenizer.encode(document, add_special=False), eos]
    return torch.tensor(ids)


def xz_bits_per_byte(data: bytes) -> float:
    """Bits per byte of `xz -9` on exactly these bytes, container included."""
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def bits_per_byte(
    model: LanguageModel, tokenizer: Tokenizer, documents: Sequence[str], *, context: int, stride: int
) -> float:
    """Bits per byte of a lossless code for `text_bytes(documents)`, all bytes counted.

    A window of `context` tokens slides by `stride`. Every token is predicted once, from at least `context - stride`
    tokens before it (fewer only at the beginning of the text). `<s>` follows from `</s>` and costs nothing.
    """
    ids = encode_documents(tokenizer, documents)
    data = text_bytes(documents)
    costs = token_bits(model, ids, context=context, stride=stride)
    return costs[ids[1:] != tokenizer.bos_id].sum().item() / len(data)


def token_bits(model: LanguageModel, ids: Tensor, *, context: int, stride: int) -> Tensor:
    """The bits of each token after the first. `[N]` -> `[N - 1]` float64."""
    inputs, targets = ids[:-1], ids[1:]
    starts = list(range(0, max(len(inputs) - context, 0) + stride, stride))
    whole, last = starts[:-1], starts[-1]
    costs: list[Tensor] = []
    scored = 0
    with torch.inference_mode():
        for group in [*(whole[i : i + ROWS] for i in range(0, len(whole), ROWS)), [last]]:
            logits = model(torch.stack([inputs[start : start + context] for start in group]))
            for start, row in zip(group, logits.double(), strict=True):
                new = slice(scored, start + len(row))
                costs.append(functional.cross_entropy(row[scored - start :], targets[new], reduction="none"))
                scored = new.stop
    return torch.cat(costs) / math.log(2)
