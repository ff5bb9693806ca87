"""What ``atograph apply`` did: the record that its ``report.json`` holds. And either kind of report, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atograph.passes.errors import UserError
from atograph.reading import read_as
from atograph.report import FROM_PYTHON, NO_REPORT, Count, Report
from atograph.run_folder import check_folder


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


_EITHER: TypeAdapter[Report | AppliedReport] = TypeAdapter(
    Annotated[Report | AppliedReport, Field(discriminator="format")]
)


def load_report(folder: Path) -> Report | AppliedReport:
    """The report in the folder of a run or of ``atograph apply``.

    Raises:
        UserError: there is no such folder, or no report of atograph's in it.
    """
    path = folder / "report.json"
    check_folder(folder)
    if not path.is_file():
        raise UserError(
            "there is no report.json in this folder.",
            where=str(folder),
            hint="Name a folder that `atograph compress` or `atograph apply` wrote.",
        )
    return read_as(path, _EITHER, NO_REPORT)
