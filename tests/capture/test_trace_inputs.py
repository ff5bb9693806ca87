"""How example inputs are given to `trace`: positional, by keyword, and what is said of a dict in the wrong place."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError

X, MASK = torch.randn(2, 8), torch.ones(2, 4)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        return y if mask is None else y * mask


class OfDict(Masked):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["x"], batch["mask"])


@pytest.mark.parametrize(("model", "inputs"), [
    (Masked(), (X,)), (Masked(), ([X, MASK],)), (Masked(), ((X, MASK),)), (Masked(), (X, {"mask": MASK})),
    (Masked(), ((), {"x": X, "mask": MASK})), (Masked(), ((), {"mask": MASK, "x": X})),
    (OfDict(), ({"x": X, "mask": MASK},)),
])  # fmt: skip
def test_inputs_in_every_form(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    graph = atograph.trace(model, *inputs)
    assert graph.params == 212 and len(graph.prunable) == 1


@pytest.mark.parametrize(("inputs", "message"), [
    (({"x": X},), "A dict among the positional inputs is one argument; keywords are the third: (model, (), {'x'"),
    (((X, {"mask": MASK}),), "keywords are the third: (model, (...,), {'mask': ...}). Call the model"),
    ((dict.fromkeys("abcd", X),), "(model, (), {'a': ..., 'b': ..., 'c': ..., ...})."),
    ((X, MASK), "keyword inputs are a dict, not a Tensor. Several positional inputs are one tuple: trace(model, (a,"),
    ((X, [MASK]), "keyword inputs are a dict, not a list."),
])  # fmt: skip
def test_what_is_said_of_inputs_in_the_wrong_place(inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        atograph.trace(Masked(), *inputs)


def test_nothing_is_said_of_a_dict_where_there_is_none() -> None:
    with pytest.raises(UserError, match="fails on its example inputs") as raised:
        atograph.trace(Masked(), torch.randn(2, 9))
    assert "dict" not in str(raised.value)
