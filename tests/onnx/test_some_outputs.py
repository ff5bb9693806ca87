"""Files that return some of a slim program's outputs, and take what these need."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import atograph


class TwoHalves(nn.Module):
    """The first half reads ``x`` and gives a state; the second one reads the state, and the length of ``x``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor, memory: Tensor) -> dict[str, Tensor]:
        queries = self.second(y)
        read = nn.functional.scaled_dot_product_attention(queries, memory, memory)
        return {"logits": self.head(read), "next": self.first(x)}


def test_two_files_of_one_plan_work_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TwoHalves().eval()
    inputs = (torch.randn(2, 5, 6), torch.randn(2, 3, 6), torch.zeros(2, 5, 16))
    dynamic = {"x": {1: "length"}, "memory": {1: "length"}}
    graph = atograph.trace(model, inputs, state={"next": "memory"}, dynamic=dynamic)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    names = {"next": slim.to_onnx(tmp_path / "a.onnx", outputs=["next"]),
             "logits": slim.to_onnx(tmp_path / "b.onnx", outputs=["logits"])}  # fmt: skip
    files = {name: onnxruntime.InferenceSession(str(path)) for name, path in names.items()}
    taken = {name: [(each.name, *each.shape) for each in file.get_inputs()] for name, file in files.items()}
    assert taken["next"] == [("x", "batch", "length", 6)]
    assert taken["logits"] == [("y", "batch", 3, 6), ("memory", "batch", "length", 8)]
    x, y = torch.randn(4, 7, 6), torch.randn(4, 3, 6)
    masked = atograph.mask(model, slim.plan)
    with torch.no_grad():
        dense = masked(x, y, masked(x, y, torch.zeros(4, 7, 16))["next"])["logits"]
    (memory,) = files["next"].run(None, {"x": x.numpy()})
    (found,) = files["logits"].run(None, {"y": y.numpy(), "memory": memory})
    torch.testing.assert_close(torch.from_numpy(found), dense, atol=1e-5, rtol=1e-5)


def test_an_output_that_there_is_not_is_refused(tmp_path: Path) -> None:
    graph = atograph.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), (torch.randn(2, 4),))
    with pytest.raises(atograph.UserError, match="has no output 'logits'"):
        atograph.slim(graph, graph.plan(random=0)).to_onnx(tmp_path / "a.onnx", outputs=["logits"])
