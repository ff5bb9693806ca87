"""Core ATen programs: the ops and the groups of their modules, and the same values."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from networks import NETWORKS, build
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import atograph
from atograph.capture.finished import functional
from atograph.capture.to_program import capture
from atograph.passes.analysis.groups import Groups
from atograph.passes.ir.exported.from_exported import from_exported
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.patterns.recompose import Recompose
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.plan.at_random import random_plan
from atograph.passes.rewrite.slim import SlimProgram
from atograph.passes.text.printer import format_program
from atograph.slimming.masking import mask
from benchmarks.exact import perturb


class Attention(nn.Module):
    """A layer of a transformer, with attention of its own and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(12), nn.RMSNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12, bias=False), nn.Dropout(0.5))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        mask = torch.ones(5, 5).triu(1).bool()
        x = x + self.attention(y, y, y, need_weights=False, is_causal=True, attn_mask=mask)[0]
        return self.head(x + self.mlp(self.second(x))).log_softmax(-1)


def _images(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, nn.Conv2d(8, 4, 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (lambda name=name: build(name)[0], tuple(build(name)[1].shape)) for name in NETWORKS},  # type: ignore[misc]
    "norms": (_images(nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)), (2, 3, 6, 6)),
    "instances": (_images(nn.SiLU(), nn.InstanceNorm2d(8), nn.Hardswish(), nn.PReLU(8)), (2, 3, 6, 6)),
    "transposed": (
        _images(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.MaxPool2d(2)),
        (2, 3, 6, 6),
    ),
    "one dim": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.GELU("tanh"), nn.ConvTranspose1d(8, 4, 3)), (2, 3, 7)),
    "three": (lambda: nn.Sequential(nn.Conv3d(3, 8, 2), nn.BatchNorm3d(8), nn.Conv3d(8, 4, 1)), (2, 3, 3, 3, 3)),
    "pooled": (_images(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2)), (2, 3, 6, 6)),
    "attention": (Attention, (2, 5, 12)),
    "layer": (lambda: nn.TransformerEncoderLayer(12, 2, 16, batch_first=True), (2, 5, 12)),
    "vectors": (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), (2, 6)),
}


def decomposed(model: nn.Module, x: Tensor) -> ExportedProgram:
    return torch.export.export(model, (x,), dynamic_shapes=({0: Dim.AUTO},), strict=False).run_decompositions()


def groups(program: Program) -> list[tuple[object, ...]]:
    return sorted((str(group.members), group.size, group.frozen is None) for group in program.fact(Groups))


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_groups_are_those_of_the_module(name: str) -> None:
    """And it is exact: the same values as the module, and masked is slim."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    perturb(model)
    own = Pipeline.parse(ANALYSE).run(capture(model, (x,)))
    program = Pipeline.parse(f"recompose,{ANALYSE}").run(functional(from_exported(decomposed(model, x))))
    assert groups(program) == groups(own)
    plan = random_plan(program.fact(Groups), keep=0.5, seed=0)
    slim = ProgramModule(Pipeline((SlimProgram(plan),)).run(program))
    with torch.no_grad():
        torch.testing.assert_close(ProgramModule(program)(x), model(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slim(x), mask(model, plan)(x), rtol=1e-9, atol=1e-9)


def test_ops_are_those_of_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), nn.Linear(9, 2)).eval()
    program = from_exported(decomposed(model, torch.randn(2, 3, 3, 3)))
    lines = format_program(Pipeline.parse("dce,recompose,canonicalize").run(program)).splitlines()
    assert [line.split(" = ")[1].split("(")[0] for line in lines if " = aten" in line] == [
        "aten.sym_size.int", "aten.conv2d", "aten.batch_norm", "aten.relu", "aten.view", "aten.linear",
    ]  # fmt: skip


def test_a_decomposed_program_is_traced_like_its_module() -> None:
    model, x = build("residual")
    graph, own = atograph.trace(decomposed(model, x)), atograph.trace(model, x)
    assert [str(group) for group in graph.groups] == [str(group) for group in own.groups]


GELUS = {
    "none": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "none, inside": lambda x: x * ((torch.erf(x * math.sqrt(0.5)) + 1) * 0.5),
    "tanh": lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
    "tanh, product": lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))),
    "tanh, fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608028654 * (1 + 0.044715 * x * x))),
    "tanh, last": lambda x: 0.5 * (x * (1 + torch.tanh((x + 0.044715 * x**3) * math.sqrt(2 / math.pi)))),
}


class Activated(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


@pytest.mark.parametrize("name", GELUS)
def test_a_gelu_that_is_written_out_is_one_op(name: str) -> None:
    x = torch.randn(3, 64, dtype=torch.float64)
    program = capture(Activated(GELUS[name]).eval(), (x,))
    result = Recompose()(program).graph_module
    (op,) = (node for node in result.graph.nodes if node.op == "call_function")
    assert op.target is torch.ops.aten.gelu.default and op.kwargs["approximate"] == name.partition(",")[0]
    torch.testing.assert_close(ProgramModule(result)(x), GELUS[name](x), rtol=1e-12, atol=1e-12)


def test_what_is_nearly_a_gelu_stays_and_says_why() -> None:
    program = capture(Activated(lambda x: 0.5 * x * (1 + torch.erf(x / 1.414))).eval(), (torch.randn(3, 4),))
    assert Recompose()(program).graph_module is program
    assert "its other is 1.414, and 1.4142135623730951 in the pattern" in Recompose().refused(program)[0]


def test_what_is_no_module_stays() -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(x[0], x, x.t()) + x.as_strided((4, 4), (1, 4))

    program = capture(Other(), (torch.randn(4, 4),), dynamic=False)
    assert Recompose()(program).graph_module is program
    assert any("another view of the memory" in line for line in Recompose().refused(program))


def test_a_group_norm_that_is_told_other_sizes_stays() -> None:
    """By those sizes it norms other channels together."""

    class Told(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten.native_group_norm(x, None, None, 1, 12, 4, 2, 1e-5)[0]

    x = torch.randn(2, 6, 4, dtype=torch.float64)
    graph = atograph.trace(torch.export.export(Told(), (x,)))
    torch.testing.assert_close(graph.model(x), Told()(x), rtol=1e-12, atol=1e-12)
