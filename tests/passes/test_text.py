"""Programs as text, read back: the same program, and errors that say where."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import from_regex, lists, sampled_from
from hypothesis.strategies import text as texts
from networks import NETWORKS, build
from read_back import check_read_back
from torch import Tensor, nn

import atograph
from atograph.capture import capture
from atograph.passes import Pipeline, Program, ProgramModule, UserError, format_program, parse_program
from atograph.passes.ir.exported.from_exported import from_exported
from atograph.passes.text.printer import format_facts
from atograph.passes.text.scanner import Scanner
from atograph.passes.text.types import read_type

TEXT = """
program {
  param w : f32[4, 3]
  buffer `a b.0` : f32[4]
  const order : i64[4] = [3, 1, 0, 2]  # a comment
  input %x : f32[s0, 3]
  %linear = aten.linear(%x, w, `a b.0`) : f32[s0, 4]
  %index_select = aten.index_select(%linear, 1, order) : f32[s0, 4]
  %add = aten.add.Tensor(`a b.0`, 1.0)
  write `a b.0` = %add
  return {"y": %index_select, "none": None}
}
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_read_back(name: str) -> None:
    model, inputs = build(name)
    program = capture(model, (inputs,))
    check_read_back(program, inputs)
    check_read_back(Pipeline.parse("gather-shuffles").run(program), inputs)
    graph = atograph.trace(model, inputs)
    analysed = format_program(graph.program, values=True) + format_facts(graph.program)
    assert "g0=" in analysed and "# find-groups\n#   g0  " in analysed
    again = atograph.Graph(Pipeline.parse("infer-axes,find-groups,estimate-cost").run(parse_program(analysed)), None)
    assert [str(each).partition(":")[0] for each in again.groups] == [str(e).partition(":")[0] for e in graph.groups]
    slim = atograph.slim(graph, graph.plan(random=0))
    check_read_back(slim.passes_program, inputs)


class Odd(nn.Module):
    """What is seldom: odd names, a default, a dict, a buffer that is written, a value of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"1x1": nn.Conv2d(3, 4, 1), "a b": nn.Conv2d(3, 4, 1), "torch": nn.Linear(5, 5)})
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: dict[str, Tensor], *, scale: float = 2.0, mode: str = 'a\n"b"') -> dict[str, Any]:
        self.calls += 1
        y = self.parts["1x1"](x["image"]) + self.parts["a b"](x["image"]) * scale
        low, _at = torch.nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear").min(-1)
        filled = torch.full_like(low, float("-inf"), dtype=torch.float64)
        return {"low": [low, (filled,)], "mode": mode, "z": torch.div(y, 3, rounding_mode="floor").half()}


def test_what_is_seldom_is_read_back() -> None:
    model, x = Odd().eval(), torch.randn(2, 3, 4, 5)
    program = capture(model, ({"image": x},), {"scale": 3.0})
    again = check_read_back(program, {"image": x}, scale=3.0)
    text = format_program(again)
    assert "  write calls = " in text and "`parts.a b.weight`" in text and 'rounding_mode="floor"' in text
    assert '  forward(x, *, scale=2.0, mode="a\\n\\"b\\"")' in text and 'call({"image": %x_image}, scale=3.0)' in text
    assert '"low": [' in text and '"mode": "a\\n\\"b\\""' in text


def test_dynamic_sizes_and_strides_are_read_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU())
    x = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    program = capture(model.eval(), (x,), dynamic={"input": {2: "height", 3: "width"}})
    check_read_back(program, x)
    assert "(height - 1)//2" in format_program(program)


class Half(nn.Sequential):
    """Works with half of a size: a number of the graph."""

    def forward(self, x: Tensor) -> Tensor:
        half = super().forward(x)
        return half * half.shape[2] + x.shape[3] * 3


def test_a_size_that_starts_with_a_bracket_is_read_back() -> None:
    """``(height - 1)//2`` is one size, and no tuple of one."""
    x = torch.randn(2, 3, 15, 1)
    program = capture(Half(nn.Conv2d(3, 4, (3, 1), (2, 1))).eval(), (x,), dynamic=["x:2=height"])
    check_read_back(program, x)
    assert ": (height - 1)//2" in format_program(program)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("(7)", (7,)),
        ("(h + 1)//2", 3),
        ("((h + 1)//2, 3)", (3, 3)),
        ("(((h + 1)//2 - 1)//2, (h, 3))", (1, (6, 3))),
        ("(h - 2) * 2 + 1", 9),
    ],
)
def test_tuples_and_sizes_are_told_apart(text: str, read: object) -> None:
    assert read_type(Scanner(text, "here"), {"h": 6}) == read


class Called(nn.Module):
    """Takes what it is called with, by any names, and has a buffer of such a name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.register_buffer(name, torch.ones(3))

    def forward(self, /, within: dict[str, Tensor], **named: Tensor) -> dict[str, Tensor]:
        (own,) = self.buffers()
        total = own + sum(each.relu() for each in [*within.values(), *named.values()])
        return dict.fromkeys(within, total * 2)


NAMES = texts(min_size=1, max_size=4).filter(lambda name: name not in ("self", "within"))
NAMES |= sampled_from(["größe", "x²", "٣", "µ", "μ", "ﬁ", "fi", "a b", "2x", "if", "None", "torch", "inf", "`", "s0"])
SIZES = from_regex(r"[A-Za-z_]\w{0,3}", fullmatch=True).filter(lambda name: name not in ("_", "batch"))


@pytest.mark.long
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists(NAMES, min_size=1, max_size=2, unique=True), lists(NAMES, max_size=2, unique=True), NAMES, SIZES)
def test_any_name_is_read_back(within: list[str], named: list[str], buffer: str, size: str) -> None:
    """And its program runs: names are written into Python."""
    model = Called("x" + buffer.replace(".", "")).eval()
    args, kwargs = ({name: torch.randn(2, 3) for name in within},), {name: torch.randn(2, 3) for name in named}
    program = capture(model, args, kwargs)
    check_read_back(program, *args, **kwargs)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SIZES)
def test_any_size_is_read_back(size: str) -> None:
    x = torch.randn(2, 5)
    check_read_back(capture(nn.ReLU().eval(), (x,), dynamic=[f"input:1={size}"]), x)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("input %if : f32[3]", "a.txt:3:10: no input can be called if. Perhaps input_if?"),
        ("input %x² : f32[3]", "no input can be called x². Perhaps x2?"),
        ("input %x : f32[²]", "a.txt:3:18: there is no size ²"),
        ("forward(if)", "no argument is like that: "),
        ("forward(`a b`)", "no argument is like that: "),
    ],
)
def test_a_name_that_is_none_is_refused(line: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_program(f"program {{\n\n  {line}\n  return None\n}}", where="a.txt")


class Regions(nn.Module):
    """One within another, and one that reads a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, self.inner, lambda y: y @ self.w, (x,))

    def inner(self, x: Tensor) -> Tensor:
        return torch.cond(x.mean() > 1, torch.sin, torch.cos, (x,))


def test_regions_are_read_back() -> None:
    x = torch.randn(3, 4)
    exported = torch.export.export(Regions(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program = from_exported(exported)
    check_read_back(program)
    text = format_program(program)
    assert text.count("region @") == 4 and "higher_order.cond(%gt, @true_graph_0, @false_graph_0," in text
    again = parse_program(text, state=program.state)
    for sign in (1, -1):
        torch.testing.assert_close(ProgramModule(again)(sign * x.abs()), ProgramModule(program)(sign * x.abs()))


def test_a_text_by_hand() -> None:
    program = parse_program(TEXT, seed=1)
    assert list(program.state) == ["w", "a b.0", "order"] and program.interface.writes
    result = ProgramModule(program)(torch.ones(5, 3))
    assert result["y"].shape == (5, 4) and result["none"] is None
    assert torch.equal(parse_program(TEXT, seed=1).state["w"], program.state["w"])
    shapes_only = parse_program(TEXT)
    assert shapes_only.state["w"].is_meta and not shapes_only.state["order"].is_meta
    assert Pipeline.parse("infer-axes,find-groups").run(shapes_only)


WRONG = {
    "no program": ("x", "a.txt:1:1: a program begins with 'program {', and here is 'x'"),
    "not closed": (TEXT[:-3], "expected '}' and found the end"),
    "something behind": (TEXT + "x", "expected nothing behind the program and found 'x'"),
    "no op": (TEXT.replace("aten.linear", "aten.linera"), "a.txt:7:13: there is no op aten.linera"),
    "code": (TEXT.replace("aten.linear", "os.system"), "there is no op os.system"),
    "python": (TEXT.replace("aten.linear", "builtins.eval"), "there is no op builtins.eval"),
    "no value": (TEXT.replace("(%x,", "(%y,"), "a.txt:7:26: %y is not known before this line"),
    "no parameter": (TEXT.replace("%x, w", "%x, v"), "v is not known before this line"),
    "not its inputs": (TEXT.replace("w : f32[4, 3]", "w : f32[4, 2]"), "aten.linear.default does not take its inputs"),
    "not its type": (
        TEXT.replace("1, order) : f32[s0, 4]", "1, order) : f32[s0, 3]"),
        "gives f32[s0, 4] here, not f32[s0, 3]",
    ),
    "no size": (TEXT.replace("%x : f32[s0", "%x : f32[batch"), "there is no size batch. Known: s0 (the batch)."),
    "twice": (TEXT.replace("%add =", "%linear ="), "%linear is taken"),
    "no comma": (TEXT.replace("%x, w", "%x w"), "expected ')' and found 'w, "),
    "values": (TEXT.replace("[3, 1, 0, 2]", "[3, 1]"), "the values of order are none of its type and shape"),
    "setting": (
        TEXT.replace("  param w", "  set loud = True\n  param w"),
        "no setting loud. Settings: about, asked,",
    ),
    "no return": (re.sub("  return.*\n", "", TEXT), "the program does not return"),
    "call": (TEXT.replace("  param w", "  call(%y)\n  param w"), "is called and not told, or told and not called"),
    "deep": (TEXT.replace("1, order", "[" * 50), "more than 40 containers within each other"),
}


CHOICE = """program {
  input %x : f32[s0, 4]
  region @one(%a) {
    %y = aten.relu(%a)
    return (%y,)
  }
  region @other(%b) {
    %z = aten.neg(%b)
    return (%z,)
  }
  %total = aten.sum(%x) : f32[]
  %gt = aten.gt.Scalar(%total, 0) : bool[]
  %cond = higher_order.cond(%gt, @one, @other, (%x,)) : (f32[s0, 4])
  %first = operator.getitem(%cond, 0) : f32[s0, 4]
  return %first
}
"""

WRONG |= {
    "not the type of its regions": (
        CHOICE.replace("(f32[s0, 4])", "(f32[s0, 5])"), "a.txt:13:57: cond gives (f32[s0, 4]) here, not (f32[s0, 5])"
    ),
    "regions of two types": (
        CHOICE.replace("aten.neg(%b)", "aten.mean.dim(%b, [1])"),
        "a.txt:13:11: the regions of cond do not give the same: f32[s0, 4] and f32[s0]",
    ),
}  # fmt: skip


def test_what_regions_give_is_what_the_text_says() -> None:
    assert format_program(parse_program(CHOICE)).strip() == CHOICE.strip()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_place(name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(UserError) as error:
        parse_program(text, where="a.txt")
    assert message in str(error.value) and re.match(r"a\.txt:\d+:\d+: ", str(error.value)), error.value


def test_what_has_no_text_is_told_where_it_is_needed() -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor, how: Any = object) -> Tensor:
            return x + 1

    program: Program = capture(Given(), (torch.randn(2, 3),))
    text = format_program(program)
    assert '  forward(x, how=opaque("type"))' in text and format_program(parse_program(text)) == text
    with pytest.raises(UserError, match=r"a value of the kind type has no text"):
        parse_program(text.replace("(%x, 1)", '(%x, opaque("type"))'))


def test_sizes_within_sizes_without_end_are_refused() -> None:
    deep = "(" * 5000 + "3" + ")" * 5000
    with pytest.raises(UserError, match="within each other"):
        parse_program(f"program {{\n  forward(x)\n  input %x : f32[{deep}]\n  return %x\n}}\n")


LSTM = """program {
  forward(x, h, c)
  param w : f32[16, 3]
  param u : f32[16, 4]
  input %x : f32[s0, 5, 3]
  input %h : f32[1, s0, 4]
  input %c : f32[1, s0, 4]
  %lstm = aten.lstm.input(%x, [%h, %c], [w, u], False, 1, 0.0, False, False, True) : OUT
  %y = operator.getitem(%lstm, 0) : f32[s0, 5, 4]
  return %y
}
""".replace("OUT", "(f32[s0, 5, 4], f32[1, s0, 4], f32[1, s0, 4])")


@pytest.mark.parametrize(
    ("size", "what"),
    [("%h : f32[1, s0, 4]", "%h : f32[1, s0, 3]"), ("%h : f32[1, s0, 4]", "%h : f32[2, s0, 4]"),
     ("%c : f32[1, s0, 4]", "%c : f32[1, 2, 4]"), ("%c : f32[1, s0, 4]", "%c : f32[1, s0, 1]"),
     ("%x : f32[s0, 5, 3]", "%x : f32[s0, 5, 2]")],
)  # fmt: skip
def test_states_that_torch_would_read_beyond_are_refused(size: str, what: str) -> None:
    """Torch's own kernel does not look at their sizes, and takes the process down."""
    parse_program(LSTM, seed=0)
    with pytest.raises(UserError, match="recurrent layer"):
        parse_program(LSTM.replace(size, what), seed=0)
