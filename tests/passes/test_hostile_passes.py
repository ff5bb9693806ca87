"""Passes and pipelines that are wrong in all ways that came to mind: each is told in one paragraph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import torch
from networks import build
from runs import command
from torch import fx, nn

import atograph
from atograph.capture import capture
from atograph.passes import (
    AnalysisPass,
    InternalError,
    Pass,
    Pipeline,
    Program,
    RewritePass,
    UserError,
    copy_graph,
    parse_program,
    register,
)
from atograph.passes.pipeline.bisect import bisect
from atograph.passes.pipeline.numeric import NumericCheck
from atograph.passes.pipeline.options import print_pass
from atograph.passes.pipeline.registry import PASSES

aten = torch.ops.aten


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Doing(RewritePass):
    """Leaves the program as it is."""

    name = "doing"

    def rewrite(self, program: Program) -> Program:
        return program


@dataclass(frozen=True)
class Options(Doing):
    """Options of all kinds."""

    name = "options"
    count: int = 1
    share: float = 0.5
    strict: bool = False
    text: str = "x"
    least: int | None = 3
    how: Literal["one", "two", 3] = "one"
    dims: tuple[int, ...] = ()
    pair: tuple[str, int] = ("a", 1)
    path: Path | None = None
    rows: tuple[tuple[int, ...], ...] = ()
    named: Optional[str] = None  # noqa: UP045 - people write it so
    listed: list[int] | None = None
    color: Color = Color.RED
    either: int | str = 1
    texts: tuple[str, ...] = ()
    table: dict[str, int] | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Picky(Doing):
    """Refuses its option in a way of its own."""

    name = "picky"
    count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count has to be 0 or more")


class Handmade(Doing):
    """No dataclass of its own."""

    name = "handmade"

    def __init__(self, one: int) -> None:
        pass


@dataclass(frozen=True)
class Unresolved(Doing):
    """An option of a type that is not there."""

    name = "unresolved"
    one: NotThere = None  # type: ignore[name-defined] # noqa: F821


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for table in ("_loaders", "_homes"):
        monkeypatch.setattr(PASSES, table, dict(getattr(PASSES, table)))
    monkeypatch.setattr(PASSES, "_by_hand", set(PASSES._by_hand))
    for each in (Doing, Options, Picky, Handmade, Unresolved):
        register(each.name, lambda each=each: each)  # type: ignore[misc]
    register("nameless", lambda: Doing)
    register("number", lambda: 5)  # type: ignore[arg-type, return-value]
    register("unloadable", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    yield


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Options()),
        (" count=2 , share=1e-3 ", Options(count=2, share=1e-3)),
        ('text="}{,=[]\\"é\\\\",count=2', Options(text='}{,=[]"é\\', count=2)),
        ("text=é漢", Options(text="é漢")),
        ('text=""', Options(text="")),
        ("text=[1,2]", Options(text="[1,2]")),
        ("least=none", Options(least=None)),
        ('named="none"', Options(named="none")),
        ("named=none", Options()),
        ("how=3", Options(how=3)),
        ("dims=[],rows=[[1,2],[],[3]]", Options(rows=((1, 2), (), (3,)))),
        ("dims=(1, 2),strict=true", Options(dims=(1, 2), strict=True)),
        ("dims=7", Options(dims=(7,))),
        ('pair=["c]d, e",2]', Options(pair=("c]d, e", 2))),
        ('texts=["a b","none",c]', Options(texts=("a b", "none", "c"))),
        ('path="/tmp/a b"', Options(path=Path("/tmp/a b"))),
        ("listed=[1,2]", Options(listed=[1, 2])),
        ("color=BLUE", Options(color=Color.BLUE)),
        ("either=x", Options(either="x")),
        ("either=2", Options(either=2)),
        ("share=inf", Options(share=float("inf"))),
    ],
)
def test_options_are_read_and_printed(text: str, expected: Options) -> None:
    (read,) = Pipeline.parse(f"options{{{text}}}").passes
    assert read == expected and Pipeline.parse(print_pass(read)).passes == (read,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options{count=1.5}", r"options\{count\} takes a value of type int, not '1\.5'"),
        ('options{count="1"}', r"options\{count\} takes a value of type int, not '1'"),
        ("options{count=}", r"options\{count\} takes a value of type int, not ''"),
        (
            "options{count}",
            r"the option 'count' of the pass 'options' has no value\. count=\.\.\. is a value of",
        ),
        ("options{count=none}", r"options\{count\} takes a value of type int, not 'none'"),
        (
            "options{=3}",
            r"cannot read the options of the pass 'options' at '=3': an option is NAME=VALUE\. Write them",
        ),
        ("options{count=1,count=2}", "the option 'count' of the pass 'options' is given twice"),
        ("options{strict=1}", r"options\{strict\} takes true or false, not '1'"),
        ("options{least=x}", r"options\{least\} takes a value of type int, not 'x'"),
        (
            'options{text="unclosed}',
            "the options of the pass 'options' have no end: a quote or the brace is not",
        ),
        ('options{text=a"}', "the options of the pass 'options' have no end"),
        ("options{text=a", "the options of the pass 'options' have no end"),
        ('options{text="\\x"}', "a text in quotes is written as in JSON, a backslash as two"),
        ('options{text="a"b}', "at 'b': a comma is missing"),
        ("options{dims=[1,,2]}", "at ',2]': a value is missing"),
        ("options{dims=[1,2}", r"at '\[1,2': the list has no '\]'"),
        ("options{dims=(1,2]}", r"at '\]': a comma is missing"),
        ("options{dims=[1,x]}", r"options\{dims\} takes a value of type int, not 'x'"),
        ("options{rows=[[1],x]}", r"options\{rows\} takes a value of type int, not 'x'"),
        ("options{pair=[a]}", r"options\{pair\} takes 2 values, as in \[1,2\], not '\[a\]'"),
        ("options{how=four}", r"options\{how\} takes one of one, two, 3, not 'four'"),
        ("options{color=GREEN}", r"options\{color\} takes one of RED, BLUE, not 'GREEN'"),
        (
            "options{table=a}",
            r"takes a value of type dict, and no text gives one, 'a' neither\. In Python, give",
        ),
        (
            "options{dtype=f32}",
            r"takes a value of type dtype, and no text gives one, 'f32' neither\. .*Options",
        ),
        ("options{coun=3}", "the pass 'options' has no option 'coun=3'. Its options: count, share"),
        (
            "picky{count=-1}",
            r"test_hostile_passes:\d+: the pass 'picky' does not take count=-1: ValueError: count",
        ),
        (
            "handmade",
            r"test_hostile_passes:Handmade: the pass 'handmade' does not take no options: TypeError: ",
        ),
        (
            "unresolved",
            r"test_hostile_passes:Unresolved: the types of the options of the pass 'unresolved' can",
        ),
        ("nameless", r"no subclass of Pass of that name: .*Give its class the attribute name = 'nameless'"),
        ("number", "what is registered as the pass 'number' is no subclass of Pass of that name: 5"),
        (
            "unloadable",
            r"^test_hostile_passes:\S*: the pass 'unloadable' cannot be loaded \(ZeroDivisionError: ",
        ),
        ("", "cannot read the pipeline: it is empty. Write it like"),
        (" ", "cannot read the pipeline: it is empty"),
        ("dce,", "cannot read the pipeline after 'dce,': the name of a pass is missing. Write it like"),
        (",dce", "cannot read the pipeline at ',dce'"),
        ("()", r"cannot read the pipeline at '\)': the name of a pass is missing"),
        ("fixpoint", "a fixpoint is of passes in parentheses. Write it like fixpoint"),
        ("fixpoint()", "the name of a pass is missing"),
        ("dce cse", "expected ',' in the pipeline before 'cse'. Write it like"),
        ("(dce", r"expected '\)' in the pipeline after '\(dce'. Write"),
        ("dce)", r"nothing is open that '\)' in the pipeline would close. Write"),
    ],
)
def test_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Pipeline.parse(text)
    assert "\n" not in str(refused.value)


# -- passes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong(RewritePass):
    """Does what a function does."""

    name = "wrong"
    do: Callable[[Program], Any] = lambda program: program

    def rewrite(self, program: Program) -> Program:
        return self.do(program)  # type: ignore[no-any-return]


def changed(change: Callable[[Program, fx.Graph, fx.Node], object]) -> Callable[[Program], Program]:
    """A pass that changes a copy of the graph; it is given the first relu."""

    def rewrite(program: Program) -> Program:
        graph, _nodes = copy_graph(program.graph)
        change(program, graph, next(node for node in graph.nodes if node.target is aten.relu.default))
        return program.rewritten(graph, program.state)

    return rewrite


def behind(graph: fx.Graph, node: fx.Node, method: str, target: Any, *args: Any, typed: bool = True) -> fx.Node:
    """A node behind another one, in whose place it is read; with its shape and type."""
    with graph.inserting_after(node):
        made = getattr(graph, method)(target, (node,))
    node.replace_all_uses_with(made)
    made.args = (node, *args)
    if typed:
        made.meta["val"] = node.meta["val"]
    return made  # type: ignore[no-any-return]


def raising(error: BaseException) -> Callable[[Program], Program]:
    def rewrite(program: Program) -> Program:
        raise error

    return rewrite


def importing(program: Program) -> Program:
    import not_there_at_all  # type: ignore[import-not-found]

    return not_there_at_all.rewrite(program)  # type: ignore[no-any-return]


def retargeted(program: Program) -> Program:
    for node in program.graph.nodes:
        if node.target is aten.relu.default:
            node.target = aten.sigmoid.default
    return program


def replaced(program: Program) -> Program:
    program.state["head.bias"] = torch.zeros(5)
    return program


def halved(program: Program) -> Program:
    return program.rewritten(copy_graph(program.graph)[0], {name: each.half() for name, each in program.state.items()})


def valueless(program: Program, graph: fx.Graph, node: fx.Node) -> None:
    made = program.new_parameter(graph, torch.ones(1), "extra")
    behind(graph, node, "call_function", aten.mul.Tensor, made)


def returning(change: Callable[[fx.Node], Any]) -> Callable[[Program], Program]:
    def rewrite(program: Program, graph: fx.Graph, node: fx.Node) -> None:
        output = next(iter(reversed(graph.nodes)))
        output.args = (change(output.args[0][0]),)

    return changed(rewrite)


def in_float64(node: fx.Node) -> list[fx.Node]:
    with node.graph.inserting_after(node):
        made = node.graph.call_function(aten.to.dtype, (node, torch.float64))
    made.meta["val"] = node.meta["val"].to(torch.float64)
    return [made]


def without_input(program: Program, graph: fx.Graph, node: fx.Node) -> None:
    (x,) = (each for each in graph.nodes if each.op == "placeholder" and each.name not in program.interface.state)
    with graph.inserting_after(x):
        zeros = graph.call_function(aten.zeros.default, ([2, 3, 8, 8],))
    zeros.meta["val"] = x.meta["val"]
    x.replace_all_uses_with(zeros)
    graph.erase_node(x)


def circular(program: Program, graph: fx.Graph, node: fx.Node) -> None:
    node.args = (next(iter(reversed(graph.nodes))).args[0][0],)


STRUCTURE: dict[str, tuple[Callable[[Program], Any], str]] = {
    "raises": (raising(ValueError("two\nlines")), r"the pass 'wrong' raised ValueError: two lines \(\w+\.py:\d+\)"),
    "exits": (raising(SystemExit(3)), "the pass 'wrong' raised SystemExit: 3"),
    "asserts": (raising(AssertionError()), "the pass 'wrong' raised AssertionError"),
    "imports what is not there": (importing, "raised ModuleNotFoundError: No module named 'not_there_at_all'"),
    "gives nothing": (lambda program: None, "gave something of type NoneType, not a Program"),
    "gives a graph": (lambda program: program.graph, "gave something of type Graph, not a Program"),
    "gives a module": (
        lambda program: fx.GraphModule(torch.nn.Module(), copy_graph(program.graph)[0]),
        "gave something of type GraphModule, not a Program",
    ),
    "changes what it is given": (retargeted, "of the program that it was given is another one"),
    "replaces a weight": (replaced, "head.bias of the program that it was given is another tensor"),
    "halves the weights": (halved, r"of torch\.float16, its placeholder is \[.*\] of torch\.float32"),
    "adds a weight without a value": (
        changed(valueless),
        "the placeholder p_extra_0 is no input, and the new state has no value under its name",
    ),
    "tells no type": (
        changed(lambda program, graph, node: behind(graph, node, "call_function", aten.neg.default, typed=False)),
        r"node neg_default has no meta\['val'\]",
    ),
    "returns more": (returning(lambda node: [node, node]), "what it returns is not 1 values"),
    "returns another type": (
        returning(in_float64),
        r"was \[s0, 5\] of torch\.float32, and is .* of torch\.float64",
    ),
    "drops an input": (changed(without_input), "the input x is gone"),
    "calls a method": (
        changed(lambda program, graph, node: behind(graph, node, "call_method", "neg")),
        "node neg is a call_method of neg .*torch.ops.aten.relu.default and not torch.relu",
    ),
    "calls a function": (
        changed(lambda program, graph, node: behind(graph, node, "call_function", torch.neg)),
        r"node neg calls torch\.neg \(invariant: What nodes call are ops",
    ),
    "calls a lambda": (
        changed(lambda program, graph, node: behind(graph, node, "call_function", lambda value: value)),
        r"calls test_hostile_passes\.<lambda>",
    ),
    "runs in a circle": (changed(circular), "was used before it has been defined"),
}


def program_of() -> Program:
    model, inputs = build("residual")
    return capture(model, (inputs,))


@pytest.mark.parametrize("name", STRUCTURE)
def test_what_a_pass_breaks_is_told_in_one_paragraph(name: str) -> None:
    do, message = STRUCTURE[name]
    with pytest.raises(InternalError, match=message) as raised:
        Pipeline((Wrong(do),)).run(program_of())
    assert raised.value.culprit == "test_hostile_passes" and "\n" not in str(raised.value.args[0])
    found = bisect(Pipeline((Doing(), Wrong(do))), program_of())
    assert found is not None and found.place == 1 and found.wrong.name == "wrong"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
     torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB")],
    ids=("python", "torch", "cuda"),
)  # fmt: skip
def test_that_memory_runs_out_is_no_bug(error: Exception) -> None:
    with pytest.raises(UserError, match="there is not enough memory for the pass 'wrong'"):
        Pipeline((Wrong(raising(error)),)).run(program_of())


VALUES: dict[str, tuple[Callable[[Program], Any], str]] = {
    "zeros": (
        changed(lambda program, graph, node: behind(graph, node, "call_function", aten.mul.Tensor, 0.0)),
        "changes the output 0 by up to",
    ),
    "not a number": (
        changed(lambda program, graph, node: behind(graph, node, "call_function", aten.div.Tensor, 0.0)),
        "changes the output 0: numbers that were finite are not",
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_a_pass_computes_otherwise_is_told(name: str) -> None:
    do, message = VALUES[name]
    with pytest.raises(InternalError, match=message):
        Pipeline((Wrong(do),)).run(program_of(), instruments=[NumericCheck()])
    found = bisect(Pipeline((Wrong(do),)), program_of())
    assert found is not None and message in found.problem


@dataclass(frozen=True)
class Failing(Doing):
    """Raises where it is asked about its promises, before or after."""

    name = "failing"
    where: str = "broken"

    def rewrite(self, program: Program) -> Program:
        return program.rewritten(copy_graph(program.graph)[0], program.state)

    def broken(self, given: Program, result: Program) -> Iterator[str]:
        if self.where == "none":
            return None  # type: ignore[return-value]
        self._raise("broken")
        return iter(())

    def requires(self, graph_module: fx.GraphModule) -> None:
        self._raise("requires")

    def ensures(self, graph_module: fx.GraphModule) -> None:
        self._raise("ensures")

    def equivalent(self, given: Program) -> Program:
        self._raise("equivalent")
        return given

    def _raise(self, where: str) -> None:
        if where == self.where:
            raise KeyError("oops")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("requires", "the pass 'failing' raised KeyError: 'oops'"),
        ("ensures", "the pass 'failing' raised KeyError: 'oops'"),
        ("broken", r"broken\(\) of the pass 'failing' raised KeyError"),
        ("none", r"broken\(\) of the pass 'failing' raised TypeError: 'NoneType' object is not iterable"),
        ("equivalent", r"equivalent\(\) of the pass 'failing' raised KeyError"),
    ],
)
def test_all_code_of_a_pass_is_named_where_it_raises(where: str, message: str) -> None:
    with pytest.raises(InternalError, match=message) as raised:
        Pipeline((Failing(where),)).run(program_of(), instruments=[NumericCheck()])
    assert raised.value.culprit == "test_hostile_passes" and raised.value.reproducer is not None
    found = bisect(Pipeline((Failing(where),)), program_of())
    assert (found is not None and "KeyError" in found.problem) or where == "none"


@dataclass(frozen=True)
class Telling(AnalysisPass):
    """Gives what it has."""

    name = "telling"
    fact: object = None

    def analyse(self, program: Program) -> object:
        return self.fact


@pytest.mark.parametrize("fact", [None, 3, {"a": 1}])
def test_a_result_is_of_a_class_of_its_own(fact: object) -> None:
    kind = type(fact).__name__
    with pytest.raises(InternalError, match=f"the new fact is of type {kind}, and not of a class of its own"):
        Pipeline((Telling(fact),)).run(program_of())


@dataclass(frozen=True)
class Copying(Doing):
    """Gives a copy each time."""

    name = "copying"

    def rewrite(self, program: Program) -> Program:
        return program.rewritten(copy_graph(program.graph)[0], program.state)


def test_a_fixpoint_names_the_pass_that_never_ends() -> None:
    register("copying", lambda: Copying)
    one = r"fixpoint\(cse,copying\) still changes the program: copying gives another one each time. A pass has to give"
    with pytest.raises(UserError, match=one):
        Pipeline.parse("fixpoint(cse,copying)").run(program_of())
    two = r"\(copying\) and copying give another one each time. One of them undoes"
    with pytest.raises(UserError, match=two):
        Pipeline.parse("fixpoint((copying),dce,copying)").run(program_of())


# -- where pipelines are given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (3, "passes is the text of a pipeline, or a Pipeline, not "),
        (["cse"], "passes is the text of a pipeline"),
        (None, "passes is the text of a pipeline"),
        ("find-groups,couple-groups{pairs=g0+g2}", "would not be coupled any more"),
        ("slim{plan=/not/there.json}", "cannot read the plan"),
        ("plan-random{seed=99999999999999999999}", "a seed is a whole number from 0 to"),
        ("plan-random{seed=-1}", "a seed is a whole number from 0 to"),
    ],
)
def test_trace_refuses_passes(passes: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UserError, match=message):
        atograph.trace(model, torch.randn(2, 4), passes=passes)


@pytest.mark.parametrize("passes", ["", " ", "cse", Doing(), Pipeline((Doing(),)), "fixpoint(cse,(dce))"])
def test_trace_takes_texts_and_passes(passes: str | Pass) -> None:
    model, inputs = build("residual")
    assert atograph.trace(model, inputs, passes=passes).prunable


def test_a_plan_is_read_from_its_file(tmp_path: Path) -> None:
    model, inputs = build("residual")
    plan = atograph.trace(model, inputs).plan(random=0)
    (tmp_path / "plan.json").write_text(plan.to_json())
    graph = atograph.trace(model, inputs, passes=f"infer-axes,find-groups,slim{{plan={tmp_path / 'plan.json'}}}")
    assert graph.params < atograph.trace(model, inputs).params


SPEC = """
import torch
from torch import nn
from atograph.passes import RewritePass, register


class Fails(RewritePass):
    name = "fails"

    def rewrite(self, program):
        raise ValueError("no luck")


register("fails", Fails)


def model():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))


def example_inputs():
    return torch.randn(2, 3, 8, 8)
"""


def test_a_reproducer_of_a_pass_of_a_spec_runs_with_the_spec(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(SPEC)
    code, said = command("opt", file, "--passes", "fails")
    assert code == 70 and "raised ValueError: no luck" in said
    words = said.split()
    at = words.index("--run-reproducer")
    assert words[at - 3 : at] == ["atograph", "opt", "SPEC"]
    assert command("opt", file, "--run-reproducer", words[at + 1])[0] == 70
    del PASSES._loaders["fails"]
    code, said = command("opt", "--run-reproducer", words[at + 1])
    assert code == 2 and "its passes 'fails' cannot be run here: there is no pass 'fails'" in said
    assert "name the SPEC that registers it: atograph opt SPEC --run-reproducer FILE" in said


def test_a_pass_to_print_at_that_did_not_run_is_told(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(SPEC)
    code, said = command("opt", file, "--passes", "cse", "--print-after", "dce", "--print-before", "infer-axes")
    assert code == 0 and "the pass 'dce' did not run, and nothing was printed at it" in said
    assert "the pass 'infer-axes' did not run" in said


def test_a_pass_may_be_alone_in_a_text_program() -> None:
    given = parse_program("program { input %x : f32[s0, 3] return %x }")
    assert Pipeline((Doing(),)).run(given) is given
