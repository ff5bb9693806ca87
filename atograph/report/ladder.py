"""The report of a ladder: what each of its budgets came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from atograph.files.reading import read_as
from atograph.report.run import NO_REPORT


class LadderRung(BaseModel):
    """One slim model.

    Attributes:
        folder: of its run, within that of the ladder.
        asked: share of the budget.
        flops, params: shares of the dense model's that were kept.
        metric: of the slim network; None without validation data.
        training: FLOPs of its training, over those of a dense training of as many epochs; None without any.
        latency: of the file in ONNX Runtime at the smallest batch that was timed, over that of the dense model, which
            was timed in turns with it; None where that was no target.
        batch: the one that it was timed at.
        best: whether no other rung is as good in the metric and costs less, by FLOPs (Pareto).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    folder: str
    asked: float
    flops: float
    params: float
    metric: float | None
    latency: float | None
    batch: int | None = None
    training: float | None = None
    best: bool = False


class LadderReport(BaseModel):
    """Everything about a finished ladder.

    Attributes:
        name: of the model.
        budget: what the shares are of: ``flops``.
        metric: its name.
        better: which metric is better, ``max`` or ``min``; None: nobody said, and no rung is marked.
        dense: the metric of the dense network, where it is known.
        rungs: from the largest budget to the smallest.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["atograph ladder 1"] = "atograph ladder 1"
    name: str
    budget: str
    metric: str
    better: Literal["max", "min"] | None
    dense: float | None
    rungs: list[LadderRung]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> LadderReport:
        """Read what `save` wrote.

        Raises:
            UserError: the file cannot be read or is none.
        """
        return read_as(path, cls, NO_REPORT)


def marked(rungs: Sequence[LadderRung], better: Literal["max", "min"] | None) -> list[LadderRung]:
    """The same rungs, those marked that are worth having (`LadderRung.best`).

    Args:
        rungs: of one ladder.
        better: which metric is.
    """
    sign = {"max": 1.0, "min": -1.0, None: math.nan}[better]
    found = []
    for rung in rungs:
        worth = math.nan if rung.metric is None else sign * rung.metric
        beaten = any(
            other.metric is not None and sign * other.metric >= worth and other.flops < rung.flops for other in rungs
        )
        found.append(rung.model_copy(update={"best": worth == worth and not beaten}))
    return found
