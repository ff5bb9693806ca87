"""What ``atograph apply`` did: the record that its ``report.json`` holds. And any kind of report, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atograph.files.reading import read_as
from atograph.files.run_folder import check_folder
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.report.run import FROM_PYTHON, Count, Report
from atograph.report.saved import NO_REPORT
from atograph.spec.source import Source


class AppliedSize(BaseModel):
    """What one network costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: Count
    """On a batch of one, as `torch.utils.flop_counter` counts: two per multiply-accumulate."""
    params: Count
    bytes: Count
    """Of its weights."""


class AppliedReport(BaseModel):
    """Everything about one plan carried out on a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["atograph report of apply 2"] = "atograph report of apply 2"
    plan: str
    """Its digest."""
    spec: str = FROM_PYTHON
    """What the model was made from, as given on the command line."""
    source: Source | None = None
    """Where that lies; None in Python."""
    weights: str
    """The dense checkpoint, as given."""
    versions: dict[str, str]
    dense: AppliedSize
    slim: AppliedSize
    files: list[str]
    """The files of slim weights."""
    left_out: list[str]
    """Tensors of the checkpoint that the program does not read."""
    renamed: dict[str, str]
    """Name in the program → name in the weights, where they differ: tied weights have several."""
    program: str
    """``slim.pt2``, or why there is none."""
    kept: dict[str, tuple[Count, Count]]
    """Group → units that stay, units that there were."""
    seconds: float

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class SavedCost(BaseModel):
    """What one network costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: Count
    params: Count


class SavedReport(BaseModel):
    """What ``slim.save()`` tells of the slim model, so that its folder serves as that of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["atograph saved model 1"] = "atograph saved model 1"
    """Not that of a run: ``--force`` replaces whole folders, and this one may hold anything else."""
    plan: str
    """Its digest."""
    spec: str = FROM_PYTHON
    source: None = None
    dense: SavedCost
    slim: SavedCost

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


_ANY: TypeAdapter[Report | AppliedReport | SavedReport] = TypeAdapter(
    Annotated[Report | AppliedReport | SavedReport, Field(discriminator="format")]
)


def load_report(folder: Path) -> Report | AppliedReport | SavedReport:
    """The report in the folder of a run, of ``atograph apply`` or of ``slim.save()``.

    Raises:
        UserError: there is no such folder, or no report of atograph's in it.
    """
    path = folder / "report.json"
    check_folder(folder)
    if (folder / "ladder.json").is_file():
        runs = ", ".join(sorted(path.parent.name for path in folder.glob("*/report.json")))
        what = "this folder holds a run for each budget."
        raise UserError(what, where=str(folder), hint=f"Name one of them: {runs}.")
    if not path.is_file():
        raise UserError(
            "there is no report.json in this folder.",
            where=str(folder),
            hint="Name a folder that `atograph compress` or `atograph apply` wrote.",
        )
    return read_as(path, _ANY, NO_REPORT)


def tells_of(folder: Path, plan: Plan) -> bool:
    """Whether there is a report in a folder that tells of a plan, and more of it than `SavedReport`."""
    try:
        report = load_report(folder)
    except UserError:
        return False
    return report.plan == plan.digest and not isinstance(report, SavedReport)
