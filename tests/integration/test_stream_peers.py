"""bench/stream_peers.py runs: this project's engine counts right through the worker's own transport and lanes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.harness import ROOT


@pytest.mark.integration
def test_our_engine_counts_every_event_of_the_bench_once() -> None:
    options = ["--parts", "counters", "--only", "ours", "--rounds", "1", "--partitions", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "stream-peers", "--events", "5000", "--visitors", "300", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^this engine, state in Redis +[\d,]+ \([\d,]+\.\.[\d,]+\) ", done.stdout, re.MULTILINE), (
        done.stdout
    )
