"""Code that decides by dynamic sizes between those that are tried: refused there in words, by all forms that can."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.program import pt2_file


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self._forward, self.a, self.o = forward, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def either(m: Any, x: Tensor, condition: Any) -> Tensor:
    y = m.a(x)
    return m.o(y.relu() if condition else y.tanh())


def refusing(m: Any, x: Tensor) -> Tensor:
    if x.shape[1] % 17 == 0:
        raise ValueError("no multiples of 17")
    return m.o(m.a(x).relu())


def by_a_helper(m: Any, x: Tensor) -> Tensor:
    """Of another tensor than the input, in parts."""
    half, rest = divmod(m.a(x).shape[1] - 1, 9)
    return either(m, x, rest == 7 and half)


DECIDING: dict[str, tuple[Callable[[Any, Tensor], Tensor], Sequence[int]]] = {
    "multiples": (lambda m, x: either(m, x, x.shape[1] % 7 == 0), range(7, 50, 7)),
    "the rest as a truth": (lambda m, x: either(m, x, x.size(1) % 13), [13, 26, 39]),
    "a few between": (lambda m, x: either(m, x, 12 < x.shape[1] < 15), [13, 14]),
    "some of them": (lambda m, x: either(m, x, x[0].shape[0] in (13, 22)), [13, 22]),
    "one that follows": (lambda m, x: either(m, x, m.a(x).shape[1] - 3 == 20), [23]),
    "another dim": (lambda m, x: either(m, x, x.shape[1] == x.shape[2] + 8), [14]),
    "in a helper": (by_a_helper, [17, 26, 35, 44]),
    "refusing": (refusing, [17, 34]),
    "fewer pieces": (lambda m, x: sum(part.sum(1) for part in m.o(m.a(x).relu()).chunk(3, 1)), [1, 2, 4]),  # type: ignore[dict-item, misc]
    "harmless": (lambda m, x: either(m, x, [x.shape[1] % 13 == 0]), []),
    "harmless, and far": (lambda m, x: either(m, x, [x.shape[1] < 3000]), []),
    "the same twice": (lambda m, x: either(m, x, x.shape[1] == m.a(x).shape[1]), []),
}


@pytest.mark.parametrize(("forward", "refused"), DECIDING.values(), ids=DECIDING)
def test_refused_where_the_code_goes_another_way(
    forward: Callable[[Any, Tensor], Tensor], refused: Sequence[int]
) -> None:
    torch.manual_seed(0)
    model = Net(forward).eval().double()
    graph = atograph.trace(model, torch.randn(2, 11, 6).double(), dynamic={"x": {1: "n"}})
    assert not graph.program.interface.still
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    taken = []
    for length in range(1, 50):
        x = torch.randn(1, length, 6).double()
        if slim.why_not(x):
            continue
        taken.append(length)
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)
    assert taken == [length for length in range(1, 50) if length not in refused]


def test_sizes_of_which_nobody_knows_are_refused() -> None:
    """What is compared far from all that is tried."""
    model = Net(lambda m, x: either(m, x, x.shape[1] * x.shape[1] == 90_000)).eval()
    graph = atograph.trace(model, torch.randn(2, 11, 6), dynamic={"x": {1: "n"}})
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    assert slim(torch.randn(1, 299, 6)).shape == (1, 299, 3)
    with pytest.raises(UserError, match=r"n \* n != 90000 \(test_conditions"):
        slim(torch.randn(1, 300, 6))


def test_files_say_so(tmp_path: Path) -> None:
    model = Net(lambda m, x: either(m, x, x.shape[1] % 7 == 0 or x.shape[1] > 30)).eval()
    graph = atograph.trace(model, torch.randn(2, 11, 6), dynamic={"x": {1: "n"}})
    assert "holds: n % 7 != 0 (test_conditions.py:" in str(graph)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    loaded = atograph.load(slim.save(tmp_path))
    for length in (6, 13, 30):
        x = torch.randn(1, length, 6)
        torch.testing.assert_close(loaded(x), slim(x))
    for length, text in ((14, r"n % 7 != 0 .* with n = 14"), (31, r"n from 0 to 30, and was called with \[1, 31, 6\]")):
        with pytest.raises(UserError, match=text):
            loaded(torch.randn(1, length, 6))
    written = onnx.load(slim.to_onnx(tmp_path / "slim.onnx"))
    (said,) = (entry.value for entry in written.metadata_props if entry.key == "atograph.limits")
    assert said.startswith("n up to n = 30; n % 7 != 0")


@pytest.mark.parametrize(
    "formula", [["n"], ["%", "n"], ["+", "n", 1], ["==", "n", 1, 2], ["==", "n", "import os"], ["==", "n", 2**80]],
    ids=str,
)  # fmt: skip
def test_a_condition_of_a_file_is_looked_at(formula: list[Any], tmp_path: Path, monkeypatch: Any) -> None:
    model = Net(lambda m, x: either(m, x, x.shape[1] % 7 == 0)).eval()
    graph = atograph.trace(model, torch.randn(2, 11, 6), dynamic={"x": {1: "n"}})
    text = json.dumps([[{"formula": formula, "outcome": True}]])
    monkeypatch.setattr(pt2_file, "_written_ways", lambda _ways: text)
    atograph.slim(graph, graph.plan(random=0, keep=0.5)).save(tmp_path)
    with pytest.raises(UserError, match=r"atograph\.ways"):
        atograph.load(tmp_path)


def test_conditions_of_torch_export() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return either(m, x, x.shape[1] % 13 == 0) * x.abs().max().item()

    model = Net(forward).eval().double()
    graph = atograph.trace(model, torch.randn(2, 11, 6).double(), dynamic={"x": {1: "n"}})
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    for length in (2, 12, 14, 40):
        x = torch.randn(1, length, 6).double()
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)
    assert "n % 13 != 0" in slim.why_not(torch.randn(1, 26, 6).double())
