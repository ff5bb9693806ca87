"""Patterns: what they match, whatever the order of operands, what they refuse and why, and new parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from atograph.capture.to_program import capture
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.run import ProgramModule
from atograph.passes.patterns.replace import PatternPass, Replacement
from atograph.passes.patterns.written import pattern_of
from atograph.passes.pipeline.pipeline import Pipeline

aten = torch.ops.aten


class FuseGelu(PatternPass):
    name = "fuse-gelu"
    replacements = (Replacement(lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), lambda x: F.gelu(x)),)


class FuseLayerNorm(PatternPass):
    name = "fuse-layer-norm"

    @staticmethod
    def written_out(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight + bias

    @staticmethod
    def no_vectors(weight: fx.Node, bias: fx.Node) -> str | None:
        return None if weight.meta["val"].dim() == 1 == bias.meta["val"].dim() else "weight and bias are no vectors"

    replacements = (
        Replacement(
            written_out,
            lambda x, weight, bias, eps: torch.layer_norm(x, weight.shape, weight, bias, eps),
            unless=no_vectors,
        ),
    )


class Of(nn.Module):
    """A function of the input, and of a weight and a bias [4]."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.w, self.b = function, nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.w, self.b)


def captured(function: Callable[..., Any]) -> Program:
    return capture(Of(function).double(), (torch.randn(3, 5, 4, dtype=torch.float64),))


def ops(program: Program) -> list[str]:
    return [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]


def replaced(each: PatternPass, function: Callable[..., Any]) -> list[str]:
    """The ops afterwards; the values are the same to rounding, and another run finds nothing."""
    program = captured(function)
    result = Pipeline((each,)).run(program)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(ProgramModule(result)(x), ProgramModule(program)(x), rtol=1e-12, atol=1e-12)
    assert each(result).graph_module is result
    return ops(result)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w, b: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)),
        lambda x, w, b: (torch.erf(x / 1.4142135623730951) + 1) * (0.5 * x),
        lambda x, w, b: torch.mul(torch.add(torch.erf(x.div(1.414213562373095)), 1), x.mul(0.5)),
    ],
)
def test_operands_stand_in_either_order(function: Callable[..., Any]) -> None:
    assert replaced(FuseGelu(), function) == ["gelu"]


def test_several_matches_one_behind_the_other() -> None:
    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))

    assert replaced(FuseGelu(), lambda x, w, b: gelu(gelu(x) + w)) == ["gelu", "add", "gelu"]


def test_a_layer_norm() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        centred = x - torch.mean(x, dim=[2], keepdim=True)
        return b + w * (centred / ((centred**2).mean(-1, True) + 1e-5).sqrt())

    assert replaced(FuseLayerNorm(), function) == ["layer_norm"]


@pytest.mark.parametrize(
    ("each", "function", "why"),
    [
        (FuseGelu(), lambda x, w, b: x * 0.5 * (1 + torch.erf(x / 2)), r"div.Tensor: its other is 2, and 1.4142"),
        (FuseGelu(), lambda x, w, b: x * 0.5 * (1 + torch.tanh(x / 2**0.5)), "reads aten.tanh.default, and the"),
        (FuseGelu(), lambda x, w, b: x * 0.5 * (1 + torch.erf(w / 2**0.5)), "reads another x than the ops around it"),
        (
            FuseGelu(),
            lambda x, w, b: (lambda e: x * 0.5 * (1 + e) + e)(torch.erf(x / 2**0.5)),
            "erf.default: its value is read by aten.add.Tensor as well",
        ),
        (
            FuseGelu(),
            lambda x, w, b: x * 0.5 * (1 + torch.erf((x / 2**0.5).float())),
            "reads aten.to.dtype, and the pattern has aten.div",
        ),
        (FuseLayerNorm(), lambda x, w, b: FuseLayerNorm.written_out(x, w[:1], b, 1e-5), "what would take its place"),
        (FuseLayerNorm(), lambda x, w, b: FuseLayerNorm.written_out(x, x, b, 1e-5), "weight and bias are no vectors"),
    ],
)  # fmt: skip
def test_what_is_in_the_way(each: PatternPass, function: Callable[..., Any], why: str) -> None:
    program = captured(function)
    assert each(program).graph_module is program
    with_place = each.refused(program)
    assert len(with_place) == 1
    assert re.search(why, with_place[0]) and "test_patterns.py:" in with_place[0], with_place


def test_what_is_far_from_a_pattern_is_not_told() -> None:
    assert FuseGelu().refused(captured(lambda x, w, b: x * 2 + torch.erf(x))) == []


def test_a_replacement_of_another_type_is_none() -> None:
    class Halve(PatternPass):
        name = "halve"
        replacements = (Replacement(lambda x: torch.relu(x), lambda x: torch.sigmoid(x).to(torch.float32)),)

    program = captured(lambda x, w, b: torch.relu(x))
    assert Halve()(program).graph_module is program
    assert (
        "gives float64[s0, 5, 4] on cpu, and what would take its place float32[s0, 5, 4] on cpu"
        in (Halve().refused(program)[0])
    )


def test_dynamic_sizes_in_a_replacement() -> None:
    class Flat(PatternPass):
        name = "flat"
        replacements = (
            Replacement(lambda x: x.flatten(1), lambda x: x.reshape([x.shape[0], x.shape[1] * x.shape[2]])),
        )

    assert replaced(Flat(), lambda x, w, b: (x + 1).flatten(1)) == ["add", "sym_size", "reshape"]


def test_numbers_before_operators() -> None:
    class Shorter(PatternPass):
        name = "shorter"
        replacements = (Replacement(lambda x: 1 - 2 / x, lambda x: (x - 2) / x),)

    assert replaced(Shorter(), lambda x, w, b: 1 - 2 / (x * x + 1)) == ["mul", "add", "sub", "div"]


@pytest.mark.parametrize("function", [lambda x: F.softmax(x, -1), lambda x: torch.fused_everything(x)])
def test_what_is_no_op_is_no_pattern(function: Callable[..., Any]) -> None:
    with pytest.raises((UserError, AttributeError)):
        pattern_of(function)


def test_a_pattern_has_no_sizes() -> None:
    with pytest.raises(UserError, match="asks for the shape of one"):
        pattern_of(lambda x: x.reshape(x.shape[0], -1))


def test_new_parameters() -> None:
    program = captured(lambda x, w, b: x * w)
    graph, _nodes = copy_graph(program.graph)
    state = dict(program.state)
    root = next(node for node in graph.nodes if node.op == "call_function")
    for name in ("Scale.weight", "w", "w"):
        value = torch.full((4,), 2.0, dtype=torch.float64)
        made = program.new_parameter(graph, value, name)
        state[made.name] = value
        with graph.inserting_after(root):
            user = graph.call_function(aten.mul.Tensor, (root, made))
        user.meta = dict(root.meta)
        root.replace_all_uses_with(user, delete_user_cb=lambda node, user=user: node is not user)
    result = program.rewritten(graph, state)
    assert result.parameter_names() == {"w", "Scale.weight", "w_0", "w_1"}
    assert result.state.keys() == {"w", "Scale.weight", "w_0", "w_1"}
    module = ProgramModule(result)
    assert {name for name, _parameter in module.named_parameters()} == {"w", "Scale.weight", "w_0", "w_1"}
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), 8 * ProgramModule(program)(x))
    Pipeline.parse("canonicalize,infer-axes,find-groups,estimate-cost,plan-random,slim").run(result)
