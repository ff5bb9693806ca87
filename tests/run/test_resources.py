"""Memory: what a model takes to be traced and made slim, measured as `python -m benchmarks.memory` does for 1 GB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("work", "most"), [("slim program", 2.0), ("slim module", 3.0)])
@pytest.mark.long
def test_memory_follows_the_weights(work: str, most: float) -> None:
    """Weights included: they are there once, and what the plan leaves of them; for the module also a masked copy."""
    command = [sys.executable, "-m", "benchmarks.memory", "--mb", "500", "--one", "perceptron", work]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    times = float(done.stdout.split("|")[4])
    assert 1.0 < times < most, done.stdout
