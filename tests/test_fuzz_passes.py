"""Random networks through the passes that ship, before ``slim`` and behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from growing import EXAMPLES, MANY, SEED, Composed, Grown, compositions, networks
from growing.regional import Regional, regional
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import atograph
from atograph.capture.finished import functional
from atograph.capture.to_program import capture
from atograph.passes.analysis.groups import Groups
from atograph.passes.ir.exported.from_exported import from_exported
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.plan.at_random import random_plan
from atograph.passes.rewrite.slim import SlimProgram
from atograph.slimming.masking import zero_
from benchmarks.exact import difference, perturb

pytestmark = [
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter"),
    pytest.mark.filterwarnings("ignore:index_reduce"),
]

Example = tuple[Grown | Composed, tuple[Tensor, ...]]

CLOSE = {"dce": 0.0, "cse": 0.0, "canonicalize": 0.0, "fold-constants": 0.0, "fold-batch-norm": 1e-9, "recompose": 1e-9}
"""Pass → how far off its values may be, relatively, in float64."""


class Redundant(nn.Module):
    """A network that is run twice, with ops that do nothing behind it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        once, again = (listed(self.network(*inputs)) for _ in range(2))
        return tuple(self.sum(a, b) for a, b in zip(once, again, strict=True))

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        b = b.clone().view(b.shape)
        return a.transpose(0, -1).transpose(-1, 0) + b * 1 if b.is_floating_point() else b


def normed(network: nn.Module) -> nn.Module:
    """A network with a batch norm behind each convolution."""
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
                setattr(module, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels)))
    return network


@pytest.mark.long
@pytest.mark.parametrize("name", CLOSE)
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 10, 10))
@given(networks() | compositions(), st.integers(0, 2**16), st.booleans())
def test_before_and_after_slim(name: str, example: Example, number: int, twice: bool) -> None:
    """The pass changes no value and no group, its program made slim is exact, and so is a slim one after the pass."""
    model, given = example
    perturb(normed(model) if name == "fold-batch-norm" else model, number)
    check(name, Redundant(model) if twice else model, given, number)


@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 75, 1))
@given(regional(), st.integers(0, 2**16), st.booleans())
def test_regions_before_and_after_slim(example: tuple[Regional, tuple[Tensor, ...]], number: int, twice: bool) -> None:
    """Passes go into the regions of control flow; one of them each time, and all of them as a fixpoint."""
    model, given = example
    perturb(model, number)
    model.write(False)
    torch._dynamo.reset()
    names = ["dce", "cse", "canonicalize", "fold-constants", "recompose", "fixpoint(canonicalize,cse,dce)"]
    name = names[number % len(names)]
    try:
        check(name, Redundant(model) if twice else model, given, number)
    except atograph.UserError:  # torch.export refuses it (test_fuzz.test_regions)
        with pytest.raises(Exception):  # noqa: B017
            torch.export.export(model, given, strict=False)


def check(name: str, model: nn.Module, given: tuple[Tensor, ...], number: int) -> None:
    """What a pass has to leave as it is, before slim and after."""
    inputs = tuple(x.double() for x in given)
    program = capture(model.double().eval(), inputs)
    close = CLOSE.get(name, 0.0)
    if name == "recompose":
        program = decomposed(program)
    result = Pipeline.parse(name).run(program)
    reference = outputs(program, inputs)
    assert difference(reference, outputs(result, inputs)) <= close, model
    analysed, whole = (Pipeline.parse(ANALYSE).run(each) for each in (result, program))
    if name == "recompose":
        assert free(analysed) >= free(whole), model
    else:
        assert groups(analysed, name) == groups(whole, name), model
    plan = random_plan(analysed.fact(Groups), keep=0.5, seed=number)
    slim = Pipeline((SlimProgram(plan),)).run(analysed)
    masked = copied(analysed)
    zero_(ProgramModule(masked), plan)
    expected = outputs(masked, inputs)
    assert difference(expected, outputs(slim, inputs)) <= 1e-9, model
    assert difference(expected, outputs(Pipeline.parse(name).run(slim), inputs)) <= 1e-9, model


def outputs(program: Program, inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
    with torch.no_grad():
        return listed(ProgramModule(program)(*inputs))


def groups(program: Program, name: str) -> list[tuple[object, ...]]:
    """What tells groups apart; a folded batch norm is no member any more, and what it is folded into has a new name."""
    found = program.fact(Groups)
    if name == "fold-batch-norm":
        return sorted((group.size, group.frozen is None) for group in found)
    return sorted((str(group.members), group.size, group.frozen is None) for group in found)


def free(program: Program) -> int:
    """How many units may go, a convolution that nobody knows taking all around it for frozen."""
    return sum(group.size for group in program.fact(Groups).prunable)


def decomposed(program: Program) -> Program:
    """The program in core ATen, where torch can; as it is, where it cannot."""
    try:
        exported = to_exported(program).run_decompositions()
        found = functional(from_exported(exported, program.interface.signature, program.interface.dynamic_called))
        ProgramModule(found)(*program.interface.example[0])  # type: ignore[index]
    except Exception:
        return program
    return found


def copied(program: Program) -> Program:
    """A program of the same values with tensors of its own."""
    return program.rewritten(copy_graph(program.graph)[0], {n: t.detach().clone() for n, t in program.state.items()})


def listed(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
