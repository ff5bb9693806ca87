"""The latency in a target's runtime on this machine, as a budget: predicted by a table of layers, and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from atograph.passes.budgets.budget import Budget

if TYPE_CHECKING:
    from atograph.latency.predictor import MeasuredLatency
    from atograph.latency.table import LatencyRecord
    from atograph.passes.ir.polynomial import Counts, Number
    from atograph.passes.ir.program import Program


class Latency(Budget):
    """Milliseconds per call.

    Args:
        program: with its groups.
        measured: what was measured of it, and what to measure with; None: at a batch of one, with one thread.
    """

    name = "latency"
    title = "latency"
    unit = "ms on this machine"
    help = "Share of the dense latency on this machine to keep, in the first target of the run that is timed."
    rounding = "auto"
    measured = True
    closing = "latency by the table of layers"

    def __init__(self, program: Program, latencies: MeasuredLatency | None = None) -> None:
        super().__init__(program)
        self.latencies = latencies or latencies_of(program)

    def cost(self, counts: Counts) -> Number:
        """By the table, which is measured if there is none yet."""
        self.latencies.table()
        return self.latencies.cost(counts)

    def reached(self, counts: Counts, timed: Mapping[int, float]) -> float:
        """As it was measured at the budget's number of samples per call."""
        batch = self.latencies.record.batch
        if batch in timed:
            return timed[batch]
        return next(iter(timed.values()), self.predicted(counts))

    def predicted(self, counts: Counts) -> float:
        """By the table, before anything was corrected."""
        return self.latencies.predicted_at(counts)

    def settle(self, choose: Callable[[], Any], share: float) -> Any:
        """The slowest plan within the budget that was found by measuring."""
        return self.latencies.settle(choose, share)


def latencies_of(
    program: Program,
    *,
    target: str = "onnx",
    batch: int = 1,
    threads: int = 1,
    record: LatencyRecord | None = None,
    alone: bool = True,
) -> MeasuredLatency:
    """The latencies of a program's plans, of which nothing is measured before somebody asks.

    Args:
        program: with its groups.
        target: where, by its name.
        batch: samples per call; a program that takes one batch size only is measured at that.
        threads: threads within an op; 0 leaves the choice to the runtime.
        record: what an earlier run measured.
        alone: whether this process may measure.

    Raises:
        UserError: the record is of another model, or was measured in another way; or there is no such target, or it is
            not timed.
    """
    from atograph.latency.predictor import MeasuredLatency
    from atograph.latency.target_runtime import TargetRuntime
    from atograph.targets.table import timed_target
    from atograph.values.batch_size import batch_sizes

    if program.interface.fixed and program.interface.batch is None:
        (batch,) = batch_sizes(program.interface.example, program)
    row = timed_target(target)
    runtime = TargetRuntime(program, row, batch=batch, threads=threads) if alone else None
    return MeasuredLatency(program, runtime, target=row.name, batch=batch, threads=threads, record=record)
