"""What OpenVINO does in a process of its own (`child_process`): files by number, and nothing of torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from atograph.files.reading import parse_json
from atograph.sessions.feed import Feed

_WARM_UP = 3

_MB = 2**20

_AS_IN_ONNX = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "ConvolutionBackpropData": "ConvTranspose",
    "GroupConvolutionBackpropData": "ConvTranspose",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "Gemm",
    "ScaledDotProductAttention": "Attention",
    "Convert": "Cast",
}
"""OpenVINO's kinds of kernels → the ops of ONNX that they compute, where these are called otherwise."""

_NOTE = "atograph"
"""Where a file says where it comes from, in JSON."""


@dataclass(frozen=True)
class _File:
    """A file, compiled for inputs of any size.

    Attributes:
        model: as it was read.
        names: of its inputs.
        options: that it was compiled with.
        compiled: the model, ready to run.
    """

    model: Any
    names: list[str]
    options: dict[str, object]
    compiled: Any

    def request(self, compiled: Any, feed: Feed) -> tuple[Any, dict[int, NDArray[np.generic]]]:
        """What runs a compiled form, and its inputs by their positions."""
        return compiled.create_infer_request(), {at: feed[name] for at, name in enumerate(self.names)}


_files: dict[int, _File] = {}


def write(source: str, target: str, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file in OpenVINO's format: ``target``, which ends in ``.xml``, and its weights in a ``.bin``."""
    model = openvino.Core().read_model(source)
    model.set_rt_info(json.dumps(dict(metadata)), [_NOTE])
    try:
        openvino.save_model(model, target, compress_to_fp16=False)
    except RuntimeError:
        for path in (Path(target), Path(target).with_suffix(".bin")):
            _write_zeros(path, Path(source).stat().st_size)  # a full disk says so here, and there an "iostream error"
        raise


def _write_zeros(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for _ in range(count // _MB + 1):
            file.write(bytes(_MB))


def load(path: str, threads: int = 0) -> dict[str, object]:
    """Load a file of OpenVINO's format, or an ONNX file.

    Args:
        path: the file.
        threads: threads in all; 0 leaves the choice to OpenVINO.

    Returns:
        The file's number, and what it says of itself.
    """
    core, options = openvino.Core(), _options(threads)
    model = core.read_model(path)
    parameters = model.get_parameters()
    names = [str(each.friendly_name) for each in parameters]
    compiled = core.compile_model(model, "CPU", options)
    number = max(_files, default=0) + 1
    _files[number] = _File(model, names, options, compiled)
    return {
        "number": number,
        "inputs": [
            {"name": name, "type": each.element_type.to_dtype().name, "shape": [_size(n) for n in each.partial_shape]}
            for name, each in zip(names, parameters, strict=True)
        ],
        "metadata": _metadata(model),
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
    }


def _options(threads: int) -> dict[str, object]:
    """In float32, whatever the processor has: unless told so, OpenVINO computes in bfloat16 where it can."""
    options: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # to the first core, which may have other work
    }
    return {**options, "INFERENCE_NUM_THREADS": threads} if threads else options


def _size(dimension: Any) -> int | None:
    return None if dimension.is_dynamic else int(dimension.get_length())


def _metadata(model: Any) -> dict[str, str]:
    noted = parse_json(model.get_rt_info([_NOTE]).astype(str)) if model.has_rt_info([_NOTE]) else {}
    return {str(key): str(value) for key, value in noted.items()} if isinstance(noted, dict) else {}


def close(number: int) -> None:
    """Forget a file."""
    _files.pop(number, None)


def run(number: int, feed: Feed) -> list[NDArray[np.generic]]:
    """The outputs of a file."""
    file = _files[number]
    request, values = file.request(file.compiled, feed)
    request.infer(values)
    return [np.array(tensor.data) for tensor in request.output_tensors]


def times_in_turns(calls: Sequence[tuple[int, Feed]], seconds: float) -> list[list[float]]:
    """`latency.measure.times_in_turns` of files by number, each compiled for the sizes of its inputs."""
    runs = [_compiled_for(_files[number], feed) for number, feed in calls]
    for request, values in [*runs] * _WARM_UP:
        request.infer(values, share_inputs=True)
    taken: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds
    while len(taken[-1]) < 5 or (time.perf_counter() < end and len(taken[-1]) < 200):
        for (request, values), times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            request.infer(values, share_inputs=True)
            times.append((time.perf_counter() - start) * 1e3)
    return taken


def kernel_times(
    model: str | bytes, feed: Feed, threads: int, calls: int, seconds: float
) -> list[tuple[str, str, list[float]]]:
    """`latency.profile.kernel_times`: name, op as ONNX calls it, and milliseconds of each kernel."""
    read = openvino.Core().read_model(model)
    names = [str(each.friendly_name) for each in read.get_parameters()]
    file = _File(read, names, {**_options(threads), "PERF_COUNT": True}, None)
    request, values = _compiled_for(file, feed)
    taken: dict[tuple[str, str], list[float]] = {}
    started = time.perf_counter()
    for call in range(calls + _WARM_UP):
        if call >= 5 + _WARM_UP and time.perf_counter() - started > seconds:
            break
        request.infer(values, share_inputs=True)
        if call < _WARM_UP:
            continue
        for kernel in request.profiling_info:
            if kernel.status.name == "EXECUTED":
                key = str(kernel.node_name), _AS_IN_ONNX.get(kernel.node_type, str(kernel.node_type))
                taken.setdefault(key, []).append(kernel.real_time.total_seconds() * 1e3)
    return [(*kernel, times) for kernel, times in taken.items()]


def _compiled_for(file: _File, feed: Feed) -> tuple[Any, dict[int, NDArray[np.generic]]]:
    model = file.model.clone()
    model.reshape({at: list(feed[name].shape) for at, name in enumerate(file.names)})
    return file.request(openvino.Core().compile_model(model, "CPU", file.options), feed)
