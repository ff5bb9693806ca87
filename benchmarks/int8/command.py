"""Int8 beside float32, in ONNX Runtime and OpenVINO: ``python -m benchmarks.int8 [--only GLOB] [--ops]``.

Networks (`benchmarks.int8.models`), each quantised for each of the two runtimes by the schemes of its row, until
one is a gain, or refused: time over the float32 file's (median over pairs of calls in turns, a batch of one, one
thread), how far outputs are from those in float32 in both, and from each other. With ``--ops``, layers by themselves,
with and without the ops around them in int8, which tells what the schemes quantise. Rows are printed as they are
measured.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import atograph
from atograph.int8.choose import Measured, choose
from atograph.int8.deployments import DEPLOYMENTS
from atograph.int8.measure import apart, pace
from atograph.int8.quantise import to_int8
from atograph.int8.schemes import Scheme
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.sessions.feed import Feed

CALIBRATION = 6
"""Batches of four."""


def exported(
    model: nn.Module, batches: Callable[[int], tuple[tuple[Tensor, ...], dict[str, Tensor]]], folder: Path
) -> tuple[Path, ExportedProgram, list[Feed], Feed]:
    """A model's float32 file, its program, batches for it, and one sample."""
    args, kwargs = batches(2)
    program = to_exported(atograph.trace(model, args, kwargs).program)
    path = export_onnx(program, folder / "whole.onnx")
    file = OnnxModel(path, program)

    def feed(count: int) -> Feed:
        args, kwargs = batches(count)
        return file.feed(*args, **kwargs)

    return path, program, [feed(4) for _ in range(CALIBRATION)], feed(1)


def network_rows(name: str, seconds: float) -> list[str]:
    """The rows of one network."""
    from benchmarks.int8.models import build

    rows = []
    with TemporaryDirectory() as folder:
        made = exported(*build(name), Path(folder))
        for target in ("onnx", "openvino"):
            path, program, feeds, one = made
            found = choose(
                path, Path(folder, target), program, feeds, one, target=target, even_if_worse=True, seconds=seconds
            )
            rows.append(_row(name, target, found))
    return rows


def _row(name: str, target: str, found: Measured) -> str:
    assert found.pace is not None
    errors = [f"{found.errors[title]:.1%}" if title in found.errors else "" for title in ("ONNX Runtime", "OpenVINO")]
    between = "" if found.between is None else f"{found.between:.1%}"
    times = f"{found.pace.ratio:.2f} ({found.pace.int8:.3g} and {found.pace.whole:.3g} ms)"
    verdict = f"refused: {' and '.join(found.faults)}" if found.faults else "kept"
    cells = (name, DEPLOYMENTS[target].title, found.scheme.name, times, *errors, between, verdict)
    return f"| {' | '.join(cells)} |"


class Residual(nn.Module):
    """Pointwise convolutions with additions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(64, 64, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Each layer adds to what it reads."""
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


class Gated(nn.Module):
    """Pointwise convolutions with SiLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(64, 64, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Each layer is multiplied by its sigmoid."""
        for layer in self.layers:
            x = nn.functional.silu(layer(x))
        return x


class Products(nn.Module):
    """Attention without layers: six heads."""

    def forward(self, x: Tensor) -> Tensor:
        """Softmax of the products, times the input."""
        result: Tensor = torch.softmax(x @ x.transpose(2, 3) / 8, -1) @ x
        return result


_STATIC = ("onnx", "openvino")
_LAYERS = ("Conv", "Gemm", "MatMul")
_KINDS = ("convolutional",)

OPS: dict[str, tuple[nn.Module, tuple[int, ...], Sequence[tuple[str, ...]]]] = {
    "convolution, 3 × 3, 64 channels": (
        nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))), (64, 28, 28), [_LAYERS]
    ),
    "convolution, 1 × 1, 64 channels": (
        nn.Sequential(*(nn.Conv2d(64, 64, 1) for _ in range(4))), (64, 28, 28), [_LAYERS]
    ),
    "depthwise convolution, 192 channels": (
        nn.Sequential(*(nn.Conv2d(192, 192, 3, padding=1, groups=192) for _ in range(2))), (192, 28, 28), [_LAYERS]
    ),
    "linear, 384 to 1536 and back": (
        nn.Sequential(nn.Linear(384, 1536), nn.ReLU(), nn.Linear(1536, 384)), (197, 384), [_LAYERS]
    ),
    "attention's products": (Products(), (6, 197, 64), [_LAYERS]),
    "pointwise convolutions, ReLU, Add": (
        Residual(), (64, 28, 28), [_LAYERS, (*_LAYERS, "Relu"), (*_LAYERS, "Relu", "Add")]
    ),
    "pointwise convolutions, Sigmoid, Mul": (Gated(), (64, 28, 28), [_LAYERS, (*_LAYERS, "Sigmoid", "Mul")]),
}  # fmt: skip


def op_rows(name: str, seconds: float) -> list[str]:
    """The rows of one kind of layer: what is in int8, and the share of the float32 file's time in each runtime."""
    torch.manual_seed(0)
    model, shape, choices = OPS[name]
    rows = []
    with TemporaryDirectory() as folder:
        whole, program, feeds, one = exported(
            model.eval(), lambda count: ((torch.randn(count, *shape),), {}), Path(folder)
        )
        for ops in choices:
            scheme = Scheme("static, uint8", _STATIC, _KINDS, ops, products=name.startswith("attention"))
            path = to_int8(whole, Path(folder, "int8", "whole.onnx"), scheme, feeds)
            cells = []
            for target in _STATIC:
                row = DEPLOYMENTS[target]
                files = [row.load(each, program, 1) for each in (whole, path)]
                taken = pace(files[0], files[1], one, seconds=seconds)
                off = apart(*(file.run(one) for file in files))
                cells.append(f"{taken.ratio:.2f} ({off:.1%} off)")
            rows.append(f"| {' | '.join((name, ', '.join(ops), *cells))} |")
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.int8", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="*", help="names to measure, a glob")
    parser.add_argument("--ops", action="store_true", help="layers by themselves")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each timing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.ops:
        names, rows = list(OPS), op_rows
        print("| layers | in int8 | ONNX Runtime | OpenVINO |\n|---|---|---|---|")
    else:
        from benchmarks.int8.models import MODELS

        names, rows = list(MODELS), network_rows
        print("| network | for | scheme | time | off in ONNX Runtime | off in OpenVINO | apart | |")
        print("|---|---|---|---|---|---|---|---|")
    for name in fnmatch.filter(names, options.only):
        print("\n".join(rows(name, options.seconds)), flush=True)
    return 0
