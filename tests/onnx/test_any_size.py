"""What torch.onnx or torch.export gets right at the example's sizes only: the files of slim models take all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atograph
from atograph.onnx.translations.pools import op
from atograph.onnx.translations.table import TRANSLATIONS
from atograph.passes.errors import UserError


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def of_images(forward: Callable[[Any, Tensor], Any]) -> nn.Module:
    return Net(forward, a=nn.Conv2d(3, 8, 3, padding=1), o=nn.Conv2d(8, 2, 1))


def of_sequences(forward: Callable[[Any, Tensor], Any]) -> nn.Module:
    return Net(forward, a=nn.Linear(6, 8), o=nn.Linear(8, 3))


def pooled(m: Any, x: Tensor) -> list[Tensor]:
    y = m.a(x).relu()
    sizes = [(3, 2), (x.shape[2] // 2, x.shape[3]), (None, 1)]
    return [m.o(F.adaptive_avg_pool2d(y, size)) for size in sizes] + [m.o(F.adaptive_max_pool2d(y, (2, 5)))]


def pooled_in_a_row(m: Any, x: Tensor) -> list[Tensor]:
    y = m.a(x).relu().transpose(1, 2)
    many = (F.adaptive_avg_pool1d(y, 4), F.adaptive_max_pool1d(y, x.shape[1] // 2 + 1), F.adaptive_avg_pool1d(y, 1))
    return [m.o(each.transpose(1, 2)) for each in many]


def pieces(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    y = torch.cat(y.tensor_split(3, 1)[::-1], 1) + torch.cat(y.chunk(2, 1)[::-1], 1)
    return m.o(y + y.roll(x.shape[1] // 3, 1) + y.roll(-2, 1))


def tables(m: Any, x: Tensor) -> Tensor:
    n, kind = x.shape[1], x.dtype
    waves = torch.hann_window(n, dtype=kind) + torch.hamming_window(n, periodic=False, dtype=kind)
    steps = torch.linspace(-1, 2, n, dtype=kind) + torch.logspace(0, 1, n + 1, dtype=kind)[1:]
    frequencies = torch.fft.fftfreq(n, 0.5, dtype=kind) + torch.fft.rfftfreq(2 * n, dtype=kind)[:n]
    return m.o(m.a(x).relu() * (waves + steps + frequencies)[:, None])


def moved(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    theta = torch.eye(2, 3, dtype=x.dtype)[None] * 0.7 + x.mean((1, 2, 3))[:, None, None]
    grids = [F.affine_grid(theta, list(y.shape), align_corners=corners) for corners in (True, False)]
    return m.o(sum(F.grid_sample(y, grid, align_corners=False) for grid in grids))


def recurrent() -> nn.Module:
    parts = {"r": nn.RNN(6, 7, 2, batch_first=True, bidirectional=True), "o": nn.Linear(14, 3)}
    return Net(lambda m, x: m.o(m.r(x)[0]), **parts)


def recurrent_with_relu() -> nn.Module:
    parts = {"r": nn.RNN(8, 7, nonlinearity="relu", bias=False), "o": nn.Linear(7, 3)}
    return Net(lambda m, x: m.o(m.r(m.a(x).transpose(0, 1))[1][0]), a=nn.Linear(6, 8), **parts)


def dealt_to_channels(m: Any, x: Tensor) -> Tensor:
    """As long as it has channels, in the example."""
    return m.o(m.a(x).relu().transpose(1, 2).reshape(x.shape[0], -1, 8))


@dataclass
class Case:
    make: Callable[[], nn.Module]
    shape: Sequence[int]
    others: Sequence[Sequence[int]]


CASES = {
    "adaptive pools": Case(lambda: of_images(pooled), (2, 3, 16, 20), [(1, 3, 5, 7), (3, 3, 9, 4), (1, 3, 40, 33)]),
    "in a row": Case(lambda: of_sequences(pooled_in_a_row), (2, 11, 6), [(1, 3, 6), (1, 4, 6), (2, 25, 6)]),
    "pieces": Case(lambda: of_sequences(pieces), (2, 11, 6), [(1, 3, 6), (1, 4, 6), (2, 25, 6)]),
    "tables": Case(lambda: of_sequences(tables), (2, 11, 6), [(1, 1, 6), (1, 2, 6), (2, 24, 6)]),
    "affine grids": Case(lambda: of_images(moved), (2, 3, 16, 20), [(1, 3, 1, 7), (3, 3, 9, 4), (1, 3, 21, 12)]),
    "recurrent": Case(recurrent, (2, 11, 6), [(1, 1, 6), (3, 4, 6), (2, 25, 6)]),
    "recurrent with relu": Case(recurrent_with_relu, (2, 11, 6), [(1, 1, 6), (3, 4, 6), (2, 25, 6)]),
    "as long as the batch": Case(
        lambda: of_sequences(lambda m, x: m.o(m.a(x).relu().reshape(x.shape[1], x.shape[0], 8))),
        (4, 4, 6),
        [(1, 3, 6), (5, 2, 6)],
    ),
    "as long as the channels": Case(lambda: of_sequences(dealt_to_channels), (2, 8, 6), [(1, 3, 6), (3, 16, 6)]),
    "every third": Case(
        lambda: of_sequences(lambda m, x: m.o(m.a(x).relu()[:, torch.arange(0, x.shape[1], 3)])),
        (2, 11, 6),
        [(1, 1, 6), (1, 2, 6), (1, 3, 6), (1, 40, 6)],
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_files_at_other_sizes(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = case.make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    example = torch.randn(*case.shape)
    dynamic = {"x": {2: "height", 3: "width"} if example.dim() == 4 else {1: "n"}}
    graph = atograph.trace(model, example, dynamic=dynamic)
    assert not graph.program.interface.still
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    session = onnxruntime.InferenceSession(slim.to_onnx(tmp_path / "slim.onnx"))
    loaded = atograph.load(slim.save(tmp_path))
    for shape in (case.shape, *case.others):
        x = torch.randn(*shape)
        with torch.no_grad():
            expected = masked(x)
            torch.testing.assert_close(slim(x), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)
        written = [torch.from_numpy(each) for each in session.run(None, {"x": x.numpy()})]
        torch.testing.assert_close(
            written, expected if isinstance(expected, list) else [expected], rtol=1e-4, atol=1e-4
        )


def test_pools_of_a_fixed_size_are_no_longer_than_they_were(tmp_path: Path) -> None:
    import onnx

    model = of_images(lambda m, x: m.o(F.adaptive_avg_pool2d(m.a(x).relu(), 4))).eval()
    graph = atograph.trace(model, torch.randn(2, 3, 16, 20))
    path = atograph.slim(graph, graph.plan(random=0, keep=0.5)).to_onnx(tmp_path / "slim.onnx")
    assert "AveragePool" in [node.op_type for node in onnx.load(path).graph.node]


def test_places_of_the_largest_are_refused(tmp_path: Path) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        values, places = F.adaptive_max_pool2d(m.a(x).relu(), 2, return_indices=True)
        return m.o(values) + places.sum()

    model = of_images(forward).eval()
    graph = atograph.trace(model, torch.randn(2, 3, 16, 20), dynamic={"x": {2: "height"}})
    with pytest.raises(UserError, match="places of the largest"):
        atograph.slim(graph, graph.plan(random=0, keep=0.5)).to_onnx(tmp_path / "slim.onnx")


def test_a_file_that_is_right_at_the_example_alone_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_example(x: Any, _size: Any) -> Any:
        return op.AveragePool(x, kernel_shape=[4, 4], strides=[4, 4])

    monkeypatch.setitem(TRANSLATIONS, torch.ops.aten.adaptive_avg_pool2d.default, of_the_example)
    model = of_images(lambda m, x: m.o(F.adaptive_avg_pool2d(m.a(x).relu(), 3))).eval()
    graph = atograph.trace(model, torch.randn(2, 3, 12, 12), dynamic={"x": {2: "height", 3: "width"}})
    with pytest.raises(UserError, match=r"the example's sizes only .*mistake in aten.adaptive_avg.*test_any_si"):
        atograph.slim(graph, graph.plan(random=0, keep=0.5)).to_onnx(tmp_path / "slim.onnx")
    assert not (tmp_path / "slim.onnx").exists()


def test_a_size_that_torch_takes_as_a_plain_number_is_refused_with_its_place() -> None:
    model = of_images(lambda m, x: m.o(F.avg_pool2d(m.a(x).relu(), (x.shape[2] // 2, 1)))).eval()
    graph = atograph.trace(model, torch.randn(2, 3, 12, 12), dynamic={"x": {2: "height"}})
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    assert slim(torch.randn(1, 3, 20, 12)).shape == (1, 2, 2, 12)
    with pytest.raises(UserError, match="as a plain number in aten") as refusal:
        slim.program  # noqa: B018
    assert "test_any_size.py" in str(refusal.value.where)


def test_such_a_file_is_refused_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_example(x: Any, _shifts: Any, _dims: Any) -> Any:
        return op.Expand(x, op.Constant(value_ints=[1, 11, 1]))

    monkeypatch.setitem(TRANSLATIONS, torch.ops.aten.roll.default, of_the_example)
    model = of_sequences(lambda m, x: m.o(m.a(x).relu().roll(0, 1)).mean(1))
    data = [(torch.randn(4, 11, 6), torch.randint(0, 3, (4,)))]
    with pytest.raises(UserError, match=r"at the example's sizes only .*mistake in aten.roll.*test_any_si"):
        atograph.compress(model, data, epochs=1, flops=0.6, out=tmp_path / "r", dynamic={"x": {1: "n"}})
    assert not (tmp_path / "r").exists()
