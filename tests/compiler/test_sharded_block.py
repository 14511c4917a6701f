"""A block's definition with sharded bindings equals the whole: two processes, each with half of heads and widths."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("sharded_block_worker.py")


def test_two_halves_are_the_whole() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(rank), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        output, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
        result = json.loads(output.strip().splitlines()[-1])
        assert result["sums"] == 2
        assert result["difference"] < 1e-5
        assert result["share"] < 0.51
