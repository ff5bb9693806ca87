"""Memory: what a model takes to be traced, planned and made slim, measured as `python -m benchmarks.memory` does for
1 GB, and `python -m benchmarks.from_files` for weights that stay in their files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.from_files import WAYS, write

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


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.long
def test_a_plan_of_weights_in_files_takes_a_layer_of_memory(tmp_path: Path) -> None:
    """The trace takes 0.1 GB; loaded, weights and gradients would be 1 GB."""
    write(tmp_path, 500)
    command = [sys.executable, "-m", "benchmarks.from_files", "--mb", "500", "--one", str(tmp_path), "taylor", WAYS[0]]
    own = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed is given back
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=own)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("|")[3].removesuffix("MB ").replace(",", "")) < 250, done.stdout
