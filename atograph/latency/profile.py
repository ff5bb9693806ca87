"""Where an ONNX model spends its time: milliseconds and FLOPs of each layer in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import onnx

from atograph.files.writing import CannotWrite
from atograph.ort.session import RUNTIME
from atograph.passes.errors import UserError
from atograph.process.child_process import SECONDS, ChildError
from atograph.values.user_code import one_line

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed
    from atograph.sessions.runtime_process import RuntimeProcess

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """The kernels of ONNX Runtime that work for one layer, with what was fused into them.

    Attributes:
        name: the module whose weight they read; empty for what reads none, which is taken together by op.
        op: as ONNX Runtime calls it.
        ms: milliseconds per call: of each kernel the median, summed.
        flops: per sample, two per multiply-accumulate; 0 for what is no product of matrices or convolution.
    """

    name: str
    op: str
    ms: float
    flops: int

    @property
    def title(self) -> str:
        """``layer1.0.conv1 (Conv)``, or ``all Transpose``."""
        return f"{self.name} ({self.op})" if self.name else f"all {self.op}"


def profile(path: Path, feed: Feed, *, threads: int = 1, calls: int = 30) -> list[Layer]:
    """Profile an ONNX file.

    Args:
        path: the file.
        feed: its inputs, arrays by name.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        calls: how often it is called, after three for the warm-up.

    Returns:
        The layers in the order in which they first run.
    """
    taken = kernel_times(str(path.resolve()), feed, threads=threads, calls=calls)
    origins, layers = _Origins(onnx.load(path, load_external_data=False)), dict[tuple[str, str], Layer]()
    for (made, op), times in taken.items():
        name, flops = origins.of(made)
        before = layers.get((name, op), Layer(name, op, 0.0, 0))
        layers[name, op] = Layer(name, op, before.ms + median(times), before.flops + flops)
    return list(layers.values())


def kernel_times(
    model: str | bytes,
    feed: Feed,
    *,
    threads: int = 1,
    calls: int = 30,
    seconds: float = inf,
    runtime: RuntimeProcess = RUNTIME,
) -> dict[tuple[str, str], list[float]]:
    """What a runtime's profiler says of each kernel.

    Args:
        model: path of a file of the runtime's form, or the content of an ONNX file.
        feed: its inputs, arrays by name.
        threads: threads within an op; 0 leaves the choice to the runtime.
        runtime: where it runs.
        calls: how often it is called, after three for the warm-up.
        seconds: after so long, five calls have to do.

    Returns:
        (name, op as ONNX calls it) of each kernel, in the order in which they run → milliseconds of each call.
    """
    limit = SECONDS + (calls + 3) * SECONDS / 10
    try:
        taken = runtime.child().call(
            "kernel_times", model, dict(feed), threads, calls, min(seconds, limit), seconds=limit
        )
    except ChildError as error:
        if getattr(error, "errno", None) is not None:  # the runtime itself does not tell that it could not be written
            raise CannotWrite(
                f"{runtime.title}'s profile is not complete; is the disk full?", where="the folder for temporary files"
            ) from error
        raise UserError(f"{runtime.title} cannot be timed on this model: {one_line(error)}.") from error
    return {(name, op): times for name, op, times in taken}


class _Origins:
    """From which layers the kernels of a model come: they are called as the node or the value that they make."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._producers = {name: node for node in graph.node for name in node.output}
        self._nodes = {node.name: node for node in graph.node}
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._shapes = {value.name: [d.dim_value or 1 for d in value.type.tensor_type.shape.dim] for value in values}

    def of(self, kernel: str) -> tuple[str, int]:
        """Name of the layer and FLOPs of a kernel; an empty name where it reads no weight."""
        name = kernel.removesuffix("_nchwc")
        node = self._nodes.get(name) or self._producers.get(name)
        while node is not None and node.op_type not in _PRODUCTS and kernel != node.name:
            node = self._producers.get(node.input[0]) if node.input else None  # what is fused into it comes after it
        if node is None:
            return "", 0
        read = [name for name in node.input if name in self._weights and "." in name]
        return (read[0].rpartition(".")[0] if read else _module(node)), self._flops(node)

    def _flops(self, node: onnx.NodeProto) -> int:
        if node.op_type not in _PRODUCTS:
            return 0
        result, first = self._shapes.get(node.output[0], []), self._shapes.get(node.input[0], [])
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = self._weights.get(node.input[1], (0,))
            return 2 * int(prod((result if node.op_type == "Conv" else first)[1:]) * prod(weight[1:]))
        return 2 * int(prod(result)) * (first[-1] if first else 0)


def _module(node: onnx.NodeProto) -> str:
    """The module that torch.onnx notes for a node that multiplies by a weight without a name of its own."""
    if node.op_type not in _PRODUCTS:
        return ""
    noted = next((entry.value for entry in node.metadata_props if entry.key == "namespace"), "")
    modules = [part.split(": ")[0] for part in noted.split("/")]
    return modules[-2] if len(modules) > 1 else ""
