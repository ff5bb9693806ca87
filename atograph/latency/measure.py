"""Latency of files in one runtime, measured in turns so that the machine's drift hits both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from atograph.passes.errors import UserError
from atograph.process.child_process import ChildError
from atograph.report.run import Latency
from atograph.sessions.feed import Feed
from atograph.sessions.file_model import FileModel
from atograph.spec.example_inputs import Inputs
from atograph.values.user_code import one_line


def measure_latency(
    dense: FileModel, slim: FileModel, inputs: Inputs, cut: Inputs, *, batch: int = 1, seconds: float = 1.0
) -> Latency:
    """Median milliseconds per call of both models, and the quartiles.

    Args:
        dense, slim: the two files, in the same runtime.
        inputs: real ones, for the dense model, of ``batch`` samples.
        cut: the same for the slim one: state is narrower there.
        batch: samples per call.
        seconds: time to spend, warm-up aside; at least five calls of each are made.
    """
    whole, narrow = medians_in_turns([(dense, inputs), (slim, cut)], seconds=seconds)
    return Latency(
        runtime=dense.runtime.title, batch=batch, threads=dense.threads, dense=whole.ms, slim=narrow.ms,
        dense_spread=whole.spread, slim_spread=narrow.spread,
        dense_quartiles=whole.quartiles, slim_quartiles=narrow.quartiles,
    )  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """The calls of one file.

    Attributes:
        ms: their median in milliseconds.
        quartiles: a quarter of them was faster than the first, a quarter slower than the second.
    """

    ms: float
    quartiles: tuple[float, float]

    @property
    def spread(self) -> float:
        """Between the quartiles."""
        return self.quartiles[1] - self.quartiles[0]

    @property
    def fields(self) -> dict[str, object]:
        """What a point of a curve holds of it (`report.tradeoff.Point`)."""
        return {"ms": self.ms, "spread": self.spread, "quartiles": self.quartiles}


def medians_in_turns(files: Sequence[tuple[FileModel, Inputs]], *, seconds: float) -> list[Timed]:
    """How long a call of each of several files takes; see `times_in_turns`.

    Args:
        files: each with its inputs, all in the same runtime.
        seconds: time to spend, warm-up aside.
    """
    taken = times_in_turns([(model, model.feed(*args, **kwargs)) for model, (args, kwargs) in files], seconds=seconds)
    quartiles = [statistics.quantiles(times, n=4) for times in taken]
    return [Timed(middle, (lower, upper)) for lower, middle, upper in quartiles]


def times_in_turns(calls: Sequence[tuple[FileModel, Feed]], *, seconds: float) -> list[list[float]]:
    """Milliseconds of each call of several files, one after the other and then all again.

    Args:
        calls: file, and what to feed it with; all in the same runtime.
        seconds: time to spend, a warm-up of three calls aside; at least five calls of each are made, at most 200.

    Raises:
        UserError: the runtime cannot run one of them.
    """
    limit = seconds + 16 * sum(model.seconds for model, _feed in calls)
    runtime = calls[0][0].runtime
    for model, _feed in calls:
        model.ready()
    numbered = [(model.ready(), feed) for model, feed in calls]
    try:
        taken: list[list[float]] = runtime.child().call("times_in_turns", numbered, seconds, seconds=limit)
    except ChildError as error:
        raise UserError(f"{runtime.title} cannot be timed on these models: {one_line(error)}.") from error
    return taken
