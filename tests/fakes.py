"""A hand-made graph for the training tests: groups and costs written down, no compiler involved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError


@dataclass
class FakeSlice:
    parameter: str
    dim: int
    units: Tensor


@dataclass
class FakeGroup:
    name: str
    size: int
    zeroing: list[FakeSlice] = field(default_factory=list)
    frozen: None = None


@dataclass
class FakePlan:
    kept: dict[str, tuple[int, ...]]


@dataclass
class FakeGraph:
    """``terms``: FLOPs as a sum of coefficient x product of kept units of the named groups."""

    prunable: list[FakeGroup]
    terms: list[tuple[int, tuple[str, ...]]]

    @property
    def cost(self) -> Any:
        sizes = {group.name: group.size for group in self.prunable}

        def flops(kept: Mapping[str, Any]) -> Any:
            total: Any = 0
            for coefficient, names in self.terms:
                product: Any = coefficient
                for name in names:
                    product = product * kept.get(name, sizes[name])
                total = total + product
            return total

        return SimpleNamespace(flops=flops)

    @property
    def flops(self) -> int:
        return int(self.cost.flops({}))

    def budgets(self, flops: float) -> Any:
        return SimpleNamespace(
            used=lambda kept: self.cost.flops(kept) / (flops * self.flops), check_gradients=lambda: None
        )

    def plan(self, *, kept: Mapping[str, Any]) -> FakePlan:
        return FakePlan({name: tuple(units) for name, units in kept.items()})

    def plan_from_scores(
        self, scores: Mapping[str, Tensor], flops: float = 0.5, floor: float = 0.0, round_to: int = 1
    ) -> FakePlan:
        """Drop the lowest scores, one after the other, until the budget is met; each family keeps one unit."""
        kept = {group.name: group.size for group in self.prunable}
        least = {group.name: max(1, int(floor * group.size)) for group in self.prunable}
        gone: dict[str, set[int]] = {name: set() for name in kept}
        ranked = sorted((float(s), name, unit) for name, part in scores.items() for unit, s in enumerate(part))
        for _, name, unit in ranked:
            if self.cost.flops(kept) <= flops * self.flops:
                break
            if kept[name] > least[name]:
                kept[name] -= 1
                gone[name].add(unit)
        if self.cost.flops(kept) > flops * self.flops:
            raise UserError("the budget is out of reach.")
        return FakePlan({g.name: tuple(u for u in range(g.size) if u not in gone[g.name]) for g in self.prunable})


def whole(parameter: str, dim: int, size: int) -> FakeSlice:
    return FakeSlice(parameter, dim, torch.arange(size))


def conv_bn_group(name: str, size: int, convs: list[str], norms: list[str]) -> FakeGroup:
    """Output channels of convolutions without bias, and of the batch norms after them."""
    slices = [whole(f"{conv}.weight", 0, size) for conv in convs]
    slices += [whole(f"{norm}.{part}", 0, size) for norm in norms for part in ("weight", "bias")]
    return FakeGroup(name, size, slices)


class TwoConvs(nn.Module):
    """[N, 1, 8, 8] -> 10 classes."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.head(x.mean((2, 3)))


def two_convs_graph(width: int = 8) -> FakeGraph:
    groups = [
        conv_bn_group("g0", width, ["conv1"], ["bn1"]),
        conv_bn_group("g1", 2 * width, ["conv2"], ["bn2"]),
    ]
    return FakeGraph(groups, [(2 * 9 * 64, ("g0",)), (2 * 9 * 16, ("g0", "g1")), (2 * 10, ("g1",))])


def digits(batch: int = 64) -> tuple[list[Any], list[Any]]:
    """Training and validation batches of scikit-learn's digits, in a fixed order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.3
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[360:], order[:360]
    return [(x[i], y[i]) for i in train.split(batch)], [(x[i], y[i]) for i in val.split(batch)]


def blobs(count: int = 8, batch: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of easy images: ten classes, each one bright pixel block in noise."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        y = torch.randint(10, (batch,), generator=generator)
        x = 0.3 * torch.randn(batch, 1, 8, 8, generator=generator)
        x[torch.arange(batch), 0, y // 4 * 2, y % 4 * 2] += 3.0
        out.append((x, y))
    return out
