"""The figures that a run is about, before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atograph.report import numbers
from atograph.report.run import Latency, Report


@dataclass(frozen=True)
class Figure:
    """One figure: ``before`` is empty where nothing was measured of the dense network."""

    name: str
    before: str
    after: str
    note: str


def figures(report: Report) -> list[Figure]:
    """What the network cost and was worth, and what it costs and is worth now."""
    return [*_costs(report), *_worth(report), *_times(report)]


def _costs(report: Report) -> Iterator[Figure]:
    dense, slim = report.dense, report.slim
    rows = (
        ("FLOPs", numbers.count, dense.flops, slim.flops),
        ("parameters", numbers.count, dense.params, slim.params),
        ("ONNX file", numbers.size, dense.bytes, slim.bytes),  # none where ONNX is no target
    )
    for name, text, before, after in rows:
        if before:
            yield Figure(name, text(before), text(after), f"{numbers.percent(after / before)} of the dense")


def _worth(report: Report) -> Iterator[Figure]:
    metrics = report.metrics
    after = next((each for each in (metrics.slim, metrics.onnx, metrics.masked) if each is not None), None)
    if after is None:
        return
    if metrics.dense is None:
        yield Figure(metrics.name, "", metric_text(after), "not known of the dense one")
    else:
        change = f"{after - metrics.dense:+.4f}".replace("-", "−")
        yield Figure(metrics.name, metric_text(metrics.dense), metric_text(after), change)


def _times(report: Report) -> Iterator[Figure]:
    if not report.latency_ms:
        return
    first = min(report.latency_ms, key=lambda each: (each.batch, each.threads))
    text = numbers.three_digits
    yield Figure(f"ms at batch {first.batch}", text(first.dense), text(first.slim), _speed_up(first))


def _speed_up(latency: Latency) -> str:
    ratio = latency.dense / latency.slim
    said = f"{ratio:.2f} × faster" if ratio >= 1 else f"{1 / ratio:.2f} × slower"
    return f"{said} in {latency.runtime}"


def metric_text(value: float | None) -> str:
    """``0.9512``; a dash where it was not measured."""
    return "–" if value is None else f"{value:.4f}"
