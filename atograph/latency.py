"""Latency of two ONNX files, measured in turns so that the machine's drift hits both."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from atograph.capture import with_batch
from atograph.example_inputs import Inputs
from atograph.onnx_export import OnnxModel
from atograph.report import Latency


def measure_latency(
    dense: OnnxModel, slim: OnnxModel, inputs: Inputs, *, batch: int = 1, seconds: float = 1.0
) -> Latency:
    """Median milliseconds per call of both models, and the distance between the quartiles.

    Args:
        dense, slim: the two files.
        inputs: real ones; repeated or cut to ``batch`` samples.
        batch: samples per call.
        seconds: time to spend, warm-up aside; at least five calls of each are made.
    """
    args, kwargs = with_batch(tuple(inputs), batch)
    calls = [(model.session, model.feed(*args, **kwargs)) for model in (dense, slim)]
    taken = times_in_turns(calls, seconds=seconds)
    threads = dense.session.get_session_options().intra_op_num_threads or os.cpu_count() or 1
    quartiles = [statistics.quantiles(times, n=4) for times in taken]
    return Latency(
        batch=batch,
        threads=threads,
        dense=quartiles[0][1],
        slim=quartiles[1][1],
        dense_spread=quartiles[0][2] - quartiles[0][0],
        slim_spread=quartiles[1][2] - quartiles[1][0],
    )


def times_in_turns(calls: Sequence[tuple[Any, dict[str, Any]]], *, seconds: float) -> list[list[float]]:
    """Milliseconds of each call of several sessions, one after the other and then all again.

    Args:
        calls: session of ONNX Runtime, and what to feed it with.
        seconds: time to spend, a warm-up of three calls aside; at least five calls of each are made, at most 200.
    """
    for session, feed in [*calls] * 3:
        session.run(None, feed)
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(taken[-1]) < 5 or (time.perf_counter() < end and len(taken[-1]) < 200):
        for (session, feed), times in zip(calls, taken, strict=True):
            times.append(_timed(session, feed))
    return taken


def _timed(session: Any, feed: dict[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return (time.perf_counter() - start) * 1e3
