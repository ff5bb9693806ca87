"""ONNX files hold what the example decided: other inputs are an error that says so, whatever the outputs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import atograph


class Deciding(nn.Module):
    """Two layers, with a decision by values between them."""

    def __init__(self, run: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 8), nn.Linear(8, 3), run

    def forward(self, x: Tensor) -> object:
        h = self.a(x).relu()
        if x.max() > 1:
            h = h / 255
        return self.run(self.b(h))


FORMS: dict[str, Callable[[Tensor], object]] = {
    "floats": lambda y: y,
    "no dims": lambda y: y.sum(),
    "truths and numbers": lambda y: {"truth": y > 0, "number": y.argmax(1), "half": y.half()},
    "twice the same": lambda y: (y, y),
}


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("form", FORMS)
def test_other_decisions_are_refused(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4).abs() + 1
    graph = atograph.trace(Deciding(FORMS[form]).eval(), x)
    slim = atograph.slim(graph, graph.plan(random=0))
    run = session(slim.to_onnx(tmp_path / "slim.onnx"))
    wanted = torch.utils._pytree.tree_leaves(slim(x * 3))
    for one, other in zip(wanted, run.run(None, {"x": (x * 3).numpy()}), strict=True):
        torch.testing.assert_close(torch.from_numpy(other), one, rtol=1e-3, atol=1e-4)
    with pytest.raises(Exception, match=r"only for inputs where x.max\(\) > 1 is True"):
        run.run(None, {"x": (x / 100).numpy()})


class Rounds(Deciding):
    """The same line decides in each of three rounds."""

    def forward(self, x: Tensor) -> object:
        h = self.a(x).relu()
        for _round in range(3):
            if h.max() > 0:
                h = h / 2
        return self.b(h)


def test_decisions_of_one_line_have_names_of_their_own(tmp_path: Path) -> None:
    """A recogniser of tables decides in each round of its loop, and ONNX Runtime takes no name twice."""
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    graph = atograph.trace(Rounds(FORMS["floats"]).eval(), x)
    slim = atograph.slim(graph, graph.plan(random=0))
    made = torch.from_numpy(session(slim.to_onnx(tmp_path / "slim.onnx")).run(None, {"x": x.numpy()})[0])
    torch.testing.assert_close(made, slim(x), rtol=1e-3, atol=1e-4)


def test_dropped_checks_are_in_no_file(tmp_path: Path) -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).abs() + 1
    graph = atograph.trace(Deciding(FORMS["floats"]).eval(), x, checks="drop")
    run = session(atograph.slim(graph, graph.plan(random=0)).to_onnx(tmp_path / "slim.onnx"))
    assert run.run(None, {"x": (x / 100).numpy()})[0].shape == (2, 3)
