"""Latency of two ONNX files, measured in turns so that the machine's drift hits both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atograph.ort.model import OnnxModel, runtime_child
from atograph.passes.errors import UserError
from atograph.process.child_process import ChildError
from atograph.report.run import Latency
from atograph.spec.example_inputs import Inputs
from atograph.values.user_code import one_line

if TYPE_CHECKING:
    from atograph.ort.worker import Feed


def measure_latency(
    dense: OnnxModel, slim: OnnxModel, inputs: Inputs, cut: Inputs, *, batch: int = 1, seconds: float = 1.0
) -> Latency:
    """Median milliseconds per call of both models, and the distance between the quartiles.

    Args:
        dense, slim: the two files.
        inputs: real ones, for the dense model, of ``batch`` samples.
        cut: the same for the slim one: state is narrower there.
        batch: samples per call.
        seconds: time to spend, warm-up aside; at least five calls of each are made.
    """
    calls = [(dense, *inputs), (slim, *cut)]
    taken = times_in_turns([(model, model.feed(*args, **kwargs)) for model, args, kwargs in calls], seconds=seconds)
    quartiles = [statistics.quantiles(times, n=4) for times in taken]
    return Latency(
        batch=batch,
        threads=dense.threads,
        dense=quartiles[0][1],
        slim=quartiles[1][1],
        dense_spread=quartiles[0][2] - quartiles[0][0],
        slim_spread=quartiles[1][2] - quartiles[1][0],
    )


def times_in_turns(calls: Sequence[tuple[OnnxModel, Feed]], *, seconds: float) -> list[list[float]]:
    """Milliseconds of each call of several files, one after the other and then all again.

    Args:
        calls: file, and what to feed it with.
        seconds: time to spend, a warm-up of three calls aside; at least five calls of each are made, at most 200.

    Raises:
        UserError: ONNX Runtime cannot run one of them.
    """
    limit = seconds + 16 * sum(model.seconds for model, _feed in calls)
    for model, _feed in calls:
        model.ready()
    numbered = [(model.ready(), feed) for model, feed in calls]
    try:
        taken: list[list[float]] = runtime_child().call("times_in_turns", numbered, seconds, seconds=limit)
    except ChildError as error:
        raise UserError(f"ONNX Runtime cannot be timed on these models: {one_line(error)}.") from error
    return taken
