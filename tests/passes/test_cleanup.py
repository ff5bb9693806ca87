"""Passes that leave out what a program can do without: what they print, what they leave, and the same values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from atograph.capture.to_program import capture
from atograph.passes.base import RewritePass
from atograph.passes.cleanup.canonicalize import Canonicalize
from atograph.passes.cleanup.cse import ShareSubexpressions, share_sizes
from atograph.passes.cleanup.dce import RemoveDeadCode
from atograph.passes.cleanup.fold_batch_norm import FoldBatchNorm
from atograph.passes.cleanup.fold_constants import FoldConstants
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.text.printer import format_program
from benchmarks.exact import perturb

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
    assert body(Pipeline.parse("dce").run(dead)) == "%relu = aten.relu(%x)\nreturn (%relu, %relu)"
    assert not RemoveDeadCode()(dead).graph_module.state and "w" in dead.state


def test_random_ops_that_nobody_reads_stay() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        torch.randn_like(x)
        return x + torch.randn_like(x)

    assert cleaned(RemoveDeadCode(), function).count("aten.randn_like") == 2


# -- cse ---------------------------------------------------------------------------------------------------------------


def test_the_same_ops_are_computed_once() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        one, other = torch.sigmoid(x @ w), torch.sigmoid(x @ w)
        return one * torch.add(other, x, alpha=1) - (one + x)

    assert cleaned(ShareSubexpressions(), function) == (
        "%matmul = aten.matmul(%x, w)\n"
        "%sigmoid = aten.sigmoid(%matmul)\n"
        "%add = aten.add.Tensor(%sigmoid, %x)\n"
        "%mul = aten.mul.Tensor(%sigmoid, %add)\n"
        "%sub = aten.sub.Tensor(%mul, %add)\n"
        "return %sub"
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
        "%matmul = aten.matmul(%x, w)\n"
        "%detach = aten.detach(%matmul)\n"
        "%add = aten.add.Tensor(%matmul, %detach)\n"
        "return %add"
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
    assert text == "%relu = aten.relu(%x)\n%neg = aten.neg(%x)\n%add = aten.add.Tensor(%neg, 1)\nreturn (%relu, %add)"


def test_together_they_leave_little() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        a, b = F.dropout(x @ w, 0.5, False), (x @ w).reshape(-1, 4)
        return torch.tanh(a) * torch.tanh(b)

    program = capture(Of(function), (torch.randn(3, 4),))
    assert body(Pipeline.parse("canonicalize,cse,dce").run(program)) == (
        "%matmul = aten.matmul(%x, w)\n%tanh = aten.tanh(%matmul)\n%mul = aten.mul.Tensor(%tanh, %tanh)\nreturn %mul"
    )


# -- fold-constants ----------------------------------------------------------------------------------------------------


def test_what_constants_come_to() -> None:
    mask = torch.tensor([1.0, 0.0, 2.0, 1.0])

    def function(x: Tensor, w: Tensor) -> Tensor:
        return x * (mask.exp() + torch.arange(4)).unsqueeze(0) + torch.zeros(4)

    program = capture(Of(function), (torch.randn(3, 4),))
    result = Pipeline.parse("fold-constants").run(program)
    assert body(result) == (
        '%mul = aten.mul.Tensor(%x, folded_0)\n%zeros = aten.zeros([4], device=device("cpu"), pin_memory=False)\n'
        "%add_1 = aten.add.Tensor(%mul, %zeros)\nreturn %add_1"
    )
    assert torch.equal(result.state["folded_0"], (mask.exp() + torch.arange(4))[None])
    x = torch.randn(5, 4)
    assert torch.equal(ProgramModule(result)(x), ProgramModule(program)(x))
    assert FoldConstants()(result).graph_module is result
    assert FoldConstants(largest=3)(program).graph_module is program
    with pytest.raises(UserError, match=r"fold-constants\{largest\} is a number of elements, 0 or more, not -1"):
        Pipeline.parse("fold-constants{largest=-1}")


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x @ w.exp(),  # a parameter
        lambda x, w: x + torch.ones(4),  # one op alone
        lambda x, w: x + torch.rand(4).neg(),
        lambda x, w: x + torch.arange(len(x)).unsqueeze(1),  # as long as the batch
        lambda x, w: (x + 1, torch.arange(4).unsqueeze(0)),  # the caller's own
    ],
)
def test_what_is_no_constant(function: Callable[..., Any]) -> None:
    program = capture(Of(function), (torch.randn(3, 4),))
    assert FoldConstants()(program).graph_module is program, body(program)


# -- fold-batch-norm ---------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "grouped": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6, affine=False)), (2, 4, 5)),
    "same": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 3, 3, 3)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()), (2, 4)),
}


def moved(model: nn.Module) -> nn.Module:
    """A model in float64 whose numbers are not those that it began with."""
    perturb(model.double().eval())
    return model


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_norm_goes_into_the_layer(name: str) -> None:
    make, shape = LAYERS[name]
    model, x = moved(make()), torch.randn(shape, dtype=torch.float64)
    program = capture(model, (x,))
    result = Pipeline.parse("fold-batch-norm").run(program)
    assert "batch_norm" not in body(result)
    assert result.parameter_names() == {"0.folded.weight", "0.folded.bias"} and "0.weight" in program.state
    torch.testing.assert_close(ProgramModule(result)(x), model(x), rtol=1e-12, atol=1e-12)


class Shared(nn.Module):
    """A convolution and its norm, twice; one in front of two norms; one that is read besides; a computed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.two, self.read = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.normed = parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.a, self.b, self.c, self.d, self.e = (nn.BatchNorm2d(4) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.both(self.a(self.both(x))))
        x = self.c(self.two(self.b(self.two(x))))
        y = self.read(x)
        return self.d(y) + y + self.e(self.normed(x))


def test_what_is_shared() -> None:
    model, x = moved(Shared()), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    result = Pipeline.parse("fold-batch-norm").run(capture(model, (x,)))
    assert body(result).count("aten.batch_norm") == 4
    folded = {name for name in result.parameter_names() if "folded" in name}
    assert folded == {"both.folded.weight", "both.folded.bias"} and "both.weight" not in result.state
    torch.testing.assert_close(ProgramModule(result)(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),  # which goes by the dim before the last here
        nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 4, 1)),
        nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4, track_running_stats=False)),
    ],
)
def test_a_batch_norm_that_stays(model: nn.Module) -> None:
    program = capture(model, (torch.randn(2, 4, 4),))
    assert FoldBatchNorm()(program).graph_module is program


def test_weights_that_are_not_there_are_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).to("meta")
    program = capture(model, (torch.randn(2, 4, 5, 5, device="meta"),))
    with pytest.raises(UserError, match=r"folding a batch norm needs values, but 0\.weight"):
        FoldBatchNorm()(program)


def test_sizes_are_computed_once() -> None:
    program = capture(Of(lambda x, w: torch.cat([x, x])), (torch.randn(3, 4),))
    graph, nodes = copy_graph(program.graph)
    returns = next(iter(reversed(graph.nodes)))
    with graph.inserting_before(returns):
        x = nodes[program.input_nodes()[0]]
        sizes = [graph.call_function(aten.sym_size.int, (x, 0)) for _ in range(2)]
        doubled = [graph.call_function(operator.mul, (size, 2)) for size in sizes]
        tripled = graph.call_function(operator.mul, (sizes[1], 3))
        views = [graph.call_function(aten.view.default, (returns.args[0][0], [each, 4])) for each in doubled]
    assert share_sizes(graph) == {sizes[1]: sizes[0], doubled[1]: doubled[0]}
    assert [view.args[1][0] for view in views] == [doubled[0]] * 2 and tripled.args[0] is sizes[0]


@pytest.mark.parametrize("change", [lambda z: z * 1, lambda z: z / 1, lambda z: z - 0.0, lambda z: z + -0.0])
def test_complex_numbers_are_left_alone(change: Callable[[Tensor], Tensor]) -> None:
    """The parts of an infinite one make NaNs of each other, and signs of zeros change."""

    class Net(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return change(z)

    z = torch.tensor([complex(torch.inf, torch.inf), complex(-0.0, -0.0), 1j])
    program = capture(Net(), (z,))
    result = Pipeline((Canonicalize(),)).run(program)
    assert len(result.graph.nodes) == len(program.graph.nodes)
