"""ExecuTorch as a target: the file computes what the program does, at several batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.proof.certificate import certify
from atograph.slimming.masking import zero_
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import export, load
from atograph.targets.executorch import ExecuTorch


def test_the_file_computes_what_the_program_does(tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime", reason="executorch is not installed: it is no part of make test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)).eval()
    x = torch.randn(5, 3, 6, 6)
    graph = atograph.trace(model, x)
    plan = graph.plan(flops=0.5)
    zero_(model, plan)
    slim, target = atograph.slim(graph, plan), ExecuTorch()
    file = load(target, export(target, slim.program, tmp_path / target.file), slim.program)
    entries = certify(model, slim, [file], Inputs((x,), {}))
    assert [entry.batch for entry in entries] == [1, 5]
    for entry in entries:
        assert entry.holds and entry.targets["executorch"].difference < 1e-5 and not entry.faults


def test_without_the_package_it_is_refused_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atograph.targets.executorch.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs the package executorch, which is not installed"):
        ExecuTorch().check({})
