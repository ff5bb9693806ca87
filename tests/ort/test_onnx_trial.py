"""A file that ONNX Runtime cannot run is not written unasked, and what it computes else is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.ort import trial
from atograph.ort.faults import Written
from atograph.passes.errors import UserError
from atograph.slimming.slim import Slim


class Projected(nn.Module):
    """torch.onnx gives its second recurrent layer a state of another width than ONNX Runtime takes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(5, 4)
        self.rnn, self.projected = nn.GRU(8, 12, batch_first=True), nn.LSTM(12, 10, proj_size=5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.projected(self.rnn(self.b(torch.relu(self.a(x))))[0])[0].mean(1))


class Casts(nn.Module):
    """Weights in float32, and an op in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x)).bfloat16()
        return self.b((hidden @ hidden.transpose(-1, -2) @ hidden).float())


def slim_of(model: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> Slim:
    torch.manual_seed(0)
    graph = atograph.trace(model, torch.randn(*shape, dtype=dtype))
    return atograph.slim(graph, graph.plan(random=0, keep=0.5))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("model", "shape", "dtype", "message"), [
    (Projected(), (2, 5, 8), torch.float32, "ONNX Runtime cannot run the file that was exported: .*initial_c"),
    (Casts(), (2, 5, 8), torch.float32, "ONNX Runtime cannot run the file that was exported: "),
    (mlp().bfloat16(), (2, 8), torch.bfloat16, "ONNX Runtime has no CPU kernels for bfloat16, the type of 0.weight"),
], ids=["projected", "casts", "bfloat16"])  # fmt: skip
def test_a_file_that_cannot_be_run_is_not_written_unasked(
    model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, message: str, tmp_path: Path
) -> None:
    slim, path = slim_of(model, *shape, dtype=dtype), tmp_path / "new" / "slim.onnx"
    with pytest.raises(UserError, match=message) as raised:
        slim.to_onnx(path)
    assert "check=False writes it all the same, for another runtime" in str(raised.value)
    assert "/.atograph-" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    assert slim.to_onnx(path, check=False).is_file()


def test_a_good_file_is_written_with_its_weights_beside_it(tmp_path: Path) -> None:
    slim, x = slim_of(mlp(), 2, 8), torch.randn(3, 8)
    path = slim.to_onnx(tmp_path / "slim.onnx", external_data=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["slim.onnx", "slim.onnx.data"]
    (result,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), slim(x).detach())
    slim.to_onnx(path)
    assert [each.name for each in tmp_path.iterdir()] == ["slim.onnx"]


def test_what_a_file_computes_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(path: Path, *args: Any) -> Written:
        return Written(path, (), 0.5)

    slim = slim_of(mlp(), 2, 8)
    monkeypatch.setattr(trial, "checked", differs)
    with pytest.warns(UserWarning, match=r"slim\.onnx than PyTorch: it differs by 5\.0e-01 \(relative\)") as told:
        slim.to_onnx(tmp_path / "slim.onnx")
    assert told[0].filename == __file__


def test_a_model_that_draws_numbers_is_run_and_not_compared(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + torch.rand_like(x[:, :4])

    assert slim_of(Noisy(), 2, 8).to_onnx(tmp_path / "slim.onnx").is_file()
