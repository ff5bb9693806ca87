"""A slim model that takes longer than the dense one is never handed over without a word."""

from __future__ import annotations

import pytest

from atograph.report.run import Latency
from atograph.run.measure import slower_line


def latency(slim: float, batch: int = 1, runtime: str = "ONNX Runtime") -> Latency:
    return Latency(runtime=runtime, batch=batch, threads=1, dense=2.0, slim=slim)


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ([], ""),
        ([latency(1.0), latency(1.5, 8)], ""),
        ([latency(1.0), latency(2.02, 8)], ""),  # within what is alike
        ([latency(2.02)], "the slim model is not faster here; widths"),
        (
            [latency(1.0), latency(2.6, 8), latency(3.0, 1, "OpenVINO")],
            "the slim model is slower than the dense one at batch 8 in ONNX Runtime (1.30 × the time) and at batch 1 "
            "in OpenVINO (1.50 × the time); widths",
        ),
    ],
)
def test_each_place_is_named(measured: list[Latency], said: str) -> None:
    line = slower_line(measured)
    assert line.startswith(said) and bool(line) == bool(said)
