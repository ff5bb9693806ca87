"""ExecuTorch as a target: the file computes what the program does, up to the sizes that it has memory for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import atograph
from atograph.executorch.planned import BATCH, planned
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


class Words(nn.Module):
    """Any length, a number that is no tensor, an output that is none, integers that come back."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(20, 8), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor, relu: bool = True) -> dict[str, object]:
        hidden = self.hidden(self.words(ids))
        return {"logits": self.head(hidden.relu() if relu else hidden).softmax(1), "count": 3, "ids": ids}


IDS = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))


def words(length: object) -> ExportedProgram:
    torch.manual_seed(0)
    graph = atograph.trace(Words().eval(), IDS, {"relu": True}, dynamic={"ids": {1: length}})
    return atograph.slim(graph, graph.plan(flops=0.5)).program


def test_memory_is_planned_for_the_limits_of_sizes() -> None:
    program = words(Dim("n", max=64))
    before = dict(program.range_constraints)
    ids = next(node.meta["val"] for node in program.graph.nodes if node.name == "ids")
    known = ids.shape[0].node.shape_env.var_to_range
    with planned(program, program) as bounded:
        largest = [int(bounded.range_constraints[size.node.expr].upper) for size in ids.shape]
        assert largest == [BATCH, 64] == [int(known[size.node.expr].upper) for size in ids.shape]
    assert dict(program.range_constraints) == before
    assert known[ids.shape[0].node.expr] == before[ids.shape[0].node.expr]  # what it was: no limit


def test_a_size_without_a_limit_is_refused() -> None:
    with (
        pytest.raises(UserError, match=r"largest sizes, and n \(dim 1 of ids\) has no limit\. Give it one"),
        planned(*(words("n"),) * 2),
    ):
        pass


def test_more_than_there_is_memory_for_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime", reason="executorch is not installed: it is no part of make test")
    program, target = words(Dim("n", max=64)), ExecuTorch()
    file = load(target, export(target, program, tmp_path / target.file), program)
    expected = program.module()(IDS.repeat(5, 7), relu=True)
    found = file(IDS.repeat(5, 7), relu=True)
    assert isinstance(found, dict) and found["count"] == 3 and torch.equal(found["ids"], expected["ids"])
    torch.testing.assert_close(found["logits"], expected["logits"])
    assert file.most == BATCH
    with pytest.raises(UserError, match=r"cannot run this file on these inputs: .*maximum capacity of 960 elements"):
        file(IDS.repeat(6, 7), relu=True)
    damaged = tmp_path / "damaged.pte"
    damaged.write_bytes((tmp_path / target.file).read_bytes()[:1000])
    with pytest.raises(UserError, match=r"ExecuTorch file cannot be loaded"):
        load(target, damaged, program)


def test_values_in_bfloat16_come_back_as_such(tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime", reason="executorch is not installed: it is no part of make test")
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).bfloat16(), torch.randn(4, 6).bfloat16()
    graph, target = atograph.trace(model, x), ExecuTorch()
    program = atograph.slim(graph, graph.plan(flops=0.5)).program
    found = load(target, export(target, program, tmp_path / target.file), program)(x)
    assert isinstance(found, torch.Tensor) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found, program.module()(x), rtol=2e-2, atol=2e-2)


def test_without_the_package_it_is_refused_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atograph.sessions.runtime_process.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs the package executorch, which is not installed"):
        ExecuTorch().check({})
