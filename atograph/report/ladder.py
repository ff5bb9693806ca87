"""The report of a ladder: what each of its budgets came to."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from atograph.report.saved import SavedReport
from atograph.report.tradeoff import Better, Point, marked


class LadderRung(Point):
    """One slim model.

    Attributes:
        folder: of its run, within that of the ladder.
        asked: share of the budget.
        latency: of the file over that of the dense model, in the ladder's runtime; as the run itself measured it, if
            the models were not timed together. None where no target is timed.
        training: FLOPs of its training, over those of a dense training of as many epochs; None without any.
    """

    folder: str
    asked: float
    latency: float | None = None
    training: float | None = None


class LadderReport(SavedReport):
    """Everything about a finished ladder.

    Attributes:
        name: of the model.
        budget: what the shares are of: ``flops``.
        metric: its name.
        better: which metric is better, ``max`` or ``min``; None: nobody said, and no network is marked.
        runtime: where latency was measured.
        batch, threads: samples per call and threads within an op, at which latency was measured.
        dense: the dense network; its metric, where it is known.
        rungs: from the largest budget to the smallest.
        notes: what one should know of the figures.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["atograph ladder 1"] = "atograph ladder 1"
    name: str
    budget: str
    metric: str
    better: Better | None
    runtime: str = "ONNX Runtime"
    batch: int | None = None
    threads: int | None = None
    dense: Point
    rungs: list[LadderRung]
    notes: list[str] = Field(default_factory=list)

    def marked(self) -> LadderReport:
        """The same, with those networks marked that are worth having (`report.tradeoff.Point.pareto`)."""
        dense, *rungs = marked([self.dense, *self.rungs], self.better)
        return self.model_copy(update={"dense": dense, "rungs": rungs})
