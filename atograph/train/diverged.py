"""A training whose loss or weights are not finite any more."""

from __future__ import annotations

from torch import Tensor

from atograph.passes.errors import UserError
from atograph.train.progress import EpochRow


class Diverged(UserError):
    """A loss or weights that are not finite.

    Attributes:
        weights: state of the model at the end of the last good epoch, on the CPU; the model holds it again.
        epochs: how many good epochs there were.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        last: EpochRow | None,
        weights: dict[str, Tensor],
        resumed: bool = False,
        also: str = "",
    ) -> None:
        self.weights, self.epochs = weights, 0 if last is None else last.epoch
        kept = "its initial weights (no epoch was finished)"
        if last is not None:
            kept = f"the weights of the end of epoch {last.epoch} (loss {last.loss:.4g})"
        if resumed:
            kept = "the weights of the checkpoint that the run went on from"
        super().__init__(
            f"training diverged with {what}; the model holds {kept}.",
            where=where,
            hint=f"Try a lower rate (lr), a longer warm-up, or look for bad values in the data.{also}",
        )
