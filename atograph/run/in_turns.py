"""The dense network and several slim ones in ONNX Runtime, a call of each in turn, so that their latencies compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from atograph.files.writing import scratch
from atograph.graph.graph import Graph
from atograph.latency.measure import Timed, medians_in_turns
from atograph.ort.model import OnnxModel
from atograph.process.stages import stage
from atograph.run.rehearse import DenseFile, deploy
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import load
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.values.batch_size import batch_sizes, with_batch

_SECONDS = 0.5
"""For the calls of each file: what a run spends, too."""


@dataclass(frozen=True)
class InTurns:
    """What was measured.

    Attributes:
        batch: samples per call.
        threads: within an op.
        dense: the dense network.
        slim: the slim ones, in the order that they were given.
    """

    batch: int
    threads: int
    dense: Timed
    slim: Sequence[Timed]


def time_in_turns(
    graph: Graph,
    inputs: Inputs,
    slims: Sequence[tuple[Slim, Path | None]],
    target: OnnxRuntime,
    *,
    batch: int | None = None,
    where: str,
) -> InTurns:
    """Time all of them in one go.

    Args:
        graph: of the dense model.
        inputs: what it takes.
        slims: models that were made of it, each with its ONNX file; one that is not there is written, and not kept.
        target: how they run.
        batch: samples per call; None: as few as the model takes.
        where: the model, for errors.

    Raises:
        UserError: ONNX cannot express one of them, or ONNX Runtime not run it.
    """
    with stage("timing dense and slim in turns") as now, scratch() as aside:
        dense = DenseFile(graph, inputs, target, aside, where=where)
        dense.check()
        examples, models = [inputs.example], [dense.model()]
        for number, (slim, file) in enumerate(slims, 1):
            now.detail = f"file {number} of {len(slims)}"
            cut = slim.state.inputs(inputs.example)
            if file is None or not file.is_file():
                place = aside / str(number)
                place.mkdir()
                (made,) = deploy(slim, [dense.target], place, amended_for=Inputs(*cut))
            else:
                made = load(dense.target, file, slim.program)
            examples.append(cut)
            models.append(cast(OnnxModel, made.run))
        now.detail = ""
        program = graph.program
        size = batch_sizes(inputs.example, program)[0] if batch is None else batch
        fed = [Inputs(*with_batch(each, size, program.interface)) for each in examples]
        timed = medians_in_turns(list(zip(models, fed, strict=True)), seconds=_SECONDS * len(models))
    return InTurns(size, models[0].threads, timed[0], timed[1:])
