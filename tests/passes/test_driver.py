"""Passes that are wrong, and what finds them; clocks, diffs, fixpoints, analyses that run where they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from networks import build
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import atograph
from atograph.capture import capture
from atograph.cli.app import app
from atograph.passes import (
    Fixpoint,
    Groups,
    Instrument,
    InternalError,
    Pass,
    Pipeline,
    Program,
    RewritePass,
    UserError,
    copy_graph,
    format_program,
    parse_program,
)
from atograph.passes.pipeline import registry
from atograph.passes.pipeline.bisect import bisect
from atograph.passes.pipeline.instruments import Changes, Clock, Printer
from atograph.passes.pipeline.numeric import NumericCheck
from atograph.passes.pipeline.options import print_pass, read_pass
from atograph.passes.pipeline.reproducer import Case, read_reproducer, reproducer

aten = torch.ops.aten


@dataclass(frozen=True)
class ReluToSigmoid(RewritePass):
    """A wrong pass: it has the right shapes.

    Options:
        count: how many it rewrites at most.
    """

    name = "relu-to-sigmoid"
    count: int = 100

    def rewrite(self, program: Program) -> Program:
        graph, _nodes = copy_graph(program.graph)
        relus = [node for node in graph.nodes if node.target is aten.relu.default][: self.count]
        for node in relus:
            node.target = aten.sigmoid.default
        return program.rewritten(graph, program.state) if relus else program


@dataclass(frozen=True)
class WriteWeight(RewritePass):
    """A wrong pass: it scales a weight where it lies, unseen by torch's counters, and changes nothing else."""

    name = "write-weight"

    def rewrite(self, program: Program) -> Program:
        program.state["head.weight"].data.mul_(1.5)
        return program


@dataclass(frozen=True)
class Raising(RewritePass):
    """A pass of another package that raises what it likes."""

    name = "raising"
    text: str = ""

    def rewrite(self, program: Program) -> Program:
        program.fact(Groups)
        raise ValueError(self.text or "no luck")


@dataclass(frozen=True)
class Reluless(RewritePass):
    """Takes one relu of relu(relu(x)) away at a time."""

    name = "reluless"

    def rewrite(self, program: Program) -> Program:
        graph, _nodes = copy_graph(program.graph)
        for node in graph.nodes:
            if node.target is aten.relu.default and node.args[0].target is aten.relu.default:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
                return program.rewritten(graph, program.state)
        return program


@dataclass(frozen=True)
class Options(RewritePass):
    """One option of each kind."""

    name = "options"
    path: Path = Path("a.json")
    how: Literal["fast", "exact"] = "fast"
    dims: tuple[int, ...] = ()
    pair: tuple[str, float] = ("a", 1.0)
    text: str | None = None

    def rewrite(self, program: Program) -> Program:
        return program


PASSES = (ReluToSigmoid, WriteWeight, Raising, Reluless, Options)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry.PASSES, "_loaders", dict(registry.PASSES._loaders))
    for each in PASSES:
        registry.register(each.name, lambda each=each: each)  # type: ignore[misc]
    yield


@pytest.fixture
def program() -> Program:
    model, inputs = build("residual")
    return capture(model, (inputs,))


# -- what is wrong is found --------------------------------------------------------------------------------------------

SLIM = "infer-axes,find-groups,plan-random{keep=0.5},slim"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("relu-to-sigmoid", r"the pass 'relu-to-sigmoid' changes the output 0 by up to "),
        ("relu-to-sigmoid{count=1}", r"the pass 'relu-to-sigmoid' changes the output 0 by up to "),
        ("write-weight", r"the pass 'write-weight' writes into head\.weight\."),
    ],
)
@pytest.mark.parametrize("around", ["@", "gather-shuffles,(cse,@,dce)", SLIM + ",@", "@,cse," + SLIM])
def test_a_wrong_pass_is_caught_and_found(program: Program, wrong: str, message: str, around: str) -> None:
    pipeline = Pipeline.parse(around.replace("@", wrong))
    found = bisect(pipeline, program)
    assert found is not None and found.wrong == Pipeline.parse(wrong).passes[0]
    flat = around.replace("(", "").replace(")", "").split(",")
    assert found.place == flat.index("@")
    assert f"is number {found.place + 1}, {found.wrong.name}, of test_driver: it " in str(found)
    with pytest.raises(InternalError, match=message) as error:
        pipeline.run(program, instruments=[NumericCheck()], schedule=True)
    assert "This is a bug in test_driver" in str(error.value)


@pytest.mark.parametrize("text", [SLIM, "gather-shuffles,fixpoint(canonicalize,cse,dce)," + SLIM, "infer-axes"])
def test_what_is_right_passes(program: Program, text: str) -> None:
    pipeline = Pipeline.parse(text)
    pipeline.run(program, instruments=[NumericCheck()])
    assert bisect(pipeline, program) is None


class Remembers(nn.Module):
    """A recurrent step whose state goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.cell(x, h)
        return self.head(h), h


def test_state_that_is_cut_is_no_change() -> None:
    """And a first state that is not zero where units go is none either: the pass is right for one that is."""
    inputs = torch.randn(2, 6), torch.randn(2, 16)
    streaming = capture(Remembers().eval(), inputs, state={"1": "h"})
    slim = Pipeline.parse(SLIM)
    assert slim.run(streaming, instruments=[NumericCheck()]).interface.example[0][1].shape == (2, 8)
    assert bisect(slim, streaming) is None
    found = bisect(Pipeline.parse(SLIM + ",write-weight"), streaming)
    assert found is not None and found.wrong.name == "write-weight"


def test_a_long_pipeline_is_run_a_few_times_only(program: Program) -> None:
    pipeline = Pipeline.parse(",".join([*["cse"] * 9, "relu-to-sigmoid", *["dce"] * 6]))
    found = bisect(pipeline, program)
    assert found is not None and (found.place, found.runs) == (9, 5)


def test_numbers_need_weights(program: Program) -> None:
    bare = parse_program(format_program(program))
    with pytest.raises(UserError, match="comparing outputs needs values, but"):
        Pipeline.parse("relu-to-sigmoid").run(bare, instruments=[NumericCheck()])


# -- reproducers -------------------------------------------------------------------------------------------------------


def test_what_a_pass_raises_leaves_a_file_that_runs(program: Program, tmp_path: Path) -> None:
    text = 'infer-axes,find-groups,raising{text="too, bad"}'
    said = r"the pass 'raising' raised ValueError: too, bad \(test_driver.py:\d+\)\. This is a bug in test_"
    with pytest.raises(InternalError, match=said):
        Pipeline.parse("gather-shuffles,cse," + text).run(program)
    with pytest.raises(InternalError) as error:
        Pipeline.parse("gather-shuffles,cse," + text).run(program)
    path = error.value.reproducer
    assert path is not None and any("--run-reproducer" in note for note in error.value.__notes__)
    again, passes, plan = read_reproducer(path.read_text(encoding="utf-8"))
    assert passes == "gather-shuffles,cse," + text and plan is None  # neither changed anything
    program.facts.clear()
    assert format_program(again) == format_program(program)
    result = CliRunner().invoke(app, ["opt", "--run-reproducer", str(path)])
    assert result.exit_code == 70 and "raised ValueError: too, bad" in result.stderr
    assert "please report" not in result.output and f"{path} holds the program" in result.output


def test_a_reproducer_that_runs_through_prints_a_line(program: Program, tmp_path: Path) -> None:
    text = reproducer(InternalError("oops."), Case(program, Pipeline.parse("cse,dce").passes), {})
    (tmp_path / "bug.txt").write_text(text)
    said = opt("--run-reproducer", tmp_path / "bug.txt")
    assert said == f"cse,dce ran on the program of {tmp_path / 'bug.txt'}, and nothing went wrong\n"
    assert opt("--run-reproducer", tmp_path / "bug.txt", "--print-after", "dce").startswith("after dce:\nprogram {")


def test_a_plan_is_in_the_file(program: Program) -> None:
    with pytest.raises(InternalError) as error:
        Pipeline.parse(SLIM + ",infer-axes,find-groups,plan-random{keep=0.3},raising").run(program)
    assert error.value.reproducer is not None
    again, passes, plan = read_reproducer(error.value.reproducer.read_text(encoding="utf-8"))
    assert passes == "infer-axes,find-groups,plan-random{keep=0.3},raising" and plan is not None
    assert again.state["stem.0.weight"].shape[0] == 4


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    result = CliRunner().invoke(app, ["opt", "--run-reproducer", str(tmp_path / "a.txt")])
    assert result.exit_code == 2 and "this is no reproducer" in result.stderr


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_only_what_changed_is_shown(program: Program) -> None:
    said: list[str] = []
    Pipeline.parse("cse,relu-to-sigmoid{count=1}").run(program, instruments=[Changes(said.append)])
    assert said[0] == "cse changes nothing"
    assert said[1].splitlines()[3:] == [
        "   %stem_1_batch_norm" + said[1].split("   %stem_1_batch_norm")[1].splitlines()[0],
        "-  %stem_2_relu = aten.relu(%stem_1_batch_norm) : f32[s0, 8, 8, 8]",
        "+  %stem_2_relu = aten.sigmoid(%stem_1_batch_norm) : f32[s0, 8, 8, 8]",
        "   %body_0_conv2d = aten.conv2d(%stem_2_relu, body.0.weight) : f32[s0, 6, 8, 8]",
    ]


def test_clocks_and_printers(program: Program) -> None:
    said: list[str] = []
    clock = Clock()
    pipeline = Pipeline.parse("infer-axes,(find-groups)")
    pipeline.run(program, instruments=[clock, Printer(said.append, ["find-groups"], ["infer-axes"])])
    assert [name for name, _own, _checks in clock.seconds] == ["infer-axes", "find-groups"]
    assert all(own > 0 and checks > 0 for _name, own, checks in clock.seconds)
    assert "100.0%  total" in clock.table() and clock.table().count("\n") == 4
    assert [text.partition("\n")[0] for text in said] == ["after infer-axes:", "before find-groups:"]


@dataclass
class Slow(Instrument):
    """Takes its time before and after a pass, and says what it sees."""

    said: list[str]
    name: str

    def before(self, each: Pass, program: Program) -> None:
        self.said.append(f"{self.name} before")
        time.sleep(0.1)

    def ran(self, each: Pass, seconds: float) -> None:
        self.said.append(f"{self.name} ran")

    def after(self, each: Pass, given: Program, result: Program) -> None:
        self.said.append(f"{self.name} after")
        time.sleep(0.1)


def test_what_looks_on_is_timed_apart_from_the_pass(program: Program) -> None:
    said: list[str] = []
    clock = Clock()
    Pipeline.parse("dce").run(program, instruments=[clock, Slow(said, "a"), Slow(said, "b")])
    assert said == ["a before", "b before", "a ran", "b ran", "b after", "a after"]
    ((_name, own, checks),) = clock.seconds
    assert checks >= 0.4 > own


# -- pipelines ---------------------------------------------------------------------------------------------------------


def test_a_fixpoint_runs_until_nothing_changes() -> None:
    lines = ["input %x : f32[s0, 3]", "%a = aten.relu(%x)", "%b = aten.relu(%a)", "%c = aten.relu(%b)", "return %c"]
    text = "program {" + "\n".join(lines) + "}"
    pipeline = Pipeline.parse("fixpoint(reluless,dce)")
    assert isinstance(pipeline.passes[0], Fixpoint) and Pipeline.parse(str(pipeline)) == pipeline
    assert str(pipeline) == "fixpoint(reluless,dce)"
    assert format_program(pipeline.run(parse_program(text))).count("aten.relu") == 1
    assert format_program(Pipeline.parse("(reluless,dce)").run(parse_program(text))).count("aten.relu") == 2
    with pytest.raises(UserError, match=r"after 50 rounds, fixpoint\(cse,copying\) still changes the"):
        registry.register("copying", lambda: Copying)
        Pipeline.parse("fixpoint(cse,copying)").run(parse_program(text))


@dataclass(frozen=True)
class Copying(RewritePass):
    """Says that it has changed something each time."""

    name = "copying"

    def rewrite(self, program: Program) -> Program:
        return program.rewritten(copy_graph(program.graph)[0], program.state)


def test_analyses_run_where_they_are_needed(program: Program) -> None:
    with pytest.raises(UserError, match="needs the result of the pass 'find-groups'"):
        Pipeline.parse("plan-random{keep=0.5}").run(program)
    seen: list[str] = []
    note: Callable[..., None] = lambda each, _program: seen.append(each.name)  # noqa: E731
    Pipeline.parse("plan-random{keep=0.5},slim,estimate-cost").run(program, after=note, schedule=True)
    assert seen == ["infer-axes", "find-groups", "plan-random", "slim", "infer-axes", "find-groups", "estimate-cost"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('path="a b/c,d.json"', Options(path=Path("a b/c,d.json"))),
        ("how=exact,dims=[1,2]", Options(how="exact", dims=(1, 2))),
        ('pair=["x, y",0.5]', Options(pair=("x, y", 0.5))),
        ('text="}{,\\"=é"', Options(text='}{,"=é')),
    ],
)
def test_options_of_each_kind(text: str, expected: Options) -> None:
    assert read_pass("options", text, {}) == expected
    assert Pipeline.parse(f"options{{{text}}},cse").passes[0] == expected
    assert Pipeline.parse(print_pass(expected)).passes == (expected,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("how=slow", r"options\{how\} takes one of fast, exact, not 'slow'"),
        ("pair=[1]", r"options\{pair\} takes 2 values, as in \[1,2\], not '\[1\]'"),
        ("dims=[1,a]", r"options\{dims\} takes a value of type int, not 'a'"),
        ('"', "cannot read the options of the pass 'options'"),
    ],
)
def test_options_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pass("options", text, {})


def test_trace_runs_passes_first(program: Program) -> None:
    model, inputs = build("residual")
    plain, same = atograph.trace(model, inputs), atograph.trace(model, inputs, passes="canonicalize,cse")
    assert [*map(str, same.groups)] == [*map(str, plain.groups)] and same.model is model
    slim = atograph.trace(model, inputs, passes=Pipeline.parse("plan-random{keep=0.5},slim"))
    assert slim.groups["g0"].size == 4 and slim.model is not model
    plan = slim.plan(random=0)
    with torch.no_grad():
        masked, cut = atograph.mask(slim.model, plan)(inputs), atograph.slim(slim, plan)(inputs)
    torch.testing.assert_close(masked, cut, rtol=1e-4, atol=1e-6)


# -- the command -------------------------------------------------------------------------------------------------------


def opt(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["opt", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_texts_and_programs_go_in_and_out(program: Program, tmp_path: Path) -> None:
    text = tmp_path / "net.txt"
    text.write_text(format_program(program))
    assert opt(text, "--passes", "cse") == format_program(program)
    told = CliRunner().invoke(app, ["opt", str(text), "--passes", SLIM, "--out", str(tmp_path / "slim.pt2")])
    assert told.exit_code == 0 and "are random numbers. --weights FILE gives" in told.stderr
    slim = opt(tmp_path / "slim.pt2", "--passes", "dce")
    assert "param stem.0.weight : f32[4, 3, 3, 3]" in slim
    opt(tmp_path / "slim.pt2", "--passes", "dce", "--out", tmp_path / "slim.txt")
    assert opt(tmp_path / "slim.txt", "--passes", "dce") == slim
    weights = {name: value + 1 for name, value in program.state.items() if value.is_floating_point()}
    weights |= {name: value for name, value in program.state.items() if not value.is_floating_point()}
    save_file(weights, tmp_path / "dense.safetensors")
    opt(text, "--passes", "dce", "--weights", tmp_path / "dense.safetensors", "--out", tmp_path / "dense.pt2")
    read = atograph.trace(tmp_path / "dense.pt2").program
    assert all(torch.equal(read.state[name], value) for name, value in weights.items() if name in read.state)
    text.write_text(format_program(program).replace("aten.relu", "aten.rellu", 1))
    result = CliRunner().invoke(app, ["opt", str(text), "--passes", "cse"])
    assert result.exit_code == 2 and "net.txt:22:18: there is no op aten.rellu" in result.stderr


def test_the_command_looks_on(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    path.write_text(format_program(program))
    assert "  total\n" in opt(path, "--passes", "cse", "--time-passes")
    assert opt(path, "--passes", "cse", "--print-changed") == "cse changes nothing\n"
    assert opt(path, "--passes", "cse", "--print-before", "cse").startswith("before cse:\nprogram {")
    assert opt(path, "--passes", "cse", "--bisect") == "no pass is wrong\n"
    found = opt(path, "--passes", "cse,relu-to-sigmoid,dce", "--bisect")
    assert found.startswith(
        "the first wrong pass is number 2, relu-to-sigmoid, of test_driver: it changes the output 0"
    )
    result = CliRunner().invoke(app, ["opt", str(path), "--passes", "relu-to-sigmoid", "--verify-each", "numeric"])
    assert result.exit_code == 70 and "the pass 'relu-to-sigmoid' changes the output" in result.stderr


def test_all_passes_are_listed() -> None:
    text = opt("--list-passes")
    assert "\nrelu-to-sigmoid (rewrite, of test_driver)\n  A wrong pass: it has the right shapes.\n" in text
    assert "    count: a value of type int, default 100. how many it rewrites at most.\n" in text
    assert "    how: one of fast, exact, default fast.\n" in text
    assert "    flops: a value of type float, required." in text
    assert all(f"{name} (" in text for name in registry.PASSES)


IN_PLACE = """
program {
  forward(x)
  input %x : f32[3]
  %r = aten.relu(%x) : f32[3]
  %a = aten.neg(%r) : f32[3]
  %w = aten.add_.Tensor(%r, 1) : f32[3]
  %b = aten.neg(%r) : f32[3]
  %c = aten.mul.Tensor(%a, %b) : f32[3]
  return %c
}
"""


def test_what_a_text_writes_in_place_is_a_value_of_its_own(tmp_path: Path) -> None:
    """Else the two negations would be taken for the same."""
    (tmp_path / "net.txt").write_text(IN_PLACE)
    told = CliRunner().invoke(app, ["opt", str(tmp_path / "net.txt"), "--passes", "cse"])
    assert told.exit_code == 0, told.output
    assert told.output.count("aten.neg") == 2 and "add_" not in told.output


def test_a_pass_to_print_at_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_text(IN_PLACE)
    told = CliRunner().invoke(app, ["opt", str(tmp_path / "net.txt"), "--passes", "cse", "--print-after", "nosuch"])
    assert told.exit_code == 2 and "there is no pass 'nosuch'" in " ".join(told.output.split())


SPEC_WITH_A_PASS = """
import torch
from torch import nn
from atograph.passes import Program, RewritePass, register

class Fails(RewritePass):
    name = "fails-in-a-spec"

    def rewrite(self, program: Program) -> Program:
        raise KeyError("oops")

register("fails-in-a-spec", lambda: Fails)

def model():
    return nn.Linear(3, 2)

def example_inputs():
    return (torch.randn(2, 3),)
"""


def test_a_spec_may_have_passes_of_its_own_and_their_line_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPEC_WITH_A_PASS)
    told = CliRunner().invoke(app, ["opt", str(tmp_path / "net.py"), "--passes", "fails-in-a-spec"])
    said = " ".join(f"{told.output} {told.exception}".split())
    assert told.exit_code != 0 and "raised KeyError: 'oops' (net.py:10)" in said
