"""What ONNX Runtime computes wrong by itself is avoided in the file, or told; what slimming breaks still fails."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atograph
from atograph.onnx import kept_apart
from atograph.onnx.export import export_onnx
from atograph.onnx.kept_apart import find, pairs_of
from atograph.ort import faults
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel
from atograph.passes.errors import InternalError
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.proof.certificate import certify
from atograph.slimming.masking import zero_
from atograph.spec.example_inputs import Inputs
from atograph.targets import onnx_runtime
from atograph.targets.deployed import Deployed
from atograph.targets.onnx_runtime import OnnxRuntime

PADDED: dict[str, Callable[[Tensor], Tensor]] = {
    "on one side": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2),
    "twice": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2, padding=1),
    "with a value": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=0.5), 3, 1),
    "in one dimension": lambda x: F.max_pool1d(F.pad(x.flatten(2), (2, 0)), 3, 2)[..., None],
}


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))  # type: ignore[no-any-return]


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1


@pytest.mark.parametrize("case", PADDED)
def test_padding_before_a_maximum_is_right_for_whoever_deploys_the_file(case: str, tmp_path: Path) -> None:
    graph = atograph.trace(Net(PADDED[case]), image())
    slim = atograph.slim(graph, graph.plan(flops=0.6))
    session = onnxruntime.InferenceSession(slim.to_onnx(tmp_path / "slim.onnx"))  # with default options
    found = session.run(None, {"x": image().numpy()})[0]
    assert np.abs(found - slim(image()).detach().numpy()).max() < 1e-5


def written_out(x: Tensor) -> Tensor:
    apart = x - x.mean(-1, keepdim=True)
    return apart / torch.sqrt(apart.square().mean(-1, keepdim=True) + 1e-5)


REPORTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a layer norm whose scale is broadcast": lambda h, w: written_out(h) * w[:1, :, :1] + w,
    "a layer norm with a scale of rank three": lambda h, w: written_out(h + torch.relu(h)) * w[:1, :1] + w[:1, :1],
    "a skip that is broadcast before a layer norm": lambda h, w: F.layer_norm(h + h[:, :1], h.shape[-1:]) + w,
}
"""What ONNX Runtime fused wrongly in some version, by its public reports."""


@pytest.mark.parametrize("case", REPORTED)
def test_layer_norms_that_were_fused_wrongly(case: str, tmp_path: Path) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
            self.up, self.weight = nn.Linear(4, 12), nn.Parameter(torch.rand(1, 5, 16) + 0.5)
            self.down = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.last(REPORTED[case](self.first(x), self.weight))
            return self.down(torch.relu(self.up(y)))  # type: ignore[no-any-return]

    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    graph = atograph.trace(Written(), x)
    slim = atograph.slim(graph, graph.plan(flops=0.8))
    session = onnxruntime.InferenceSession(slim.to_onnx(tmp_path / "slim.onnx"))  # with default options
    assert np.abs(session.run(None, {"x": x.numpy()})[0] - slim(x).detach().numpy()).max() < 1e-5


def test_a_run_finds_out_by_itself_what_is_fused_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody knew of the pair yet."""
    monkeypatch.setattr("atograph.onnx.export.KNOWN", frozenset())
    data = [(image(),)] * 2
    result = atograph.compress(
        Net(PADDED["on one side"]), data, example_inputs=image(), flops=0.6, epochs=1, out=tmp_path / "run",
        loss=lambda model, batch: model(batch[0]).square().mean(),
    )  # fmt: skip
    assert all(entry.holds and entry.runtime is None for entry in result.report.certificate)
    assert "Max" in {node.op_type for node in onnx.load(tmp_path / "run" / "slim.onnx").graph.node}


@pytest.mark.parametrize(
    ("needed", "pairs"),
    [("c", "abcde"), ("ae", "abcde"), ("bcd", "abcde"), ("", "abc"), ("a", "a"), ("z", "abc")],
)
def test_the_fewest_pairs(needed: str, pairs: str) -> None:
    calls = []

    def right(some: Collection[Any]) -> bool:
        calls.append(some)
        return set(needed) <= set(some)

    assert sorted(find(list(pairs), right)) == ([] if "z" in needed else sorted(needed))  # type: ignore[arg-type]
    assert len(calls) < 20


class Wrong(OnnxModel):
    """A runtime that gets some values wrong whatever is done to the file: a stand-in for one of ONNX Runtime's bugs."""

    def run(self, feed: dict[str, Any]) -> list[Any]:
        values = super().run(feed)
        values[0][..., 0] = np.nan if self.with_nan else values[0][..., 0] + 1
        return values

    with_nan = False


@pytest.mark.parametrize("with_nan", [False, True])
def test_what_cannot_be_avoided_is_told_and_the_rest_compared(with_nan: bool, tmp_path: Path) -> None:
    model = Net(torch.relu).eval()
    graph = atograph.trace(model, image())
    plan = graph.plan(flops=0.6)
    zero_(model, plan)
    slim = atograph.slim(graph, plan)
    wrong = type("Wrong", (Wrong,), {"with_nan": with_nan})
    file = Deployed(OnnxRuntime(), wrong(slim.to_onnx(tmp_path / "slim.onnx"), slim.program))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_runtime, "OnnxModel", wrong)
        patch.setattr(faults, "OnnxModel", wrong)
        entries = certify(model, slim, [file], Inputs((image(),), {}))
        dense = to_exported(graph.program)
        written = export_onnx(dense, tmp_path / "dense.onnx")
        (remark,) = checked(written, dense, partial(export_onnx, dense), model, Inputs((image(),), {})).remarks()
    assert "ONNX Runtime computes this model wrong, dense as it is" in remark and "optimisations off as well" in remark
    for entry in entries:
        assert entry.runtime is not None and entry.runtime.compared == 7 / 8 and entry.targets["onnx"].difference < 1e-5
        assert "87.5 % of the values are right in both" in str(entry.runtime)
        assert ("no number" in str(entry.runtime)) is with_nan
    with pytest.raises(InternalError, match="slim and ONNX Runtime by"):  # the dense file is right: not the runtime's
        certify(model, slim, [file], Inputs((image(),), {}))


def test_a_fault_of_the_slim_program_beside_one_of_the_runtime_is_a_failure(tmp_path: Path) -> None:
    model = Net(torch.relu).eval()
    graph = atograph.trace(model, image())
    plan = graph.plan(flops=0.6)
    zero_(model, plan)
    slim = atograph.slim(graph, plan)
    path = slim.to_onnx(tmp_path / "slim.onnx")
    content = onnx.load(path)
    bias = next(tensor for tensor in content.graph.initializer if "last.bias" in tensor.name)
    bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(4, np.float32), bias.name))
    onnx.save(content, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_runtime, "OnnxModel", Wrong)
        with pytest.raises(InternalError, match="slim and ONNX Runtime by"):
            certify(model, slim, [Deployed(OnnxRuntime(), Wrong(path, slim.program))], Inputs((image(),), {}))


def test_pairs_are_those_of_values_that_can_be_copied(tmp_path: Path) -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(torch.where((h > 0) & (h < 1), h, 0.1 * h))  # type: ignore[no-any-return]

    program = to_exported(atograph.trace(Chosen(), torch.randn(2, 8)).program)
    path = export_onnx(program, tmp_path / "dense.onnx")
    pairs = pairs_of(path)
    assert ("Gemm", "Greater") in pairs and not any(first in ("Greater", "And") for first, _second in pairs)
    apart = OnnxModel(kept_apart.copy_apart(path, tmp_path / "apart.onnx", pairs), program)
    x = torch.randn(2, 8)
    assert torch.allclose(apart(x), OnnxModel(path, program, plain=True)(x))
