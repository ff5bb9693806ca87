"""Which budgets one goes down to, and how long each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atograph.passes.errors import UserError
from atograph.train.settings import TrainSettings


@dataclass(frozen=True)
class Descent:
    """Which budgets one goes down to, and how long each takes.

    Attributes:
        budget: the name of the one that falls.
        shares: of it, the largest first.
        settings: of the run at each of them.
    """

    budget: str
    shares: Sequence[float]
    settings: Sequence[TrainSettings]

    @classmethod
    def of(cls, settings: TrainSettings, budgets: Mapping[str, Sequence[float]]) -> Descent:
        """The epochs are divided evenly; what is left over goes to the last one.

        Args:
            settings: of all runs; the budget that falls is at any of its shares.
            budgets: name → shares, of those of which several were given.

        Raises:
            UserError: none has several or more than one, there are too few epochs, or the method does not go down.
        """
        if not budgets:
            raise UserError(
                "a ladder goes down several shares of one budget, and none is given.",
                hint="Give one as a list: flops=[0.7, 0.5, 0.3]. A plan alone is for one run: compress(..., plan=...).",
            )
        if len(budgets) != 1:
            listed = " and ".join(f"--{name}" for name in budgets)
            raise UserError(f"one budget at a time goes down a ladder, and {listed} have several shares each.")
        ((budget, shares),) = budgets.items()
        count = len(shares)
        if settings.search_end and settings.method != "progressive":
            raise UserError(
                f"the method '{settings.method}' is for one budget, and there are {count}.",
                hint="Several go with --method progressive, or with a criterion (--method taylor).",
            )
        if 0 < settings.epochs < count:
            raise UserError(
                f"{settings.epochs} epoch{'s' * (settings.epochs > 1)} cannot be divided among {count} budgets.",
                hint="They are divided among them: --epochs 30 trains ten for each of three.",
            )
        epochs = [settings.epochs // count] * count
        epochs[-1] += settings.epochs % count
        falling = sorted(shares, reverse=True)
        each = [
            settings.model_copy(update={budget: share, "epochs": length})
            for share, length in zip(falling, epochs, strict=True)
        ]
        return cls(budget, falling, each)

    @property
    def names(self) -> list[str]:
        """Of the folders."""
        return [f"{self.budget}-{share!r}" for share in self.shares]
