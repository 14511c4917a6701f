"""llmc beside other engines on one random model: `python -P -m llmc.tools.bench.peers [--help]`.

The model is made once in a temporary folder, in bfloat16. Every engine loads it in a process of its own and waits;
then they run in turn, one at a time, for several rounds: a prompt, then greedy tokens. Before and after each decode
this process measures how fast the same number of bytes is read. On a machine that others use too, only the ratios say
something: they are medians over the rounds, each against the llmc of the same width in the same round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from ...compiler.ops.declaration import Value
from ...runtime.load import load
from ...runtime.native.probe import Probe
from ...runtime.native.team import thread_count
from .llmc_engine import random_ids
from .speed import MOST_PROBED

HERE = Path(__file__).parent
SHAPE = (16, 1536, 4096, 24, 8, 32000)
"""Layers, hidden, feed-forward, heads, kv heads, vocabulary of the Llama: 501 million parameters."""

MODELS: dict[str, tuple[str, dict[str, Value]]] = {
    "gpt2-125m": ("gpt2_small", {}),
    "mamba-130m": ("mamba", {}),
    "moe-554m": (
        "mixtral",
        {
            "num_layers": 12,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_heads": 12,
            "num_kv_heads": 4,
            "vocab_size": 32000,
            "max_seq_len": 2048,
            "sliding_window": None,
        },
    ),
}
"""Other models than the Llama of a `--shape`: name -> spec and params."""

PEERS: dict[str, tuple[str, str, str]] = {
    "llmc bf16": ("llmc", "none", "bf16"),
    "llmc int8": ("llmc", "int8", "int8"),
    "llmc int4": ("llmc", "int4", "int4"),
    "llmc ternary": ("llmc", "ternary", "ternary"),
    "llama.cpp BF16": ("llama.cpp", "BF16", "bf16"),
    "llama.cpp Q8_0": ("llama.cpp", "Q8_0", "int8"),
    "llama.cpp Q4_0": ("llama.cpp", "Q4_0", "int4"),
    "llama.cpp TQ2_0": ("llama.cpp", "TQ2_0", "ternary"),
    "onnxruntime-genai int4": ("onnxruntime-genai", "int4", "int4"),
    "OpenVINO int8": ("openvino", "int8", "int8"),
    "OpenVINO int4": ("openvino", "int4", "int4"),
    "transformers eager": ("transformers", "eager", "bf16"),
    "transformers compiled": ("transformers", "compiled", "bf16"),
}
"""Name -> engine, its own word for the width, and the width it is compared at."""


class Unavailable(Exception):
    """Why a peer does not take part."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What was measured of one peer. Tokens per second and seconds per token of each round.

    bytes: that a token reads; bandwidth: bytes per second, read beside each decode; token: the one after the prompt.
    """

    name: str
    width: str
    version: str
    bytes: int
    load: float
    prefill: list[float] = field(default_factory=list[float])
    decode: list[float] = field(default_factory=list[float])
    bandwidth: list[float] = field(default_factory=list[float])
    token: int = -1


class Child:
    """A peer in its own process. Raises Unavailable with the last line that it said."""

    def __init__(self, command: Sequence[str], ids: Sequence[int]) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        self.ready = self._exchange(json.dumps(list(ids)))

    def seconds(self, test: str) -> tuple[float, int]:
        """Of a `prefill` or `decode`, and the last token that was chosen."""
        found = self._exchange(test)
        return cast("float", found["seconds"]), cast("int", found["token"])

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=30)

    def _exchange(self, line: str) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return cast("dict[str, object]", json.loads(answer))
        self._process.wait()
        self._said.seek(0)
        raise Unavailable((self._said.read().strip().splitlines() or ["it ended without a word"])[-1])


def build(folder: Path, name: str, shape: Sequence[int], prompt: int, tokens: int) -> list[int]:
    """Write the random model, and give a random prompt for it. name: of MODELS, or `llama` of the shape."""
    spec, params = MODELS[name] if name in MODELS else ("llama", _llama(shape, prompt + tokens))
    model = load(spec, params=params, dtype="bfloat16")
    model.save(folder)
    return [int(token) for token in random_ids(model, 1, prompt)[0]]


def _llama(shape: Sequence[int], length: int) -> dict[str, Value]:
    layers, hidden, feed_forward, heads, kv_heads, vocab = shape
    return {
        "num_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "vocab_size": vocab,
        "max_seq_len": max(2048, length),
        "tie_word_embeddings": False,
    }


def command(name: str, folder: Path, ids: Sequence[int], options: argparse.Namespace) -> list[str]:
    """How to start a peer. Raises Unavailable where its environment is not given."""
    engine, word, _ = PEERS[name]
    tokens, threads = str(options.tokens), str(thread_count())
    if engine == "llmc":
        return [sys.executable, "-P", "-m", "llmc.tools.bench.peer_llmc", str(folder), word, tokens]
    if engine == "transformers":
        return [sys.executable, "-P", "-m", "llmc.tools.bench.peer_transformers", str(folder), word, tokens, threads]
    if engine == "onnxruntime-genai":
        if options.onnxruntime_python is None:
            raise Unavailable("give --onnxruntime-python, of an environment with onnxruntime-genai and transformers")
        script = str(HERE / "peer_onnxruntime.py")
        return [options.onnxruntime_python, "-P", script, str(folder), str(len(ids)), tokens, threads]
    if engine == "openvino":
        if options.openvino_python is None:
            raise Unavailable("give --openvino-python, of an environment with openvino, optimum-intel and nncf")
        return [options.openvino_python, "-P", str(HERE / "peer_openvino.py"), str(folder), word, tokens, threads]
    if options.llama_python is None:
        raise Unavailable("give --llama-python, the interpreter of an environment with llama-cpp-python and gguf")
    file = folder / f"{word}.gguf"
    made = subprocess.run(
        [options.llama_python, "-P", str(HERE / "gguf_model.py"), str(folder), str(file), word],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Unavailable((made.stderr.strip().splitlines() or ["the GGUF could not be written"])[-1])
    return [
        options.llama_python,
        "-P",
        str(HERE / "peer_llama_cpp.py"),
        str(file),
        str(len(ids)),
        tokens,
        threads,
    ]


def run(options: argparse.Namespace) -> tuple[list[Result], dict[str, str]]:
    """Results in the order of PEERS, and why others are missing."""
    skipped: dict[str, str] = {}
    children: list[tuple[Result, Child]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        print("making the model", file=sys.stderr, flush=True)
        ids = build(folder, options.model, options.shape, options.prompt, options.tokens)
        for name in options.peers:
            print(f"loading {name}", file=sys.stderr, flush=True)
            try:
                child = Child(command(name, folder, ids, options), ids)
                child.seconds("prefill")
                child.seconds("decode")
            except Unavailable as reason:
                skipped[name] = str(reason)
                continue
            ready = child.ready
            result = Result(
                name=name,
                width=PEERS[name][2],
                version=cast("str", ready["version"]),
                bytes=cast("int", ready["bytes"]),
                load=cast("float", ready["load"]),
            )
            children.append((result, child))
        try:
            _rounds(children, options)
        finally:
            for _, child in children:
                child.close()
    return [result for result, _ in children], skipped


def _rounds(children: Sequence[tuple[Result, Child]], options: argparse.Namespace) -> None:
    probe = Probe(min(MOST_PROBED, max((result.bytes for result, _ in children), default=1)))
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for result, child in children:
            seconds, result.token = child.seconds("prefill")
            result.prefill.append(options.prompt / seconds)
            before = probe.bandwidth(result.bytes)
            seconds, _ = child.seconds("decode")
            result.decode.append(seconds / options.tokens)
            result.bandwidth.append((before + probe.bandwidth(result.bytes)) / 2)


def ratios(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """For each peer how many times faster the llmc of its width is, at decode and at prefill: paired medians."""
    ours = {result.width: result for result in results if PEERS[result.name][0] == "llmc"}
    found: dict[str, tuple[float, float]] = {}
    for result in results:
        mine = ours.get(result.width)
        if mine is None or mine is result:
            continue
        decode = statistics.median(a / b for a, b in zip(result.decode, mine.decode, strict=True))
        prefill = statistics.median(a / b for a, b in zip(mine.prefill, result.prefill, strict=True))
        found[result.name] = decode, prefill
    return found


def show(results: Sequence[Result], skipped: dict[str, str], options: argparse.Namespace) -> None:
    """Prints the table in Markdown, then what it was measured on."""
    against = ratios(results)
    print(
        "| engine | MB a token | decode ms/token best | median | of read bandwidth (median) | "
        f"prefill {options.prompt}, tok/s best | median | llmc is faster: decode | prefill | load, s |"
    )
    print("|---|" + "---:|" * 9)
    for result in results:
        shares = [
            result.bytes / bandwidth / seconds
            for bandwidth, seconds in zip(result.bandwidth, result.decode, strict=True)
        ]
        decode, prefill = against.get(result.name, (None, None))
        cells = (
            result.name,
            f"{result.bytes / 1e6:.0f}",
            f"{min(result.decode) * 1e3:.2f}",
            f"{statistics.median(result.decode) * 1e3:.2f}",
            f"{statistics.median(shares):.0%}",
            f"{max(result.prefill):.0f}",
            f"{statistics.median(result.prefill):.0f}",
            "" if decode is None else f"{decode:.2f}x",
            "" if prefill is None else f"{prefill:.2f}x",
            f"{result.load:.1f}",
        )
        print(f"| {' | '.join(cells)} |")
    print()
    for name, reason in skipped.items():
        print(f"- {name}: left out: {reason}")
    reads = [value for result in results for value in result.bandwidth]
    if reads:
        print(f"- read bandwidth: {max(reads) / 1e9:.1f} best, {statistics.median(reads) / 1e9:.1f} median GB/s")
    same = {result.token for result in results if result.width == "bf16"}
    if sum(result.width == "bf16" for result in results) > 1:
        print(f"- token after the prompt: the bf16 engines {'agree' if len(same) == 1 else 'do not agree'}")
    print(f"- {', '.join(dict.fromkeys(result.version for result in results))}")
    print(
        f"- {platform.processor() or platform.machine()}, {thread_count()} threads, batch 1, greedy, {options.tokens} "
        f"tokens after {options.prompt}, {options.rounds} rounds, {_described(options)}, {time.strftime('%Y-%m-%d')}"
    )


def _described(options: argparse.Namespace) -> str:
    return options.model if options.model in MODELS else f"shape {options.shape}"


def _shape(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(",")))
    if len(numbers) != len(SHAPE):
        raise argparse.ArgumentTypeError("layers, hidden, feed-forward, heads, kv heads and vocabulary")
    return numbers


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--llama-python", metavar="PATH", help="the interpreter of llama-cpp-python's environment")
    parser.add_argument("--onnxruntime-python", metavar="PATH", help="the same for onnxruntime-genai")
    parser.add_argument("--openvino-python", metavar="PATH", help="the same for openvino")
    parser.add_argument("--model", choices=("llama", *MODELS), default="llama", help="a random one, in bfloat16")
    parser.add_argument(
        "--shape",
        type=_shape,
        default=SHAPE,
        help="of the Llama: layers, hidden, feed-forward, heads, kv heads, vocabulary",
    )
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results, skipped = run(options)
    if options.json:
        print(json.dumps({"results": [asdict(r) for r in results], "skipped": skipped, "ratios": ratios(results)}))
    else:
        show(results, skipped, options)


if __name__ == "__main__":
    main()
