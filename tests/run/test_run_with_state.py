"""A run of a model with state: its folder remembers which output becomes which input, and is verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import command

import atograph

SPEC = """import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, 3)

    def forward(self, x, memory):
        h = self.cell(x, memory["h"])
        return {"logits": self.head(h), "next": {"h": h}}

def model():
    return Net()

def example_inputs():
    return torch.randn(2, 6), {"h": torch.zeros(2, 16)}

def train_data():
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    return [(each, {"h": each.new_zeros(16, 16)}) for each in x.split(16)]

def loss(model, batch):
    return F.cross_entropy(model(*batch)["logits"], batch[0][:, :3].argmax(1))
"""


@pytest.mark.long
def test_the_folder_of_a_run_remembers_its_state(tmp_path: Path) -> None:
    spec, run = tmp_path / "net.py", tmp_path / "run"
    spec.write_text(SPEC)
    given = ("--flops", "0.5", "--epochs", "2", "--out", run, "--state", "next=memory")
    code, output = command("compress", spec, *given)
    assert code == 0 and "NOT" not in output and "so the proof is by the example inputs" in output, output
    assert json.loads((run / "plan.json").read_text())["state"] == ["next=memory"]
    assert max(entry["steps"] for entry in json.loads((run / "report.json").read_text())["certificate"]) == 8
    inputs = [entry.name for entry in atograph.load(run).graph.find_nodes(op="placeholder")]
    assert any("memory" in name for name in inputs)
    code, output = command("verify", run, "--trust-spec")
    assert code == 0 and output.count("steps") == 2 and "NOT" not in output, output
    assert "real inputs are left out" in output
    spec.write_text(SPEC + '\nstate = {"next": "memory"}\n')
    code, output = command("inspect", spec)
    assert code == 0 and "State: next → memory." in output, output
