"""A program is right for any batch, or says that it is for the example's only."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import atograph
from atograph.capture.to_program import capture
from atograph.passes.errors import UserError
from atograph.passes.ir.run import ProgramModule
from tests.between import Between

FOLLOW = {
    "a multiple": lambda y: y / len(y),
    "positions": lambda y: y + torch.arange(len(y))[:, None],
    "an order": lambda y: y[torch.arange(len(y)).flip(0)],
    "one more": lambda y: torch.cat([y, y[:1]]),
    "a size that depends on values": lambda y: y * (y.sum(1) > 0).nonzero().shape[0],
}
DO_NOT_FOLLOW = {
    "a branch": lambda y: y * 2 if len(y) > 100 else y * 3,
    "one less": lambda y: y / (len(y) - 1),
    "a root": lambda y: y * len(y) ** -0.5,
    "half": lambda y: y[: len(y) // 2],
    "a loop": lambda y: torch.stack([y[i] * 2 for i in range(len(y))]),
    "pieces": lambda y: torch.stack([row * 2 for row in y]),
    "a branch on elements": lambda y: y * 2 if y.numel() > 100 else y * 3,
    "a type": lambda y: y.to(torch.float32 if len(y) > 10 else torch.float64).float(),
    "a constant": lambda y: y.relu() / torch.tensor(len(y)),
    "an order of two": lambda y: y - y.flip(1) if len(y) > 10 else y.flip(1) - y,
    "halves in C++": lambda y: torch.stack(y.vsplit(2)).sum(0),
    "TorchScript": lambda y: scripted(y),
    "equal sizes": lambda y: y * 2 if torch.is_same_size(y, torch.ones(2, 8)) else y * 3,
    "a distance of the user's own": lambda y: F.triplet_margin_with_distance_loss(
        y, y + 1, y * 2, reduction="none", distance_function=lambda p, q: (p - q).norm(dim=1) / math.sqrt(len(p))
    )[:, None].expand(-1, 8),
}
SMALL = {
    "more than three": (8, lambda y: y * 2 if len(y) > 3 else y * 3),
    "odd": (3, lambda y: y * 2 if len(y) % 2 else y * 3),
    "at most four": (8, lambda y: y / min(len(y), 4)),
    "a common divisor": (3, lambda y: y * math.gcd(len(y), 4)),
    "a remainder": (5, lambda y: y * [1.0, 2.0, 3.0][len(y) % 3]),
    "memory order": (4, lambda y: y * 2 if y[1:].t().is_contiguous() else y * 3),
}


@torch.jit.script
def scripted(y: torch.Tensor) -> torch.Tensor:
    if y.size(0) > 10:
        return y * 2
    return y * 3


@pytest.mark.parametrize("name", [*FOLLOW, *DO_NOT_FOLLOW])
def test_a_program_is_right_for_any_batch_or_refuses_it(name: str) -> None:
    model = Between({**FOLLOW, **DO_NOT_FOLLOW}[name]).eval()
    run = ProgramModule(capture(model, (torch.randn(2, 6),)))
    for size in (2, 5):
        x = torch.randn(size, 6)
        if size == 5 and name in DO_NOT_FOLLOW:
            with pytest.raises(UserError, match=r"takes x of the shape \[2, 6\], and was called with \[5, 6\]"):
                run(x)
        else:
            torch.testing.assert_close(run(x), model(x))


@pytest.mark.parametrize("name", SMALL)
def test_what_is_decided_for_small_batches_is_noticed(name: str) -> None:
    size, function = SMALL[name]
    model = Between(function).eval()
    run = ProgramModule(capture(model, (torch.randn(size, 6),)))
    for batch in (size, 2, 4):
        x = torch.randn(batch, 6)
        if batch == size:
            torch.testing.assert_close(run(x), model(x))
        else:
            with pytest.raises(UserError, match="takes x of the shape"):
                run(x)


def test_a_graph_says_that_the_batch_is_fixed_and_why() -> None:
    model = Between(lambda y: y * 2 if len(y) > 100 else y * 3).eval()
    assert "The batch is fixed to the example's size, because for another batch" in str(
        atograph.trace(model, torch.randn(2, 6))
    )
    assert "batch" not in str(atograph.trace(Between(torch.sin).eval(), torch.randn(2, 6)))
