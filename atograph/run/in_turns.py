"""The dense network and several slim ones in one runtime, a call of each in turn, so that their latencies compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from atograph.files.writing import scratch
from atograph.graph.graph import Graph
from atograph.latency.measure import Timed, medians_in_turns
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.run import ProgramModule
from atograph.process.stages import stage
from atograph.sessions.file_model import FileModel
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.base import Target
from atograph.targets.deployed import dense_file, export
from atograph.values.batch_size import batch_sizes, with_batch

_SECONDS = 0.5
"""For the calls of each file: what a run spends, too."""


@dataclass(frozen=True)
class InTurns:
    """What was measured.

    Attributes:
        runtime: its title.
        batch: samples per call.
        threads: within an op.
        dense: the dense network.
        slim: the slim ones, in the order that they were given.
    """

    runtime: str
    batch: int
    threads: int
    dense: Timed
    slim: Sequence[Timed]


def time_in_turns(
    graph: Graph,
    inputs: Inputs,
    slims: Sequence[tuple[Slim, Path | None]],
    target: Target,
    *,
    batch: int | None = None,
    threads: int = 1,
) -> InTurns:
    """Time all of them in one go.

    Args:
        graph: of the dense model.
        inputs: what it takes.
        slims: models that were made of it, each with its file; one that is not there is written, and not kept.
        target: the runtime; it is one that is timed.
        batch: samples per call; None: as few as the model takes.
        threads: within an op; 0 leaves the choice to the runtime.

    Raises:
        UserError: the target cannot express one of them, or its runtime not run it.
    """
    with stage("timing dense and slim in turns") as now, scratch() as aside:
        program, right = to_exported(graph.program), ProgramModule(graph.program).cpu()
        dense = _written(target, program, dense_file(target, aside), right, inputs)
        examples, models = [inputs.example], [_timed(target, dense, program, threads)]
        for number, (slim, file) in enumerate(slims, 1):
            now.detail = f"file {number} of {len(slims)}"
            cut = slim.state.inputs(inputs.example)
            if file is None or not file.is_file():
                place = aside / str(number)
                place.mkdir()
                file = _written(target, slim.program, place / target.file, slim, Inputs(*cut))
            examples.append(cut)
            models.append(_timed(target, file, slim.program, threads))
        now.detail = ""
        interface = graph.program.interface
        size = batch_sizes(inputs.example, graph.program)[0] if batch is None else batch
        fed = [Inputs(*with_batch(each, size, interface)) for each in examples]
        timed = medians_in_turns(list(zip(models, fed, strict=True)), seconds=_SECONDS * len(models))
    return InTurns(target.title, size, models[0].threads, timed[0], timed[1:])


def _written(
    target: Target, program: ExportedProgram, path: Path, right: Callable[..., object], inputs: Inputs
) -> Path:
    """A file that computes what the program does, where the target can write one that does."""
    export(target, program, path)
    target.amend(program, path, {}, right, inputs)
    return path


def _timed(target: Target, path: Path, program: ExportedProgram, threads: int) -> FileModel:
    made = target.timed(path, program, threads)
    assert made is not None, "it is a target that is timed"
    return made
