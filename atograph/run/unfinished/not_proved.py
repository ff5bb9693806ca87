"""The error of a training that is finished, and whose result could not be proved. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atograph.passes.errors import UserError
from atograph.passes.public import public

if TYPE_CHECKING:
    from torch import nn

    from atograph.passes.plan.plan import Plan
    from atograph.slimming.slim import Slim
    from atograph.train.progress import EpochRow


@public("atograph")
class NotProved(UserError):
    """The training is finished, and what came of it could not be exported, proved, measured or written.

    Nothing is lost: the model holds the trained weights, and what the plan drops is zero there. What went wrong is its
    ``__cause__``.

    Attributes:
        model: the dense model.
        plan: the units that stay.
        slim: the slim model; None where not even that could be made.
        history: one row per epoch.
        folder: where weights, plan and report are; None if there is none.
        complete: whether a run can go on from that folder.

    Args:
        why: what went wrong.
        hint: what goes on from there.
    """

    def __init__(
        self,
        why: str,
        hint: str,
        *,
        model: nn.Module,
        plan: Plan,
        slim: Slim | None,
        history: list[EpochRow],
        folder: Path | None,
        complete: bool,
    ) -> None:
        self.complete = complete
        self.model, self.plan, self.slim, self.history, self.folder = model, plan, slim, history, folder
        super().__init__(
            f"the training is finished, but what came of it is not proved: {why}",
            where=None if folder is None else str(folder),
            hint=hint,
        )
