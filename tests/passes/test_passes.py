"""Passes, pipelines, the registry and the verifier; and that the compiler layer knows nothing of the product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from networks import build
from torch.fx import GraphModule, symbolic_trace
from torch.fx.passes.infra.pass_manager import PassManager

from atograph.capture.to_program import capture
from atograph.passes.analysis.groups import FindGroups, Groups
from atograph.passes.analysis.infer_axes import InferAxes
from atograph.passes.base import AnalysisPass, Pass, RewritePass
from atograph.passes.cost.cost import CostModel
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline import registry
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.slim import SlimProgram
from atograph.passes.text.printer import format_program

ROOT = Path(__file__).parents[2]


def captured(name: str = "residual") -> Program:
    model, inputs = build(name)
    return capture(model, (inputs,))


@dataclass(frozen=True)
class Count:
    nodes: int


@dataclass(frozen=True)
class CountNodes(AnalysisPass):
    """For these tests."""

    name = "count-nodes"
    only: str = ""
    limit: int | None = None
    strict: bool = False

    def analyse(self, program: Program) -> Count:
        return Count(sum(self.only in str(node.target) for node in program.graph.nodes))


@dataclass(frozen=True)
class Broken(RewritePass):
    """For these tests: forgets a parameter's value."""

    name = "broken"

    def rewrite(self, program: Program) -> Program:
        graph, _nodes = copy_graph(program.graph)
        made = program.rewritten(graph, program.state)
        made.state.pop("head.bias")
        return made


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry.PASSES, "_loaders", dict(registry.PASSES._loaders))
    registry.register("count-nodes", lambda: CountNodes)
    registry.register("broken", lambda: Broken)
    yield


@pytest.mark.parametrize(
    "text",
    [
        "infer-axes",
        "infer-axes,find-groups,estimate-cost",
        "infer-axes,find-groups,estimate-cost,plan-magnitude{flops=0.3,round-to=4},slim",
        "count-nodes{only=conv,limit=3,strict=true}",
        "(infer-axes)",
        "gather-shuffles,(infer-axes,(find-groups),estimate-cost),plan-random{keep=0.3},slim",
        "(infer-axes,find-groups),(estimate-cost,plan-magnitude{flops=0.3})",
    ],
)
def test_pipelines_print_as_they_are_read(text: str) -> None:
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text and Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the pipeline"),
        ("infer-axes,", "cannot read the pipeline"),
        ("infer-axes find-groups", "expected ','"),
        ("infer-axes,()", r"cannot read the pipeline at '\)'"),
        ("(infer-axes,find-groups", r"expected '\)' in the pipeline after 'fer-axes,find-groups'"),
        ("(infer-axes", r"expected '\)'"),
        ("infer-axes),slim", r"nothing is open that '\),slim' in the pipeline would close"),
        ("(infer-axes)find-groups", "expected ',' in the pipeline before 'find-groups'"),
        ("infer-axis", "no pass 'infer-axis'. Perhaps infer-axes"),
        ("slim{plam=x}", "has no option 'plam=x'. Its options: plan"),
        ("plan-magnitude", "needs the option 'flops'"),
        ("plan-magnitude{flops=many}", "takes a value of type float, not 'many'"),
        ("slim{plan=plan.json}", "takes a value of type Plan"),
    ],
)
def test_pipelines_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pipeline.parse(text)


def test_a_plan_option_is_read_by_the_caller() -> None:
    analysed = Pipeline.parse(ANALYSE + ",plan-random{keep=0.5,seed=1}").run(captured())
    plan = analysed.fact(Plan)
    read = Pipeline.parse("slim{plan=p.json}", readers={Plan: {"p.json": plan}.__getitem__})
    slimmed = read.run(analysed)
    assert slimmed.state["stem.0.weight"].shape[0] == 4
    assert format_program(slimmed) == format_program(Pipeline.parse("slim").run(analysed))


def test_analyses_leave_facts_and_change_nothing() -> None:
    program = captured()
    before = format_program(program)
    seen: list[str] = []
    result = Pipeline.parse("count-nodes{only=conv2d}").run(program, after=lambda each, _p: seen.append(each.name))
    assert result is program and seen == ["count-nodes"]
    assert program.fact(Count) == Count(3)
    assert format_program(program) == before


def test_a_missing_analysis_is_named() -> None:
    with pytest.raises(UserError, match="needs the result of the pass 'infer-axes'"):
        Pipeline.parse("find-groups").run(captured())


def test_the_verifier_names_the_passes_that_ran() -> None:
    with pytest.raises(InternalError, match=r"after count-nodes → broken: no value for head\.bias"):
        Pipeline.parse("count-nodes,broken").run(captured())


@dataclass(frozen=True)
class Analyse(Pipeline):
    """A pipeline with a name of its own, and a promise."""

    name = "analyse"
    passes: tuple[Pass, ...] = (InferAxes(), FindGroups())
    promise: str = ""

    def ensures(self, graph_module: GraphModule) -> None:
        if Groups not in self.program(graph_module).facts:
            raise InternalError("there are no groups.")

    def broken(self, given: Program, result: Program) -> Iterator[str]:
        if self.promise:
            yield self.promise


def test_a_pipeline_is_a_pass() -> None:
    """Called as one, within another one, by torch.fx's own manager: all give what its passes give in a row."""
    whole = ANALYSE + ",plan-random{keep=0.5},slim"
    expected = format_program(Pipeline.parse(whole).run(captured()))
    pipeline = Pipeline.parse(whole)
    assert isinstance(pipeline, Pass)
    program = captured()
    outcome = pipeline(program)
    assert outcome.modified and format_program(outcome.graph_module) == expected
    analysed = Pipeline.parse(ANALYSE)(program)
    assert not analysed.modified and analysed.graph_module is program
    seen: list[str] = []
    nested = Pipeline((Pipeline.parse(ANALYSE), Pipeline((Pipeline.parse("plan-random{keep=0.5}"),)), SlimProgram()))
    result = nested.run(captured(), after=lambda each, _program: seen.append(each.name))
    assert seen == [*ANALYSE.split(","), "plan-random", "slim"]
    assert format_program(result) == expected
    managed = PassManager([Pipeline.parse(ANALYSE), Pipeline.parse("plan-random{keep=0.5},slim")])(captured())
    assert managed.modified and format_program(managed.graph_module) == expected
    with pytest.raises(InternalError, match="pass 'pipeline' was given a ReLU, not a Program"):
        pipeline(symbolic_trace(torch.nn.ReLU()))


def test_inner_passes_are_verified() -> None:
    with pytest.raises(InternalError, match=r"after count-nodes → infer-axes → broken: no value for head\.bias"):
        Pipeline.parse("count-nodes,(infer-axes,(broken)),count-nodes").run(captured())
    with pytest.raises(InternalError, match=r"after infer-axes → broken: no value for head\.bias"):
        Pipeline.parse("infer-axes,broken")(captured())


def test_a_pipeline_may_have_a_name_and_promises() -> None:
    registry.register("analyse", lambda: Analyse)
    pipeline = Pipeline.parse("gather-shuffles,analyse,estimate-cost")
    assert str(pipeline) == "gather-shuffles,analyse,estimate-cost"
    assert CostModel in pipeline.run(captured()).facts
    with pytest.raises(InternalError, match="there are no groups"):
        Pipeline((Analyse((InferAxes(),)),)).run(captured())
    with pytest.raises(InternalError, match=r"after infer-axes → find-groups: no luck \(invariant: What the pass"):
        Pipeline((Analyse(promise="no luck"),)).run(captured())
    with pytest.raises(UserError, match=r"analyse{passes} takes a value of type "):
        Pipeline.parse("analyse{passes=slim}")


def test_names_are_unique() -> None:
    with pytest.raises(UserError, match="two passes are called 'slim'"):
        registry.register("slim", lambda: CountNodes)


def test_slimming_twice_prunes_what_is_left() -> None:
    first = Pipeline.parse(ANALYSE + ",plan-random{keep=0.5},slim").run(captured())
    second = Pipeline.parse(ANALYSE + ",plan-random{keep=0.5},slim").run(first)
    assert second.state["stem.0.weight"].shape[0] == 2
    assert ProgramModule(second)(torch.randn(3, 3, 8, 8)).shape == (3, 5)


def test_in_place_ops_on_views_that_are_read_later_become_functional() -> None:
    class Views(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y[:, 1:3].relu_()
            return self.b(y)

    model, x = Views().eval(), torch.randn(2, 4)
    program = capture(model, (x,))
    assert not [n for n in program.graph.nodes if str(n.target).endswith("_.default")]
    assert torch.allclose(ProgramModule(program)(x), model(x))
