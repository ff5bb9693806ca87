"""What ONNX Runtime does in a process of its own (`child_process`): sessions by number, and nothing of torch."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from atograph.sessions.feed import Feed

_WARM_UP = 3

_PRODUCTS = ("MatMul", "Gemm")

_sessions: dict[int, onnxruntime.InferenceSession] = {}


def load(path: str, threads: int = 0, disabled: Sequence[str] = (), plain: bool = False) -> dict[str, object]:
    """Check and load a file.

    Args:
        path: the file.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        disabled: optimisations to leave out.
        plain: leave all of them out.

    Returns:
        The session's number, and what the file says of itself.
    """
    onnx.checker.check_model(path)  # weights in other files have to lie beside it: not every runtime looks
    options = _options(threads, plain)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers, disabled_optimizers=list(disabled))
    number = max(_sessions, default=0) + 1
    _sessions[number] = session
    return {
        "number": number,
        "inputs": [_value(value) for value in session.get_inputs()],
        "metadata": dict(session.get_modelmeta().custom_metadata_map),
        "threads": session.get_session_options().intra_op_num_threads or os.cpu_count() or 1,
    }


def _options(threads: int, plain: bool = False) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it refuses is raised, too
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _value(value: onnxruntime.NodeArg) -> dict[str, object]:
    return {"name": value.name, "type": str(value.type), "shape": list(value.shape)}


def close(number: int) -> None:
    """Forget a session."""
    _sessions.pop(number, None)


def run(number: int, feed: Feed) -> list[NDArray[np.generic]]:
    """The outputs of a session."""
    return list(_sessions[number].run(None, dict(feed)))


def times_in_turns(calls: Sequence[tuple[int, Feed]], seconds: float) -> list[list[float]]:
    """`latency.measure.times_in_turns` of sessions by number."""
    runs = [(_sessions[number], feed) for number, feed in calls]
    for session, feed in [*runs] * _WARM_UP:
        session.run(None, feed)
    taken: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds
    while len(taken[-1]) < 5 or (time.perf_counter() < end and len(taken[-1]) < 200):
        for (session, feed), times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            times.append((time.perf_counter() - start) * 1e3)
    return taken


def quantise(
    source: str, prepared: str, target: str, how: Mapping[str, Any], batches: Sequence[Feed], large: bool
) -> None:
    """`int8.quantise.to_int8`: by way of a second file, with weights outside if they are large.

    Args:
        source, prepared, target: the files.
        how: the fields of an `int8.schemes.Scheme`.
        batches: for the ranges of activations.
        large: whether weights are outside.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=large)
    options: dict[str, Any] = {
        "op_types_to_quantize": how["ops"],
        "nodes_to_exclude": [] if how["products"] else _of_computed_values(prepared),
        "per_channel": how["per_channel"],
        "weight_type": QuantType.QInt8,
        "use_external_data_format": large,
    }
    if how["dynamic"]:
        _forget_shapes(prepared, large)
        quantize_dynamic(prepared, target, **options)
        return
    activations = QuantType.QUInt8 if how["activations"] == "uint8" else QuantType.QInt8
    quantize_static(
        prepared,
        target,
        _Reader(batches),
        quant_format=QuantFormat.QDQ,
        activation_type=activations,
        extra_options={"ActivationSymmetric": how["symmetric"]},
        **options,
    )


def _forget_shapes(path: str, large: bool) -> None:
    """Take what a file says of the shapes between its ops out of it: dynamic quantisation takes old ones for new."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    weights = f"{Path(path).name}.data"
    onnx.save(model, path, save_as_external_data=large, location=weights if large else None)


def _of_computed_values(path: str) -> list[str]:
    """The products of matrices in a file whose second operand is no constant: attention."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {each.name for each in graph.initializer}
    constants |= {name for node in graph.node if not node.input for name in node.output}
    return [node.name for node in graph.node if node.op_type in _PRODUCTS and node.input[1] not in constants]


class _Reader:
    """The quantiser's `CalibrationDataReader`."""

    def __init__(self, batches: Sequence[Feed]) -> None:
        self._left = iter(batches)

    def get_next(self) -> Feed | None:
        """The next batch; None after the last."""
        return next(self._left, None)


def kernel_times(
    model: str | bytes, feed: Feed, threads: int, calls: int, seconds: float
) -> list[tuple[str, str, list[float]]]:
    """`latency.profile.kernel_times`: name, op and milliseconds of each kernel."""
    with TemporaryDirectory(prefix="atograph-") as place:
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(place, "profile"))
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        started = time.perf_counter()
        for call in range(calls + _WARM_UP):
            if call >= 5 + _WARM_UP and time.perf_counter() - started > seconds:
                break
            session.run(None, dict(feed))
        try:
            events = json.loads(Path(session.end_profiling()).read_bytes())
        except ValueError as error:
            raise OSError(errno.ENOSPC, "the profile is not complete") from error
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kernel = name.removesuffix("_kernel_time"), str(event["args"]["op_name"])
            taken.setdefault(kernel, []).append(event["dur"] / 1e3)
    return [(*kernel, times[_WARM_UP:] or times) for kernel, times in taken.items()]
