"""What ONNX Runtime rounds to the rounding of one, and where that proves something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.ort.of_one import TELLING, settled


class Net(nn.Module):
    def __init__(self, *, sigmoid: bool) -> None:
        super().__init__()
        self.linear, self.sigmoid = nn.Linear(4, 3), sigmoid

    def forward(self, x: Tensor) -> Tensor:
        made = self.linear(x)
        return torch.sigmoid(made)[:, None].flatten(1) if self.sigmoid else torch.relu(made)


@pytest.mark.parametrize(
    ("sigmoid", "value", "apart", "same"),
    [(True, 1e-3, 1e-7, True), (True, 1e-3, 1e-6, False), (True, 1e-6, 1e-7, False), (False, 1e-3, 1e-7, False)],
)
def test_only_what_a_sigmoid_gives_and_where_it_tells_something(
    sigmoid: bool, value: float, apart: float, same: bool
) -> None:
    graph = atograph.trace(Net(sigmoid=sigmoid), torch.randn(2, 4)).program.graph
    reference = torch.full((2, 3), value)
    (found,) = settled(graph, [reference], [reference + apart], least=TELLING)
    assert torch.equal(found, reference) is same


def test_a_file_is_not_blamed_for_zeros() -> None:
    graph = atograph.trace(Net(sigmoid=True), torch.randn(2, 4)).program.graph
    reference = torch.full((2, 3), 1e-9)
    (found,) = settled(graph, [reference], [torch.zeros(2, 3)])
    assert torch.equal(found, reference)
