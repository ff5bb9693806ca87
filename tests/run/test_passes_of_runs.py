"""Passes that a run, a plan and the commands remember: found again, or named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import command
from torch import nn

import atograph
from atograph.passes import InternalError, Plan, Program, RewritePass, UserError, copy_graph, register
from atograph.passes.pipeline import registry
from atograph.passes.pipeline.remembered import passes_of_plan, read_remembered

SPEC = """
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Dropout(), nn.Conv2d(8, 4, 1))


def example_inputs():
    return torch.randn(2, 3, 8, 8)
"""

PASS = """
from atograph.passes import RewritePass, copy_graph, register
import torch


class HardtanhToClamp(RewritePass):
    name = "clamping"

    def rewrite(self, program):
        graph, _nodes = copy_graph(program.graph)
        for node in graph.nodes:
            if node.target is torch.ops.aten.hardtanh.default:
                node.target = torch.ops.aten.clamp.default
        return program.rewritten(graph, program.state)


register("clamping", lambda: HardtanhToClamp)
"""


@dataclass(frozen=True)
class Wrong(RewritePass):
    """Takes the first activation away."""

    name = "wrong"
    where: Path | None = None

    def rewrite(self, program: Program) -> Program:
        graph, _nodes = copy_graph(program.graph)
        node = next(each for each in graph.nodes if each.target is torch.ops.aten.relu.default)
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
        return program.rewritten(graph, program.state)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry.PASSES, "_loaders", dict(registry.PASSES._loaders))
    register("wrong", lambda: Wrong)
    yield


class Net(nn.Module):
    """A conv and a batch norm, and a layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout()
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.stem(x)).relu()) + 0.0 * x.sum())


X = torch.randn(2, 3, 4, 4)


def test_a_run_goes_through_passes_of_its_spec_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, run = tmp_path / "net.py", tmp_path / "run"
    file.write_text(SPEC + PASS)
    passes = "canonicalize,clamping"
    at_once = ("--flops", 0.5, "--method", "magnitude", "--epochs", 0, "--out", run)
    code, said = command("compress", file, "--passes", passes, *at_once)
    assert code == 0, said
    assert Plan.from_json((run / "plan.json").read_text()).passes == passes
    loaders = dict(registry.PASSES._loaders)
    text = atograph.passes.format_program(atograph.trace(run).program)
    assert "aten.clamp" in text and "aten.hardtanh" not in text and "dropout" not in text
    for arguments in (("verify", run, "--spec", file), ("inspect", file, "--plan", run / "plan.json")):
        monkeypatch.setattr(registry.PASSES, "_loaders", {n: each for n, each in loaders.items() if n != "clamping"})
        code, said = command(*arguments)
        assert code == 0, said
    monkeypatch.setattr(registry.PASSES, "_loaders", {n: each for n, each in loaders.items() if n != "clamping"})
    file.write_text(SPEC)
    code, said = command("verify", run, "--spec", file)
    assert code == 2 and "went through the passes 'canonicalize,clamping', and they cannot be run here: ther" in said
    assert "no pass 'clamping'" in said and "let the SPEC register it" in said


def test_a_plan_is_for_the_same_passes() -> None:
    model = Net().eval()
    plain, graph = atograph.trace(model, X), atograph.trace(model, X, passes="canonicalize, cse")
    plan = graph.plan(random=0)
    assert plan.passes == "canonicalize,cse" and graph.model is model
    with pytest.raises(UserError, match="went through the passes canonicalize,cse, and here it is none"):
        plan.check(plain.groups)
    with pytest.raises(UserError, match="went through the passes none, and here it is canonicalize,cse"):
        plain.plan(random=0).check(graph.groups)
    again = plain.for_plan(plan)
    slim = atograph.slim(again, plan)
    assert slim.module is not None and slim.why_no_module == ""
    with torch.no_grad():
        torch.testing.assert_close(slim(X), atograph.mask(model, plan)(X), rtol=1e-4, atol=1e-5)
    assert plan.digest != plan.model_copy(update={"passes": ""}).digest


def test_a_training_trains_the_module_itself() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(4, 3, 4, 4), torch.randn(4, 4, 4, 4)) for _ in range(4)]
    result = atograph.compress(
        Net(), data, flops=0.6, epochs=2, passes="canonicalize", loss=lambda m, b: (m(b[0]) - b[1]).pow(2).mean()
    )
    assert result.plan.passes == "canonicalize" and all(entry.holds for entry in result.report.certificate)
    assert "drop" in dict(result.model.named_modules())


def test_other_parameters_are_refused_before_the_training() -> None:
    at_once = {"example_inputs": X, "flops": 0.5, "method": "magnitude", "epochs": 0}
    with pytest.raises(UserError, match=r"the passes fold-batch-norm give the model other parameters, and what is tr"):
        atograph.compress(Net().eval(), **at_once, passes="fold-batch-norm")
    graph = atograph.trace(Net().eval(), X, passes="fold-batch-norm")
    plan = graph.plan(random=0)  # of the program that came out, as a module: nothing is left to run
    assert plan.passes == "" and atograph.slim(graph, plan).module is not None


def test_a_wrong_pass_is_named_before_the_training() -> None:
    with pytest.raises(InternalError, match=r"the pass 'wrong' changes the output 0 .* This is a bug in test_passes"):
        atograph.compress(Net(), example_inputs=X, flops=0.5, method="magnitude", epochs=0, passes="wrong")


@pytest.mark.parametrize("read", [read_remembered, passes_of_plan])
def test_a_plan_says_no_path(read: Any) -> None:
    assert read("").passes == () and str(read("cse,(dce)")) == "cse,(dce)"
    with pytest.raises(UserError, match="paths are not remembered"):
        read('wrong{where="/tmp/x"}')


DATA = """

def train_data():
    torch.manual_seed(1)
    return [(torch.randn(4, 3, 8, 8), torch.randint(0, 4, (4, 6, 6))) for _ in range(2)]
"""


def test_sweep_and_sensitivity_take_the_words_of_compress(tmp_path: Path) -> None:
    file, plans = tmp_path / "net.py", tmp_path / "plans"
    file.write_text(SPEC + PASS + DATA)
    passes = "canonicalize,clamping"
    swept = ("sweep", file, "--flops", 0.5, "--method", "magnitude")
    code, said = command(*swept, "--passes", passes, "--plans", plans)
    assert code == 0, said
    plan = plans / "magnitude-0.5.json"
    assert Plan.from_json(plan.read_text()).passes == passes
    code, said = command("inspect", file, "--plan", plan, "--passes", passes)
    assert code == 0, said
    code, said = command("sensitivity", file, "--passes", passes, "--batches", 1, "--by", "magnitude")
    assert code == 0, said
    for arguments in (swept, ("sensitivity", file), ("compress", file, "--flops", 0.5, "--out", tmp_path / "another")):
        code, said = command(*arguments, "--passes", "no-such-pass")
        assert code == 2 and "there is no pass 'no-such-pass'" in said
        code, said = command(*arguments, "--passes", 'wrong{where="/tmp/x"}')
        assert code == 2 and "paths are not remembered ('/tmp/x')" in said


def test_parameters_that_a_pass_makes_are_trained_as_those_before() -> None:
    model = Net().eval()
    graph = atograph.trace(model, X, passes="fold-batch-norm")
    assert all(each.requires_grad for each in graph.model.parameters())
    assert graph.steered(trained_only=True).prunable
    model.stem.requires_grad_(False)
    folded = atograph.trace(model, X, passes="fold-batch-norm").model
    assert {name for name, each in folded.named_parameters() if not each.requires_grad} == {
        "stem.folded.weight",
        "stem.folded.bias",
    }
