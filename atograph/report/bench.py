"""What ``atograph bench`` finds out: latencies of the dense and the slim model, and their layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atograph.report.run import Latency


@dataclass(frozen=True)
class LayerPair:
    """One layer before and after.

    Attributes:
        title: as `latency.profile.Layer.title`.
        op: as ONNX Runtime calls it.
        dense, slim: milliseconds per call.
        kept: share of its FLOPs that is left; None where it has none.
        wasted: milliseconds that the slim one takes beyond the share of the dense one's that the whole model's FLOPs
            promise.
    """

    title: str
    op: str
    dense: float
    slim: float
    kept: float | None
    wasted: float


@dataclass(frozen=True)
class Bench:
    """What `run.bench.bench_run` found out.

    Attributes:
        flops_share: FLOPs of the slim model over those of the dense one.
        latencies: for each runtime, batch size and number of threads.
        layers: at the first of them, in the order in which they run.
        multiple: the widths that the plan changed are multiples of it.
        profiled: the runtime whose layers these are.
    """

    flops_share: float
    latencies: Sequence[Latency]
    layers: Sequence[LayerPair]
    multiple: int = 1
    profiled: str = "ONNX Runtime"

    def gained(self, latency: Latency) -> float:
        """The time saved over the time that the FLOPs promise to save: 1 where latency falls as FLOPs do."""
        return (1 - latency.slim / latency.dense) / max(1 - self.flops_share, 1e-9)
