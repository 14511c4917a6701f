"""How a peer talks to `peers.py`: the prompt in, one line of JSON when it is loaded, then one for every command.

stdin: a JSON list of token ids, then lines `prefill` (into a new cache) and `decode` (the tokens after it, greedy).
stdout: `{"load": seconds, "bytes": that a token reads, "version": text}`, then
`{"seconds": ..., "token": the last one}`.
"""

from __future__ import annotations

import json
import sys
from typing import Protocol, cast


class Peer(Protocol):
    """A loaded model."""

    token: int

    def prefill(self) -> float: ...

    def decode(self) -> float: ...


def read_prompt() -> list[int]:
    """The first line."""
    return cast("list[int]", json.loads(sys.stdin.readline()))


def serve(peer: Peer, load_seconds: float, size: int, version: str) -> None:
    """Answer until stdin ends."""
    print(json.dumps({"load": load_seconds, "bytes": size, "version": version}), flush=True)
    for line in sys.stdin:
        seconds = peer.prefill() if line.strip() == "prefill" else peer.decode()
        print(json.dumps({"seconds": seconds, "token": peer.token}), flush=True)
