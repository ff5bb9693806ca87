"""Files in int8: by target and network, read alike in both runtimes, and refused where they are no gain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import atograph
import atograph.int8.choose as choosing
from atograph.int8.choose import choose
from atograph.int8.deployments import DEPLOYMENTS
from atograph.int8.measure import Pace, apart
from atograph.int8.schemes import SCHEMES, kind_of, schemes_for
from atograph.onnx.export import export_onnx
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.sessions.feed import Feed


class Joined(nn.Module):
    """Signed and unsigned values in one concatenation, and another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.last, self.pool = nn.Conv2d(16, 4, 3, padding=1), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        result: Tensor = self.last(torch.cat([self.up(self.pool(x)), x], 1))
        return result


class Attention(nn.Module):
    """Attention written out, with a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 4, -1)
        result: Tensor = self.out(scores @ self.v(x))
        return result


class Recurrent(nn.Module):
    """A layer and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell = nn.Linear(16, 16), nn.LSTM(16, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.cell(torch.relu(self.first(x)))[0]
        return result


class First(nn.Module):
    """The first result of a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)[0]
        return result


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutional": (Joined, (3, 16, 16)),
    "transformer": (Attention, (12, 16)),
    "recurrent": (Recurrent, (6, 16)),
    "dense": (dense, (16,)),
}


class Case:
    """A network's float32 file, and batches for it."""

    def __init__(self, kind: str, folder: Path) -> None:
        torch.manual_seed(0)
        made, shape = NETWORKS[kind]
        model = made()
        x = torch.randn(2, *shape)
        self.program = to_exported(atograph.trace(model.eval(), x).program)
        self.whole = export_onnx(self.program, folder / "whole.onnx")
        name = onnx.load(self.whole).graph.input[0].name
        self.feeds: list[Feed] = [{name: torch.randn(64, *shape).numpy()} for _ in range(4)]
        self.folder = folder

    def choose(self, target: str, *, even_if_worse: bool = False) -> choosing.Measured:
        return choose(
            self.whole, self.folder / target, self.program, self.feeds, self.feeds[0], target=target,
            even_if_worse=even_if_worse, seconds=0.01,
        )  # fmt: skip


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file in int8 takes half the time."""
    monkeypatch.setattr(choosing, "pace", lambda whole, *_args, **_kw: Pace(whole.runtime.title, 2.0, 1.0, 0.5, 1))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.usefixtures("fast")
def test_both_runtimes_read_it_alike(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    found = Case(kind, tmp_path).choose("openvino")
    assert found.kind == kind_of(tmp_path / "whole.onnx") == kind
    assert set(found.errors) == {"OpenVINO", "ONNX Runtime"}
    assert max(found.errors.values()) < 0.05 and found.between is not None and found.between < 0.01
    assert not found.scheme.dynamic and found.pace is not None and found.pace.runtime == "OpenVINO"


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.usefixtures("fast")
def test_onnx_runtime_gets_the_first_row_of_its_kind(kind: str, tmp_path: Path) -> None:
    found = Case(kind, tmp_path).choose("onnx")
    assert found.scheme == schemes_for("onnx", found.kind)[0] and not found.faults
    assert found.errors["ONNX Runtime"] < 0.05
    ops = [node.op_type for node in onnx.load(found.path).graph.node]
    assert ("MatMulInteger" in ops or "DynamicQuantizeLinear" in ops) == found.scheme.dynamic
    if kind == "transformer":
        assert ops.count("MatMul") == 2  # of two computed values


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_tensorrt_gets_signed_values_around_zero(kind: str, tmp_path: Path) -> None:
    found = Case(kind, tmp_path).choose("tensorrt")
    model = onnx.load(found.path)
    values = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    points = [values[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert points and all(point.dtype == np.int8 and not point.any() for point in points)
    assert found.pace is None and "not timed" in str(found) and set(found.errors) == {"ONNX Runtime"}


def test_what_is_slower_is_refused_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "pace", lambda whole, *_args, **_kw: Pace(whole.runtime.title, 2.0, 2.5, 1.25, 1))
    case = Case("convolutional", tmp_path)
    with pytest.raises(atograph.UserError, match=r"no gain .* 1\.25 of the float32 file's time .* \(slower\)") as told:
        case.choose("onnx")
    assert "--even-if-worse" in str(told.value)
    kept = case.choose("onnx", even_if_worse=True)
    assert kept.faults == ("slower",) and kept.path.is_file()


@pytest.mark.usefixtures("fast")
def test_what_is_far_off_is_refused_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "FARTHEST", 1e-6)
    with pytest.raises(atograph.UserError, match=r"outputs off by \d+\.\d% in ONNX Runtime.* \(more than 0% off\)"):
        Case("dense", tmp_path).choose("onnx")


def test_slower_by_either_measure_is_slower() -> None:
    assert not Pace("", 2.0, 1.0, 0.5, 1).slower
    assert Pace("", 2.0, 1.0, 1.01, 1).slower and Pace("", 2.0, 2.1, 0.9, 1).slower


def test_every_target_has_a_row_for_every_kind() -> None:
    kinds = {kind for scheme in SCHEMES for kind in scheme.kinds}
    assert kinds == set(NETWORKS)
    assert all(schemes_for(target, kind) for target in DEPLOYMENTS for kind in kinds)


def test_how_far_outputs_are_apart() -> None:
    one = np.array([3.0, -np.inf, 4.0])
    assert apart([one], [np.array([3.0, -np.inf, 4.5])]) == pytest.approx(0.1)
    assert apart([one], [np.array([3.0, 0.0, 4.0])]) == np.inf
    assert apart([np.array([1.0])], [np.array([1.0, 2.0])]) == np.inf
    assert apart([one, np.array([2])], [one, np.array([3])]) == 0.0  # places are no values where there are some
    assert apart([np.array([2, 4])], [np.array([2, 3])]) == 0.5  # and are all that there is of a classifier's argmax
    nothing = np.array([np.nan, np.nan])
    assert apart([nothing], [nothing]) == np.inf and apart([one, nothing], [one, nothing]) == 0.0
    assert apart([np.array([1.0, np.nan])], [np.array([1.0, -np.inf])]) == np.inf


class Embedded(nn.Module):
    """Layers behind an embedding, of which OpenVINO gets additions in int8 wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.one, self.two = nn.Embedding(50, 64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.two(torch.relu(self.one(self.tokens(x)))).mean(1)
        return result


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.usefixtures("fast")
def test_a_row_that_both_runtimes_read_alike_goes_before_others(target: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    torch.manual_seed(0)
    tokens = [torch.randint(0, 50, (4, 12)) for _ in range(4)]
    program = to_exported(atograph.trace(Embedded().eval(), tokens[0]).program)
    feeds: list[Feed] = [{"x": each.numpy()} for each in tokens]
    found = choose(
        export_onnx(program, tmp_path / "whole.onnx"), tmp_path / target, program, feeds, feeds[0], target=target,
        seconds=0.01,
    )  # fmt: skip
    assert found.kind == "dense" and found.alike and max(found.errors.values()) < 0.05


@pytest.mark.usefixtures("fast")
def test_a_file_that_has_nothing_in_int8_is_refused_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GRU alone: no op of the row is in it, and a file as quick as the one in float32 was kept by chance."""
    monkeypatch.setitem(NETWORKS, "recurrent", (lambda: First(nn.GRU(16, 8, batch_first=True)), (6, 16)))
    for even_if_worse in (False, True):
        with pytest.raises(atograph.UserError, match="leaves every op in float32") as told:
            Case("recurrent", tmp_path).choose("onnx", even_if_worse=even_if_worse)
        assert "--even-if-worse" not in str(told.value)
