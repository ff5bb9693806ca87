"""What PyTorch itself computes wrong: an image that is resized to a width of one with antialiasing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import atograph


class Net(nn.Module):
    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 12, 1), middle, nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.middle(self.first(x).relu()))
        return made


def smooth(x: Tensor, *size: int) -> Tensor:
    return interpolate(x, size=size, mode="bilinear", antialias=True)


def test_a_width_of_one_is_refused_by_the_name_of_who_is_wrong(tmp_path: Path) -> None:
    """ONNX Runtime and onnx's reference agree with each other, and with a product of matrices by hand."""
    graph = atograph.trace(Net(lambda x: smooth(x, 3, 1)).eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(atograph.UserError, match=r"test_antialias.py:\d+: PyTorch computes .* two calls are right"):
        atograph.slim(graph, graph.plan(flops=0.5)).to_onnx(tmp_path / "slim.onnx")


@pytest.mark.parametrize("middle", [
    lambda x: smooth(smooth(x, 3, 8), 3, 1), lambda x: smooth(x, 8, 1), lambda x: smooth(x, 1, 1),
    lambda x: smooth(x, 3, 2),
])  # fmt: skip
def test_other_sizes_are_right(tmp_path: Path, middle: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = atograph.trace(Net(middle).eval(), x)
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    session = onnxruntime.InferenceSession(slim.to_onnx(tmp_path / "slim.onnx"), providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), slim(x), rtol=1e-4, atol=1e-5)
