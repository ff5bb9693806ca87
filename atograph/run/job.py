"""One run: what it is to do, and what it has come to so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from atograph.graph.from_model import trace
from atograph.graph.graph import Graph
from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.passes.pipeline.remembered import read_remembered
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.report.declared import DeclaredProof
from atograph.report.run import FROM_PYTHON, Report
from atograph.sessions.file_model import FileModel
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs
from atograph.spec.source import Source
from atograph.targets.base import Target
from atograph.targets.deployed import Deployed
from atograph.targets.table import DEFAULT, targets_of
from atograph.train.loop import Trained
from atograph.train.progress import EpochRow
from atograph.train.pruning.selection import BY_CRITERION, Selection
from atograph.train.settings import TrainSettings
from atograph.train.task import Task
from atograph.values.batch_size import with_batch


def trace_to_train(model: nn.Module, inputs: Inputs, settings: TrainSettings) -> Graph:
    """The graph of a model that is to be trained and proved, as it is now; without wishes about its groups.

    Args:
        model: as it is trained.
        inputs: of one call.
        settings: how it is captured.

    Raises:
        UserError: as `trace`; or passes change its parameters, or are none that a plan remembers.
    """
    passes = read_remembered(settings.passes)
    graph = trace(model, *inputs, **{**settings.tracing, "passes": passes})
    if graph.model is not model:
        raise UserError(
            f"the passes {passes} give the model other parameters, and what is trained and proved is the model itself.",
            hint=f'Write what they give, and compress that: atograph opt SPEC --passes "{passes}" --out FILE.pt2; in '
            "Python, trace(model, ..., passes=...) has it as graph.model.",
        )
    return graph


@dataclass(frozen=True)
class Job:
    """Everything that one run needs, whether it came from a file or from Python.

    Attributes:
        selection: what decides which units stay; the settings are adapted to it (`Selection.adapted`).
        within: only its units may stay; None: all may.
        later: budgets that the model is to be trained to after this run: they are looked at before it.
        declared: what went of the model before the run, with its proofs: the model, the inputs and the data are those
            of what is left.
        comes_trained: whether the model has trained weights, though none came with `init`.
        dense_epochs: of the baseline; None: as many as the training has.
    """

    name: str
    where: str
    model: nn.Module
    inputs: Inputs
    task: Task
    settings: TrainSettings
    baseline: bool
    opset: int | None
    targets: tuple[str, ...] = DEFAULT
    tensorboard: Path | None = None
    init: Path | None = None
    spec: str = FROM_PYTHON
    source: Source | None = None
    selection: Selection = BY_CRITERION
    within: Plan | None = None
    later: Sequence[Mapping[str, float]] = ()
    dense_epochs: int | None = None
    comes_trained: bool = False
    declared: Sequence[DeclaredProof] = ()

    def at_its_batch(self) -> Job:
        """The same with example inputs of the batch that the settings ask for."""
        batch = self.settings.batch
        return self if batch is None else replace(self, inputs=Inputs(*with_batch(self.inputs.example, batch)))

    def trace(self) -> Graph:
        """The graph of the model as it is now; without wishes about its groups."""
        return trace_to_train(self.model, self.inputs, self.settings)

    def make_targets(self) -> list[Target]:
        """The targets of the run.

        Raises:
            UserError: one of them is not known, or none takes the opset.
        """
        return targets_of(self.targets, {"opset": self.opset})


@dataclass(frozen=True)
class Prepared:
    """A job that was looked at, and found possible.

    Attributes:
        job: what is to be done.
        graph: of the dense model, which holds the weights.
        settings: those of the job, with a number as ``round_to``.
        smallest: budget → the smallest share that can be reached.
        multiple: what widths are rounded to.
        started: when the run began, by `time.monotonic`.
    """

    job: Job
    graph: Graph
    settings: TrainSettings
    smallest: Mapping[str, float]
    multiple: int
    started: float = field(default_factory=time.monotonic)


@dataclass
class Outcome:
    """What a run has come to after its training; what is None is not there yet.

    Attributes:
        prepared: the job.
        trained: the training.
        dense_metric: of the dense baseline.
        slimmed: what came out.
        deployed: the slim model's file in each target.
        onnx: the slim model in ONNX Runtime, where that is a target.
        files: the ONNX files of the dense and the slim model; that of the dense one may be missing.
        timed: the dense and the slim model in each runtime that they are timed in.
        notes: what one should know of it.
    """

    prepared: Prepared
    trained: Trained[Plan]
    dense_metric: float | None = None
    slimmed: Slim | None = None
    deployed: Sequence[Deployed] = ()
    onnx: OnnxModel | None = None
    files: tuple[Path, Path] | None = None
    timed: list[tuple[FileModel, FileModel]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@public("atograph")
@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        model: the trained dense network; its masked groups are exactly zero.
        plan: the units that stayed.
        slim: the slim model.
        report: what was measured.
        history: one row per epoch.
        folder: where the files are; None if none were asked for.
    """

    model: nn.Module
    plan: Plan
    slim: Slim
    report: Report
    history: list[EpochRow]
    folder: Path | None

    def __str__(self) -> str:
        """The closing table, as the command prints it."""
        from atograph.terminal.console import as_text
        from atograph.terminal.tables import closing_table

        return as_text(closing_table(self.report))

    def __repr__(self) -> str:
        """In one line; `str` has the table."""
        return f"<Result of {self.report}>"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return self.report._repr_html_()
