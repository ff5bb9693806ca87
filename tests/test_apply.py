"""``atograph apply``: a plan and a checkpoint give the slim weights, one tensor at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import atograph

SPEC = """
import torch
from torch import nn
def model():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
def example_inputs():
    return torch.randn(2, 3, 8, 8)
"""


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()


def run(folder: Path, weights: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atograph", "apply", "plan.json", "net.py", "--weights", weights, "--out", "out"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = dense()
    graph = atograph.trace(model, torch.randn(2, 3, 8, 8))
    plan = graph.plan(random=0)
    (tmp_path / "net.py").write_text(SPEC)
    (tmp_path / "plan.json").write_text(plan.to_json())
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    state = atograph.slim(graph, plan).passes_program.state
    save_file({name: value.detach().contiguous() for name, value in state.items()}, tmp_path / "wanted.safetensors")
    return tmp_path


def test_the_weights_are_those_of_slim(folder: Path) -> None:
    done = run(folder, "dense.safetensors")
    assert done.returncode == 0, done.stderr
    found, wanted = load_file(folder / "out" / "model.safetensors"), load_file(folder / "wanted.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_of_another_shape_are_refused_and_nothing_is_written(folder: Path) -> None:
    done = run(folder, "wanted.safetensors")
    assert done.returncode == 2
    assert "do not fit the model" in done.stderr and "0.weight" in done.stderr
    assert not (folder / "out").exists()
