"""``atograph bench``: dense and slim in ONNX Runtime and other targets, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atograph.cli.runner import spec_of_run, tell_of_missing
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from atograph.report.run import Latency
    from atograph.terminal.console import Console

_LITTLE = 0.5
"""Share of the promised time below which a warning says which layers waste it."""

_WORST = 5


def bench(
    run: Path,
    *,
    spec: str | None,
    data: Path | None,
    trust_spec: bool,
    batches: list[int],
    threads: list[int],
    targets: list[str] | None,
    seconds: float,
    profile: bool,
    console: Console,
) -> None:
    """Measure, print the table, and warn where FLOPs promise more than there is."""
    for name, values in (("--batch", batches), ("--threads", threads)):
        if any(value < (1 if name == "--batch" else 0) for value in values):
            raise UserError(f"{name} takes whole numbers from {1 if name == '--batch' else 0} on.")
    if not seconds > 0:
        raise UserError("--seconds is above 0.")
    source = spec_of_run(run, spec, data, trust_spec, console)
    tell_of_missing(run, "slim.onnx", console)

    from atograph.latency.advice import advice
    from atograph.process.stages import stage
    from atograph.run.bench import bench_run
    from atograph.terminal.tables import latency_table, layer_table

    with stage("making the model"):
        model = source.model()
    found = bench_run(run, model, batches=batches, threads=threads, targets=targets, seconds=seconds)
    console.table(latency_table(found))
    worst = [layer for layer in sorted(found.layers, key=lambda layer: -layer.wasted) if layer.wasted > 0][:_WORST]
    if profile:
        console.table(layer_table(found.layers))
    slow: dict[str, Latency] = {}
    for latency in found.latencies:
        if found.gained(latency) < _LITTLE:
            slow.setdefault(latency.runtime, latency)
    for runtime, latency in slow.items():
        where = f"at a batch of {latency.batch} ({latency.threads} thread{'s' if latency.threads > 1 else ''})"
        saved = f"saves {found.gained(latency):.0%} of the time that its FLOPs promise"
        if latency.slim > latency.dense:
            saved = "is slower than the dense one"
        if runtime != found.profiled:
            console.warn(f"in {runtime} {where} the slim model {saved}.")
            continue
        layers = ", ".join(f"{layer.title} ({layer.wasted:.3f} ms)" for layer in worst)
        console.warn(
            f"{where} the slim model {saved}. What takes the most beyond that: {layers}. "
            f"{advice(worst, found.multiple)}"
        )
