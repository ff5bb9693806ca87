"""The verifier: each invariant, broken once on purpose, and what is saved for a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import build
from torch import fx

import atograph
from atograph.capture.to_program import capture
from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, dim_of
from atograph.passes.base import AnalysisPass, Pass, RewritePass
from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.pipeline import reproducer, verify
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.rewrite.slim import SlimProgram

aten = torch.ops.aten


@dataclass(frozen=True)
class Spoil(RewritePass):
    """Copies the program, and breaks something."""

    name = "spoil"
    spoil: Callable[[Program, Program], Any]

    def rewrite(self, program: Program) -> Program:
        graph, _nodes = copy_graph(program.graph)
        made = program.rewritten(graph, program.state)
        self.spoil(program, made)
        return made


@dataclass(frozen=True)
class SpoilFacts(AnalysisPass):
    """Breaks something while it analyses."""

    name = "spoil-facts"
    spoil: Callable[[Program], Any]

    def analyse(self, program: Program) -> int:
        self.spoil(program)
        return 1


@dataclass(frozen=True)
class SpoilSlim(SlimProgram):
    """A slim program in which something is wrong."""

    spoil: Callable[[Program, Program], Any] = lambda given, made: None

    def rewrite(self, program: Program) -> Program:
        made = super().rewrite(program)
        self.spoil(program, made)
        return made


@pytest.fixture
def program() -> Program:
    model, inputs = build("residual")
    return capture(model, (inputs,))


def op(program: Program, target: Any) -> fx.Node:
    return next(node for node in program.graph.nodes if node.target is target)


def _dangling(given: Program, made: Program) -> None:
    node = op(made, aten.relu.default)
    with made.graph.inserting_after(node):
        made.graph.call_function(aten.relu.default, (node,)).meta["val"] = node.meta["val"]


def _undefined(given: Program, made: Program) -> None:
    first, *_, last = (node for node in made.graph.nodes if node.op == "call_function")
    last.append(first)


def _lying(given: Program, made: Program) -> None:
    node = op(made, aten.relu.default)
    node.meta["val"] = node.meta["val"][:, :-1]


def _refusing(given: Program, made: Program) -> None:
    node = op(made, aten.linear.default)
    node.target, node.args = aten.bmm.default, node.args[:2]


def _typeless(given: Program, made: Program) -> None:
    del op(made, aten.relu.default).meta["val"]


def _narrow(given: Program, made: Program) -> None:
    node = made.output_node.args[0][0]
    node.meta["val"] = node.meta["val"][:, :-1]


def _stateless(given: Program, made: Program) -> None:
    made.state.pop("head.bias")


def _old(given: Program, made: Program) -> None:
    made.state["head.bias"] = torch.ones(99)


def _left_over(given: Program, made: Program) -> None:
    made.state["mine"] = torch.ones(1)


def _without_input(given: Program, made: Program) -> None:
    (node,) = made.input_nodes()
    node.name = "other"


def _overwritten(given: Program, made: Program) -> None:
    weight, bias, *_ = made.graph.find_nodes(op="placeholder")
    bias.target = weight.name
    weight.target = "another"


def _silent(given: Program, made: Program) -> None:
    made.output_node.args = (made.output_node.args[0][0],)


def _changed_node(given: Program, made: Program) -> None:
    node = op(given, aten.linear.default)
    node.args = (*node.args[:1], *node.args[1:])
    node.target = aten.relu.default


def _longer(given: Program, made: Program) -> None:
    given.graph.call_function(aten.relu.default, (op(given, aten.relu.default),))


def _changed_tensor(given: Program, made: Program) -> None:
    given.state["head.bias"] = torch.zeros_like(given.state["head.bias"])


def _known(given: Program, made: Program) -> None:
    made.facts[int] = 1


BROKEN = {
    _dangling: r"nobody reads node \w*relu\w+ \(aten\.relu\.default\) \(invariant: Every op's value is used",
    _undefined: r"used before it has been defined",
    _lying: r"node \w*relu\w* \(aten\.relu\.default\) gives \[\w+, 8, 8, 8\] of torch\.float32, and says",
    _refusing: r"node head_linear \(aten\.bmm\.default\) does not accept its inputs: ",
    _typeless: r"node \w*relu\w* has no meta\['val'\]",
    _narrow: r"linear was \[\w+, 5\] of torch.float32, and is \[\w+, 4\] of torch.float32 \(invariant: User inputs",
    _stateless: r"no value for head\.bias",
    _old: r"head\.bias is \[99\] of torch\.float32, its placeholder is \[5\] of torch",
    _left_over: r"mine has a value and no placeholder",
    _without_input: r"the input \w+ is gone",
    _overwritten: r"the argument \w+ has the name under which \w+ is passed \(invariant: No argument",
    _silent: r"what it returns is not 1 values",
    _changed_node: r"node head_linear of the program that it was given is another one",
    _longer: r"the program that it was given had \d+ nodes, and has \d+",
    _changed_tensor: r"head\.bias of the program that it was given is another tensor",
    _known: r"the new program has the fact int already",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_what_a_rewrite_breaks_is_found(program: Program, spoil: Callable[..., Any]) -> None:
    with pytest.raises(InternalError, match=BROKEN[spoil]) as caught:
        Pipeline((Spoil(spoil),)).run(program)
    assert str(caught.value).startswith("internal error: after spoil: ")
    assert "This is a bug in test_verify." in str(caught.value)


def test_what_an_analysis_breaks_is_found(program: Program) -> None:
    analysed = Pipeline.parse(ANALYSE).run(program)

    def forget(program: Program) -> None:
        del program.facts[Axes]

    def misjudge(program: Program) -> None:
        axes = program.facts[Axes]
        node = op(program, aten.relu.default)
        batch, _channels, *rest = axes.shape(node)
        shapes = {**axes.shapes, node: ((batch, dim_of(Axis(3)), *rest),)}
        program.facts[Axes] = replace(axes, shapes=shapes)

    def replaced(program: Program) -> None:
        program.facts[Groups] = replace(program.facts[Groups])

    with pytest.raises(InternalError, match=r"the fact Axes is gone \(invariant: An analysis adds one fact"):
        Pipeline((SpoilFacts(forget),)).run(analysed)
    program.facts.clear()
    analysed = Pipeline.parse(ANALYSE).run(program)
    with pytest.raises(InternalError, match=r"the facts Groups and int are others than before"):
        Pipeline((SpoilFacts(replaced),)).run(analysed)
    analysed = Pipeline.parse(ANALYSE).run(program)
    misjudged = r"node \w*relu\w* has shape \(\d+, \d+, 8, 8\), its axes say \[\d+, 3, 8, 8\]"
    with pytest.raises(InternalError, match=misjudged):
        Pipeline((SpoilFacts(misjudge),)).run(analysed)
    groups, wrong = analysed.facts[Groups], analysed.facts[Axes]
    program.facts.clear()
    analysed = Pipeline.parse(ANALYSE).run(program)
    with pytest.raises(InternalError, match=misjudged):
        Pipeline((SpoilFacts(lambda p: p.facts.update({Groups: replace(groups, axes=wrong)})),)).run(analysed)


def test_a_slim_program_with_a_parameter_of_an_old_size_is_found() -> None:
    model, inputs = build("residual")
    graph = atograph.trace(model, inputs)
    plan = graph.plan(random=0)
    untouched = next(
        name for name, value in atograph.slim(graph, plan).passes_program.state.items()
        if value.shape == graph.program.state[name].shape
    )  # fmt: skip
    cut = next(part.parameter for name in plan.zeroing for part in plan.zeroing[name])

    def old(given: Program, made: Program) -> None:
        before = {name: node for node, name in given.state_nodes()}
        after = {name: node for node, name in made.state_nodes()}
        made.state[cut], after[cut].meta["val"] = given.state[cut], before[cut].meta["val"]

    def copied(given: Program, made: Program) -> None:
        made.state[untouched] = made.state[untouched].clone()

    for spoil, text in (
        (old, rf"{re.escape(cut)} has the shape \(.*\), and the plan leaves \(.*\) \(invariant: What the pass itself"),
        (copied, rf"{re.escape(untouched)}, which keeps all its units, is another tensor"),
    ):
        with pytest.raises(InternalError, match=text):
            Pipeline((SpoilSlim(plan, spoil=spoil),)).run(graph.program)


def test_a_rewrite_that_breaks_nothing_passes(program: Program) -> None:
    made = Pipeline((Spoil(lambda given, made: None),)).run(program)
    assert made is not program and not made.facts


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(reproducer.tempfile, "gettempdir", lambda: str(tmp_path))
    yield tmp_path


def test_a_bug_leaves_what_a_report_needs(saved: Path) -> None:
    """Program, plan and versions are in one file, once; weights are not."""
    model, inputs = build("residual")
    graph = atograph.trace(model, inputs)
    plan = graph.plan(random=0)
    spoiled = Pipeline((SpoilSlim(plan, spoil=lambda given, made: made.state.update({"head.bias": torch.ones(99)})),))
    for _ in range(2):
        with pytest.raises(InternalError) as caught:
            spoiled.run(graph.program)
    (path,) = saved.iterdir()
    assert caught.value.reproducer == path
    assert caught.value.__notes__ == [
        f"{path} holds the program and the plan, and no weights.",
        f"It runs with: atograph opt --run-reproducer {path}",
    ]
    text = path.read_text()
    titles = re.findall(r"^== (.*) ==$", text, re.MULTILINE)
    assert titles == ["error", "pipeline", "versions", "program", "what slim made of it", "plan.json"]
    assert "internal error: after slim: head.bias is [99] of torch.float32, its placeholder is" in text
    assert f"torch {version('torch')}" in text
    assert "param head.weight : f32[5, " in text
    assert atograph.Plan.from_json(text.partition("== plan.json ==\n")[2]) == plan
    assert len(text) < 20_000


def test_a_bug_in_a_program_that_cannot_be_printed(saved: Path, program: Program) -> None:
    with pytest.raises(InternalError) as caught:
        Pipeline((Spoil(_typeless),)).run(program)
    assert caught.value.reproducer is not None and "program" in caught.value.reproducer.read_text()


def test_a_reproducer_that_cannot_be_written_hides_nothing(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproducer.tempfile, "gettempdir", lambda: "/proc/nowhere")
    with pytest.raises(InternalError, match=r"no value for head\.bias") as caught:
        Pipeline((Spoil(_stateless),)).run(program)
    assert caught.value.__notes__ == ["(The file that would help to reproduce it could not be written.)"]


def test_every_invariant_is_stated() -> None:
    assert all(invariant.__doc__ for invariant in (*verify.INVARIANTS, *verify.CHANGES))


def test_passes_of_ours_promise_nothing_by_default(program: Program) -> None:
    spoil: Pass = Spoil(lambda given, made: None)
    assert list(spoil.broken(program, program)) == [] and replace(SlimProgram(), plan=None).compares_shapes
