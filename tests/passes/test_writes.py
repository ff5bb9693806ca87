"""In-place ops: whatever a model writes into memory, its functional program gives the same values."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

from atograph.capture.to_program import capture
from atograph.passes.ir.run import ProgramModule
from atograph.passes.rewrite import functionalize
from atograph.passes.rewrite.writes import written

Tensor = torch.Tensor

VIEWS: list[Callable[[Tensor, random.Random], Tensor]] = [
    lambda t, r: t[..., r.randrange(t.shape[-1]) :] if t.dim() else t,
    lambda t, r: t[..., : r.randrange(1, t.shape[-1] + 1)] if t.dim() else t,
    lambda t, r: t[:, r.randrange(t.shape[1])] if t.dim() > 2 else t,
    lambda t, r: t.transpose(-1, -2) if t.dim() > 2 else t,
    lambda t, r: t.permute(0, *reversed(range(1, t.dim()))),
    lambda t, r: t.unsqueeze(1) if t.dim() < 4 else t,
    lambda t, r: t.squeeze(1) if t.dim() > 2 and t.shape[1] == 1 else t,
    lambda t, r: t.view(t.shape[0], -1) if t.is_contiguous() else t,
    lambda t, r: t.detach(),
]
WRITES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda t, other: t.add_(1),
    lambda t, other: t.mul_(other.mean()),
    lambda t, other: t.fill_(0.5),
    lambda t, other: t.zero_(),
    lambda t, other: t.relu_(),
    lambda t, other: t.copy_(other.exp().flatten(1)[:, :1].reshape(-1, *[1] * (t.dim() - 1))),
    lambda t, other: t.sub_(2).sigmoid_(),
    lambda t, other: t.add_(other) if t.shape == other.shape else t.neg_(),
    lambda t, other: t.relu_().add_(other) if t.shape == other.shape else t.relu_().neg_(),
]


class Writer(nn.Module):
    """Views of views, written and read in a random order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> list[Tensor]:
        chance = random.Random(self.seed)
        memories = [[x * 2], [x.sin()]]
        results = []
        for _ in range(16):
            one, another = chance.sample(memories, 2)
            tensor = chance.choice(one)
            match chance.randrange(3):
                case 0:
                    one.append(chance.choice(VIEWS)(tensor, chance))
                case 1:
                    one.append(chance.choice(WRITES)(tensor, chance.choice(another)))
                case 2:
                    results.append(tensor * 3)
        chance.shuffle(memories[0])
        return [*results, *(tensor + 0 for memory in memories for tensor in memory[: chance.randrange(1, 5)])]


@pytest.mark.parametrize("seed", range(60))
def test_a_write_reaches_whoever_reads_it_later(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_help(_program: object) -> None:
        raise AssertionError("torch's own functionalisation was asked")

    monkeypatch.setattr(functionalize, "_by_torch", no_help)
    x = torch.randn(2, 3, 4)
    program = capture(Writer(seed), (x,))
    assert not [node for node in program.graph.nodes if written(node) is not None]
    for inputs in (x, torch.randn(5, 3, 4)):
        torch.testing.assert_close(ProgramModule(program)(inputs), Writer(seed)(inputs))


class Hidden(nn.Module):
    """``reshape`` may or may not be a view: here it is, there it is not."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, z = x * 2, (x * 2).transpose(1, 2)
        y.reshape(len(x), -1).relu_()
        z.reshape(len(x), -1).relu_()
        return y * 1, z * 1


def test_what_may_be_a_view_is_left_to_torch() -> None:
    x = torch.randn(2, 3, 4)
    program = capture(Hidden(), (x,))
    torch.testing.assert_close(ProgramModule(program)(x), Hidden()(x))


def test_memory_keeps_its_type() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counts = torch.zeros(len(x), 4, dtype=torch.int32)
            counts[:, 1:3] = x[:, :2] * 10
            return counts

    x = torch.randn(3, 4)
    found = ProgramModule(capture(Counts(), (x,)))(x)
    assert found.dtype == torch.int32 and torch.equal(found, Counts()(x))


def test_what_is_only_read_is_no_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4))

        def forward(self, x: Tensor) -> Tensor:
            y, z = x.sin(), x.cos()
            y += z
            z += self.scale.view(1, 1, 4)
            return y * z * self.scale

    monkeypatch.setattr(functionalize, "_by_torch", None)
    model, x = Residual(), torch.randn(2, 3, 4)
    torch.testing.assert_close(ProgramModule(capture(model, (x,)))(x), model(x))


def of_topk(x: Tensor) -> Tensor:
    values, places = x.topk(2, -1)
    values /= values.sum(-1, keepdim=True)
    places.add_(1)
    return values * places


def of_sort(x: Tensor) -> Tensor:
    values, places = x.sort(-1)
    places.clamp_(max=2)
    return values + places


def of_parts(x: Tensor) -> Tensor:
    """What splits a tensor gives views of it."""
    y = x * 2
    one, _other = y.split([1, 3], -1)
    one.relu_()
    return y + one


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(("function", "alone"), [(of_topk, True), (of_sort, True), (of_parts, False)])
def test_one_of_several_results_is_no_view_unless_its_op_says_so(
    function: Callable[[Tensor], Tensor], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, by_torch = list[object](), functionalize._by_torch
    monkeypatch.setattr(functionalize, "_by_torch", lambda program: (asked.append(program), by_torch(program))[1])
    program = capture(Call(function), (torch.randn(2, 4),))
    assert bool(asked) is not alone
    x = torch.randn(5, 4)
    torch.testing.assert_close(ProgramModule(program)(x), function(x))
