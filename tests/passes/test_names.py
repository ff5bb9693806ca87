"""Names of nodes: by module and op, and the same whatever is put before them."""

from __future__ import annotations

import difflib

import torch
from networks import build
from torch import nn

from atograph.capture import capture
from atograph.passes import Pipeline, Program, ProgramModule, copy_graph, format_program, parse_program
from atograph.passes.ir.propagate import propagate
from atograph.passes.text.names import named


def relu_in_front(program: Program) -> Program:
    graph, _nodes = copy_graph(program.graph)
    (x,) = (node for node in graph.nodes if node.name == "x")
    with graph.inserting_after(x):
        relu = graph.call_function(torch.ops.aten.relu.default, (x,))
    x.replace_all_uses_with(relu, delete_user_cb=lambda user: user is not relu)
    propagate(graph, {})
    return program.rewritten(graph, program.state)


def changed(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_a_node_in_front_renames_nothing() -> None:
    model, x = build("residual")
    before = capture(model, (x,))
    assert changed(format_program(before), format_program(relu_in_front(before))) == [
        "-  %stem_0_conv2d = aten.conv2d(%x, stem.0.weight, None, [1, 1], [1, 1]) : f32[s0, 8, 8, 8]",
        "+  %relu_default = aten.relu(%x) : f32[s0, 3, 8, 8]",
        "+  %stem_0_conv2d = aten.conv2d(%relu_default, stem.0.weight, None, [1, 1], [1, 1]) : f32[s0, 8, 8, 8]",
    ]


class InFront(nn.Module):
    """A relu before a module."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.inner = stem

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.relu(x))


def test_a_line_in_the_model_renames_nothing_in_its_other_modules() -> None:
    model, x = build("residual")
    before = format_program(capture(model, (x,)))
    model.stem = InFront(model.stem)
    lines = changed(before, format_program(capture(model, (x,))))
    added = [line.partition(" =")[0] for line in lines if line[:4] == "+  %"]
    assert [name for name in added if "stem" not in name] == ["+  %body_0_conv2d", "+  %add"]


def test_names_are_those_of_modules_and_ops() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.lstm = nn.ReLU(), nn.LSTM(4, 4, batch_first=True)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            (y, _state) = self.lstm(self.relu(input))
            return torch.sum(torch.relu(torch.relu(y)), -1)

    program = capture(Net(), (torch.randn(2, 3, 4),))
    ops = [node.name for node in program.graph.nodes if node.op == "call_function"]
    assert [name for name in ops if "relu" in name or "sum" in name] == ["relu", "relu_1", "relu_2", "sum_1"]
    assert [node.name for node in program.input_nodes()] == ["input"]
    assert format_program(named(program)) == format_program(program)


def test_operands_of_a_region_have_names_of_their_own() -> None:
    """One that gets another name does not get that of the next, nor is it written over by it."""
    program = parse_program(
        "program {\n  input %add : f32[s0, 4]\n  input %add_1 : f32[s0, 4]\n"
        "  region @one(%add, %add_2) {\n    %y = aten.sub.Tensor(%add, %add_2)\n    return (%y,)\n  }\n"
        "  region @other(%a, %b) {\n    %z = aten.mul.Tensor(%a, %b)\n    return (%z,)\n  }\n"
        "  %total = aten.sum(%add)\n  %gt = aten.gt.Scalar(%total, 0)\n"
        "  %cond = higher_order.cond(%gt, @one, @other, (%add, %add_1))\n"
        "  %first = operator.getitem(%cond, 0)\n  return %first\n}"
    )
    result = named(program)
    text = format_program(result)
    assert "region @one(%add_2, %add_2_1)" in text and "aten.sub.Tensor(%add_2, %add_2_1)" in text
    cleaned = Pipeline.parse("dce,cse,canonicalize").run(result)
    assert format_program(cleaned) == text
    x, y = torch.ones(2, 4), torch.full((2, 4), 3.0)
    for each in (program, result, cleaned, parse_program(text)):
        assert torch.equal(ProgramModule(each)(x, y), x - y)
