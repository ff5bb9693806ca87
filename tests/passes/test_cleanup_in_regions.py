"""Passes that leave out what a program can do without, within the regions of control flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import map as map_over
from torch._higher_order_ops import scan, while_loop

from atograph.capture.to_program import capture
from atograph.passes import Pipeline, Program, ProgramModule, UserError, format_program, parse_program
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.patterns.replace import PatternPass, Replacement

ALL = "fixpoint(canonicalize,cse,dce)"


class Within(nn.Module):
    """A function in a region of some form; it takes [3, 4] and a layer, and gives [3, 4]."""

    def __init__(self, form: Callable[..., Tensor], function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.form, self.function = form, function
        self.layer, self.off = nn.Linear(4, 4), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x, lambda value: self.function(value, self.layer, self.off).clone())


def in_cond(x: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cond(x.sum() > 0, body, lambda value: value * 2.0, (x,))


def in_inner_cond(x: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    inner: Callable[[Tensor], Tensor] = lambda value: torch.cond(  # noqa: E731
        value.mean() > 0.01, body, lambda value: value - 1.0, (value,)
    )
    return torch.cond(x.sum() > 0, inner, lambda value: value * 2.0, (x,))


def in_scan(x: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        state = body(state * 0.5 + row)
        return state.clone(), state.clone()

    return scan(step, torch.zeros_like(x[0]), x, dim=0)[1]  # type: ignore[no-any-return]


def in_map(x: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    return map_over(body, x)  # type: ignore[no-any-return]


def in_loop(x: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    start = torch.zeros((), dtype=torch.int64)
    return while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, body(x)), (start, x))[1]  # type: ignore[no-any-return]


FORMS = (in_cond, in_inner_cond, in_scan, in_map, in_loop)

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], int, int]] = {
    "duplicates": (lambda x, layer, off: layer(x).relu() + layer(x).relu(), 2, 1),
    "no-ops": (lambda x, layer, off: off(layer(x).view(x.shape) * 1), 1, 1),
    "both": (lambda x, layer, off: off(layer(x)) + layer(x).clone(), 2, 1),
    "transposes": (lambda x, layer, off: layer(x).unsqueeze(0).transpose(0, -1).transpose(-1, 0)[0], 1, 1),
    "nothing to do": (lambda x, layer, off: layer(x).sigmoid() * 2.0, 1, 1),
}
"""Name → function, and how often it has the layer before and after."""

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_what_is_too_much_goes(form: Callable[..., Tensor], name: str) -> None:
    function, before, after = FUNCTIONS[name]
    torch.manual_seed(0)
    model = Within(form, function).double().eval()
    torch._dynamo.reset()
    program = capture(model, (X,))
    text = format_program(program)
    result = Pipeline.parse(ALL).run(program)
    assert format_program(program) == text
    shown = format_program(result, values=True)
    assert (text.count("aten.linear("), shown.count("aten.linear(")) == (before, after)
    assert not any(op in shown for op in ("dropout", "aten.view(", "aten.transpose", "aten.mul.Tensor(%view, 1)"))
    assert Pipeline.parse(ALL).run(result) is result
    assert format_program(parse_program(shown), values=True) == shown
    exported = to_exported(result).module()
    with torch.no_grad():
        for x in (X, -X):
            expected = ProgramModule(program)(x)
            assert torch.equal(ProgramModule(result)(x), expected) and torch.equal(exported(x), expected)


def region(*lines: str) -> Program:
    """A program whose one branch has these lines, and gives ``%y``."""
    inner = "".join(f"    {line}\n" for line in lines)
    return parse_program(
        "program {\n  input %x : f32[s0, 4]\n"
        f"  region @one(%x_1) {{\n{inner}    return (%y,)\n  }}\n"
        "  region @other(%x_2) {\n    %neg = aten.neg(%x_2)\n    return (%neg,)\n  }\n"
        "  %total = aten.sum(%x)\n  %gt = aten.gt.Scalar(%total, 0)\n"
        "  %cond = higher_order.cond(%gt, @one, @other, (%x,))\n  %y_0 = operator.getitem(%cond, 0)\n  return %y_0\n}"
    )


def test_a_region_whose_result_has_no_type_is_read() -> None:
    """Types may be left out: that of an op of control flow comes from its regions."""
    assert ": (f32[s0, 4])" in format_program(region("%y = aten.relu(%x_1)"))
    with pytest.raises(UserError, match=r"text:10:11: cond does not take its inputs: .*must match|size"):
        region("%y = aten.view(%x_1, [7, 9])")
    text = format_program(region("%y = aten.relu(%x_1)")).replace("@one(%x_1)", "@one(%x_1, %another)")
    with pytest.raises(UserError, match="what %cond gives cannot be told, and needs a type on its line"):
        parse_program(text.replace(" : (f32[s0, 4])", ""))


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (("%a = aten.exp(%x_1)", "%y = aten.relu(%x_1)"), ("%y = aten.relu(%x_1)",)),
        (("%a = aten.rand_like(%x_1)", "%y = aten.relu(%x_1)"), None),
        (("%y = aten.clone(%x_1)",), None),
        (("%a = aten.view(%x_1, [-1, 4])", "%y = aten.clone(%a)"), ("%y = aten.clone(%x_1)",)),
        (("%a = aten.dropout(%x_1, 0.5, True)", "%y = aten.add.Tensor(%a, %a)"), None),
    ],
    ids=("dead", "random", "a result of its own", "of a view", "dropout that is on"),
)
def test_what_has_to_stay_stays(lines: tuple[str, ...], left: tuple[str, ...] | None) -> None:
    """Random numbers are drawn as before, and a region gives no memory of what it is given."""
    program = region(*lines)
    result = Pipeline.parse(ALL).run(program)
    found = format_program(result)
    if left is None:
        assert found == format_program(program)
    else:
        assert all(line in found for line in left) and "aten.exp" not in found


def test_control_flow_that_draws_and_is_not_read_stays() -> None:
    program: Any = region("%a = aten.rand_like(%x_1)", "%y = aten.add.Tensor(%x_1, %a)")
    text = format_program(program).replace("%y_0 = operator.getitem(%cond, 0)", "%y_0 = aten.relu(%x)")
    unread = parse_program(text)
    assert format_program(Pipeline.parse("dce").run(unread)) == format_program(unread)


class Shorter(PatternPass):
    name = "shorter"
    replacements = (
        Replacement(lambda x: x * torch.sigmoid(x), lambda x: torch.ops.aten.silu(x)),
        Replacement(lambda x: x * 2 / 2, lambda x: x),
    )


WRITTEN_OUT: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "silu": (lambda x, layer, off: layer(x) * layer(x).sigmoid() + 1, ("aten.linear", "aten.silu", "aten.add.Tensor")),
    "twice and half": (lambda x, layer, off: layer(x) * 2 / 2 + 1, ("aten.linear", "aten.add.Tensor")),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_patterns_are_replaced(form: Callable[..., Tensor], name: str) -> None:
    function, expected = WRITTEN_OUT[name]
    torch.manual_seed(0)
    torch._dynamo.reset()
    program = Pipeline.parse(ALL).run(capture(Within(form, function).double().eval(), (X,)))
    text = format_program(program)
    result = Pipeline((Shorter(),)).run(program)
    shown = format_program(result, values=True)
    assert format_program(program) == text and "aten.silu" not in text and "aten.sigmoid" not in shown
    assert all(f"{op}(" in shown for op in expected) and "aten.div" not in shown
    assert format_program(parse_program(shown), values=True) == shown
    assert Pipeline((Shorter(),)).run(result) is result
    exported = to_exported(result).module()
    with torch.no_grad():
        for x in (X, -X):
            expected_output = ProgramModule(program)(x)
            assert torch.allclose(ProgramModule(result)(x), expected_output, rtol=1e-12)
            assert torch.allclose(exported(x), expected_output, rtol=1e-12)


def test_a_pattern_gives_no_memory_of_what_a_region_is_given() -> None:
    program = region("%m = aten.mul.Tensor(%x_1, 2)", "%y = aten.div.Tensor(%m, 2)")
    assert Pipeline((Shorter(),)).run(program) is program
    assert any("aten.div.Tensor: a region gives memory of its own" in each for each in Shorter().refused(program))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_constants_are_folded(form: Callable[..., Tensor]) -> None:
    """What a region computes of constants, its own and those that it is given, is a constant that it takes;
    torch.export gives none to the body of a scan."""
    table = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def function(x: Tensor, layer: nn.Linear, off: nn.Dropout) -> Tensor:
        own = layer(x) * (torch.arange(4) + 1).exp().mul(0.01)
        return own if form is in_scan else own + table.neg().cos()

    torch.manual_seed(0)
    torch._dynamo.reset()
    program = capture(Within(form, function).double().eval(), (X,))
    text = format_program(program)
    assert "aten.exp(" in text and ("aten.cos(" in text or form is in_scan)
    result = Pipeline.parse("fold-constants,dce").run(program)
    shown = format_program(result, values=True)
    assert format_program(program) == text
    assert any(op in shown for op in ("aten.exp(", "aten.cos(", "aten.arange(")) is (form is in_scan)
    assert format_program(parse_program(shown), values=True) == shown
    assert Pipeline.parse("fold-constants").run(result) is result
    exported = to_exported(result).module()
    with torch.no_grad():
        for x in (X, -X):
            expected = ProgramModule(program)(x)
            assert torch.equal(ProgramModule(result)(x), expected) and torch.equal(exported(x), expected)
