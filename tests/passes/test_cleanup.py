"""Passes that leave out what a program can do without: what they print, what they leave, and the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atograph.capture.to_program import capture
from atograph.passes.base import RewritePass
from atograph.passes.cleanup.canonicalize import Canonicalize
from atograph.passes.cleanup.cse import ShareSubexpressions
from atograph.passes.cleanup.dce import RemoveDeadCode
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.pipeline.text import format_program

aten = torch.ops.aten


class Of(nn.Module):
    """A function of the input and of a weight [4, 4]."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.w)


def body(program: Program) -> str:
    """The ops of a program as text, without types."""
    lines = format_program(program).splitlines()
    return "\n".join(line.split(" : ")[0].strip() for line in lines if " = " in line or "return" in line)


def cleaned(each: RewritePass, function: Callable[..., Any], x: Tensor | None = None) -> str:
    """The ops that a pass leaves of a function; it gives the same to the bit, and a second run changes nothing."""
    x = torch.randn(3, 4) if x is None else x
    program = capture(Of(function), (x,))
    before = format_program(program)
    result = Pipeline((each,)).run(program)  # with the verifier
    assert format_program(program) == before
    torch.manual_seed(0)
    expected = ProgramModule(program)(x)
    torch.manual_seed(0)
    torch.testing.assert_close(ProgramModule(result)(x), expected, rtol=0, atol=0, equal_nan=True)
    assert each(result).graph_module is result
    return body(result)


# -- dce ---------------------------------------------------------------------------------------------------------------


def test_dead_code_goes_with_its_parameters() -> None:
    program = capture(Of(lambda x, w: (x.relu(), x @ w)), (torch.randn(3, 4),))
    graph, _nodes = copy_graph(program.graph)
    returns = next(iter(reversed(graph.nodes)))
    relu, _matmul = returns.args[0]
    returns.args = ([relu, relu],)
    dead = program.rewritten(graph, program.state)
    assert body(Pipeline.parse("dce").run(dead)) == "%0 = aten.relu(%x)\nreturn [%0, %0]"
    assert not RemoveDeadCode()(dead).graph_module.state and "w" in dead.state


def test_random_ops_that_nobody_reads_stay() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        torch.randn_like(x)
        return x + torch.randn_like(x)

    assert cleaned(RemoveDeadCode(), function).count("randn_like") == 2


# -- cse ---------------------------------------------------------------------------------------------------------------


def test_the_same_ops_are_computed_once() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        one, other = torch.sigmoid(x @ w), torch.sigmoid(x @ w)
        return one * torch.add(other, x, alpha=1) - (one + x)

    assert cleaned(ShareSubexpressions(), function) == (
        "%0 = aten.matmul(%x, w)\n"
        "%1 = aten.sigmoid(%0)\n"
        "%2 = aten.add.Tensor(%1, %x)\n"
        "%3 = aten.mul.Tensor(%1, %2)\n"
        "%4 = aten.sub.Tensor(%3, %2)\n"
        "return [%4]"
    )


@pytest.mark.parametrize(
    ("function", "op", "times"),
    [
        (lambda x, w: torch.rand_like(x) + torch.rand_like(x), "rand_like", 2),
        (lambda x, w: F.dropout(x, 0.5) * F.dropout(x, 0.5), "dropout", 2),  # each drops others
        (lambda x, w: F.dropout(x.neg(), 0.5, False) * F.dropout(x.neg(), 0.5, False), "dropout", 1),  # off
        (lambda x, w: x.long() * 3 + x.long() * 3.0, "mul", 2),  # of integers, and of floats
        (lambda x, w: x / 0.0 + x / -0.0, "div", 2),
        (lambda x, w: x + torch.zeros(4) + torch.zeros(4), "zeros", 2),  # perhaps the widths of two layers
        (lambda x, w: (torch.relu(x), torch.relu(x)), "relu", 2),  # two outputs are two tensors
        (lambda x, w: (torch.relu(x).view(-1), torch.relu(x).view(-1)), "relu", 2),
        (lambda x, w: (torch.relu(x), torch.relu(x) + 1), "relu", 1),
        (lambda x, w: (torch.nonzero(x).sum(), torch.nonzero(x).sum()), "nonzero", 2),  # of sizes of their own
        (lambda x, w: x.split(2, 1)[0] + x.split(2, 1)[1], "split", 1),
    ],
)
def test_what_is_the_same(function: Callable[..., Any], op: str, times: int) -> None:
    text = cleaned(ShareSubexpressions(), function)
    assert sum(f"aten.{op}" in line for line in text.splitlines()) == times, text


# -- canonicalize ------------------------------------------------------------------------------------------------------


def test_ops_that_do_nothing_go() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = F.dropout(x, 0.5, False).view(-1, 4).reshape(x.shape).expand(-1, 4)[:, :]
        y = y.transpose(0, 1).permute(1, 0).to(torch.float32)
        y = ((y @ w).clone() * 1 / 1.0 - 0).flatten(1)
        return y + y.detach()

    assert cleaned(Canonicalize(), function) == (
        "%0 = aten.matmul(%x, w)\n%1 = aten.detach(%0)\n%2 = aten.add.Tensor(%0, %1)\nreturn [%2]"
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: F.dropout(x, 0.5) + 1,
        lambda x, w: x.relu() + 0,  # 0.0 where there was -0.0
        lambda x, w: torch.sub(x.relu(), -0.0),
        lambda x, w: x.relu() * -1,
        lambda x, w: torch.rsub(x.relu(), 0),
        lambda x, w: x.relu() * torch.ones(3, 1, 1),  # of another shape
        lambda x, w: x.long() * 1.0,  # of another type
        lambda x, w: x[:, 0:3] + 1,
        lambda x, w: x[0:100] + 1,  # there may be more than a hundred samples
        lambda x, w: x.squeeze(0) + 1,  # there may be one sample
        lambda x, w: x.transpose(0, 1) + w[:, :1],
        lambda x, w: x[None].permute(1, 2, 0) + 1,
        lambda x, w: x[:, ::2].clone().view(-1),  # without its copy, it has no such view
        lambda x, w: x.t().contiguous().view(-1),
        lambda x, w: (lambda y: (y, y.clone()))(x.relu()),  # two outputs are two tensors
        lambda x, w: x.view(-1, 4),  # an input is no output
        lambda x, w: x.to(torch.float32, copy=True) + 1,
        lambda x, w: x.unsqueeze(0).squeeze(0) + 1,
    ],
)
def test_ops_that_do_something_stay(function: Callable[..., Any]) -> None:
    program = capture(Of(function), (torch.randn(3, 4),))
    assert Canonicalize()(program).graph_module is program, body(program)


def test_minus_zero_and_integers() -> None:
    assert "add" not in cleaned(Canonicalize(), lambda x, w: torch.add(x.relu(), -0.0).neg())
    assert "add" not in cleaned(Canonicalize(), lambda x, w: (x.long() * 2 + 0).neg())


def test_what_is_returned_is_no_input_and_no_other_output() -> None:
    text = cleaned(Canonicalize(), lambda x, w: (x.relu().clone(), x.neg().clone() + 1))
    assert text == "%0 = aten.relu(%x)\n%1 = aten.neg(%x)\n%2 = aten.add.Tensor(%1, 1)\nreturn [%0, %2]"


def test_together_they_leave_little() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        a, b = F.dropout(x @ w, 0.5, False), (x @ w).reshape(-1, 4)
        return torch.tanh(a) * torch.tanh(b)

    program = capture(Of(function), (torch.randn(3, 4),))
    assert body(Pipeline.parse("canonicalize,cse,dce").run(program)) == (
        "%0 = aten.matmul(%x, w)\n%1 = aten.tanh(%0)\n%2 = aten.mul.Tensor(%1, %1)\nreturn [%2]"
    )
