"""The curves of a run in TensorBoard, while it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from atograph.passes.errors import UserError
from atograph.train.progress import EpochRow


class TensorBoard:
    """A `train.Progress` that writes an event file.

    Scalars, by epoch: those of `train.EpochRow` under their names, and ``kept/NAME`` for each family. The training loss
    of single steps is ``loss/step``.

    Args:
        folder: of the event file; one for each run.

    Raises:
        UserError: the package tensorboard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "curves for TensorBoard need the package tensorboard, which is not installed.",
                hint="pip install tensorboard",
            ) from error
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(f"the curves cannot be written: {error}", where=str(folder)) from error
        self._per_epoch, self._before = 0, 0

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Take note of how long an epoch is; where nobody knows, steps are counted from where the run begins."""
        self._per_epoch = steps_per_epoch or 0

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """The loss of one step."""
        self._before += not self._per_epoch
        number = (epoch - 1) * self._per_epoch + step if self._per_epoch else self._before
        self._writer.add_scalar("loss/step", loss, number)

    def epoch(self, row: EpochRow) -> None:
        """Everything about one epoch."""
        values = asdict(row)
        kept = values.pop("kept")
        values |= {f"kept/{name}": count for name, count in kept.items()}
        for name, value in values.items():
            if value is not None and name != "epoch":
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def tell(self, text: str) -> None:
        """Curves have no words."""

    def stop(self) -> None:
        """Close the file."""
        self._writer.close()
