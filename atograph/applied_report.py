"""What ``atograph apply`` did: the record that its ``report.json`` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class AppliedSize(BaseModel):
    """What one network costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: int
    """On a batch of one, as `torch.utils.flop_counter` counts: two per multiply-accumulate."""
    params: int
    bytes: int
    """Of its weights."""


class AppliedReport(BaseModel):
    """Everything about one plan carried out on a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["atograph report of apply 1"] = "atograph report of apply 1"
    plan: str
    """Its fingerprint."""
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
    kept: dict[str, tuple[int, int]]
    """Group → units that stay, units that there were."""
    seconds: float

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
