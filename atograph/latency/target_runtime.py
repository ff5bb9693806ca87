"""Measures a model and its plans in the runtime of a target on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from atograph.latency.measure import times_in_turns
from atograph.latency.profile import kernel_times
from atograph.latency.table import Times, small_model_times, split_time
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.program import Program
from atograph.passes.ir.values import require_values
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.slim import SlimProgram
from atograph.passes.torch_private import pytree
from atograph.targets.base import Target
from atograph.targets.deployed import dense_file, export
from atograph.values.batch_size import with_batch

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed
    from atograph.sessions.file_model import FileModel

_SECONDS = 1.5
"""Of measuring for each model; five calls of each in any case."""

_MEMORY = 3_000_000_000
"""Bytes of dense weights up to which several slim models are held at once."""


class TargetRuntime:
    """`latency.predictor.Runtime` on this machine's CPU.

    Args:
        program: of the dense model, with its groups; its weights may be any, and on any device.
        target: where it is measured; one that is timed.
        batch: samples per call.
        threads: threads within an op; 0 leaves the choice to the runtime.
    """

    def __init__(self, program: Program, target: Target, *, batch: int, threads: int) -> None:
        self._program, self._target, self._batch, self._threads = program, target, batch, threads

    @property
    def title(self) -> str:
        """What the target's runtime is called."""
        return self._target.title

    @property
    def version(self) -> str:
        """Of the package that it comes in."""
        return self._dense[1].runtime.version

    @property
    def times(self) -> Times:
        """Runs small models."""
        return small_model_times(self._threads, self._dense[1].runtime)

    def dense(self) -> tuple[float, float, float]:
        """Milliseconds per call of the dense model; by its profile those in products, and in all else."""
        folder, model = self._dense
        feed = self._feed(model)
        (taken,) = times_in_turns([(model, feed)], seconds=_SECONDS)
        path = str(dense_file(self._target, Path(folder.name)))
        kernels = kernel_times(path, feed, threads=self._threads, seconds=2.0, runtime=model.runtime)
        return median(taken), *split_time(kernels)

    def ratios(self, plans: Sequence[Plan]) -> list[float]:
        """The latency of each plan's slim model over that of the dense one: medians over calls in turns."""
        held = sum(value.nbytes for value in self._program.state.values())
        together = max(1, _MEMORY // max(1, held))
        return [
            ratio
            for start in range(0, len(plans), together)
            for ratio in self._in_turns(plans[start : start + together])
        ]

    def _in_turns(self, plans: Sequence[Plan]) -> list[float]:
        models = [self._dense[1]]
        with TemporaryDirectory(prefix="atograph-") as scratch:
            for number, plan in enumerate(plans):
                slimmed = Pipeline((SlimProgram(plan),)).run(self._program)
                place = Path(scratch) / str(number)
                place.mkdir()
                models.append(self._export(slimmed, place / self._target.file))
            calls = [(model, self._feed(model)) for model in models]
            dense, *slim = times_in_turns(calls, seconds=_SECONDS * len(plans))
        return [median(after / before for before, after in zip(dense, taken, strict=True)) for taken in slim]

    @cached_property
    def _dense(self) -> tuple[TemporaryDirectory[str], FileModel]:
        folder = TemporaryDirectory(prefix="atograph-")
        return folder, self._export(self._program, dense_file(self._target, Path(folder.name)))

    def _export(self, program: Program, path: Path) -> FileModel:
        require_values(program.state, "measuring latency needs the values of the weights")
        state = {name: value.detach().cpu() for name, value in program.state.items()}
        interface = replace(program.interface, example=pytree.tree_map(_on_cpu, program.interface.example))
        on_cpu = Program.build(program.graph, interface, state, root=program)
        with torch.random.fork_rng(devices=[]):  # a training that goes on draws what it would have drawn
            exported = to_exported(on_cpu)
            model = self._target.timed(export(self._target, exported, path), exported, self._threads)
        assert model is not None
        return model

    def _feed(self, model: FileModel) -> Feed:
        example = self._program.interface.example
        assert example is not None
        args, kwargs = with_batch(pytree.tree_map(_on_cpu, example), self._batch, self._program.interface)
        return model.feed(*args, **kwargs)


def _on_cpu(leaf: object) -> object:
    return leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf
