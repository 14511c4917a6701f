"""FSDP2 on two gloo processes: three steps, and the fused Program of the sharded model follows."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("sharding_worker.py")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_fully_shard_trains_and_the_fused_view_follows() -> None:
    port = free_port()
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
        assert result["sharded"][2] < result["sharded"][0]
        assert result["sharded"] == pytest.approx(result["whole"], abs=1e-4)
        assert result["moved"] > 1e-2
        assert result["difference"] < 1e-4
