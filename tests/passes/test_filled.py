"""Where another number than zero is filled in, a removed unit holds it, whatever parameters before it are zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.exact import compare
from tests.exactly import Between

FILLED: dict[str, Callable[[Tensor, Between], Tensor]] = {
    "by a mask of its own": lambda h, net: (h * net.b).masked_fill(h * net.b < 0.1, -0.5),
    "by where": lambda h, net: torch.where(h > 0.1, (h * net.b), 2.0),
    "after a quotient": lambda h, net: (net.b / (h.square() + 0.1)).masked_fill(h < 0.1, -0.5),
    "by padding": lambda h, net: F.pad(h.cos() * net.b, (1, 1, 1, 1), value=1.5),
    "with zero": lambda h, net: (h.cos() * net.b).masked_fill(h < 0.1, 0.0),
}


@pytest.mark.parametrize("name", FILLED)
def test_what_is_filled_in_is_not_removed(name: str) -> None:
    torch.manual_seed(0)
    outcome = compare(Between(FILLED[name]), (torch.randn(2, 3, 6, 6),))
    assert outcome.difference <= 1e-9 and outcome.moved > 1e-6
