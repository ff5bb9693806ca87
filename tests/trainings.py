"""One small training under different trainers, and what has to be true of its slim model."""

from __future__ import annotations

from typing import Any

import torch
from fakes import blobs
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

import atograph

EPOCHS, BATCHES, SIZE = 6, 8, 32
LEARNED = {
    "controller_start": 0.15, "controller_lr": 0.1, "prior_scale": 0.3, "controller_batches": 3,
    "projection_start": 0.45, "search_end": 0.45, "zero": 0.6,
}  # fmt: skip
"""With these the mask is the controller's work, which no resumed run can find again without its state."""


def images() -> TensorDataset:
    found = blobs(BATCHES, SIZE)
    return TensorDataset(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]))


def check_slim(model: nn.Module, slim: atograph.Slim | None, flops: int, *, budget: float) -> None:
    """The budget holds, masked groups are zero, and the slim program computes what the model does."""
    assert slim is not None and 0.5 * budget < slim.flops / flops <= budget
    masked = atograph.mask(model, slim.plan)
    assert same(masked.state_dict(), model.state_dict())  # zero already
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    wanted, got = masked.double().eval()(x), slim.double()(x)
    wanted, got = (each["logits"] if isinstance(each, dict) else each for each in (wanted, got))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert slim.module is not None


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, to the last bit."""
    leaves, others = (tree_leaves(dict(state)) for state in (one, other))
    return len(leaves) == len(others) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(leaves, others, strict=True)
    )
