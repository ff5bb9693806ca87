"""Progressive tightening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from atograph.train.methods.method import Method
from atograph.train.settings.progressive import ProgressiveSettings

if TYPE_CHECKING:
    from atograph.train.hook import Pruning
    from atograph.train.interfaces import Graph, P, Training
    from atograph.train.pruning.shrink import Shrink


class Progressive(Method):
    """Prunes early and step by step, each time what has become least important, and trains what is left.

    Source: gradual pruning (Zhu & Gupta, arXiv 1710.01878), by the Taylor score of Molchanov et al.
    (arXiv 1906.10771), over zero-invariant groups.
    """

    name = "progressive"
    help = "prunes step by step at the beginning of the training"
    settings = ProgressiveSettings
    takes_plans = True
    presets: ClassVar[Mapping[str, object]] = {
        "controller": False, "controller_start": 0.0, "projection_start": 0.0,
    }  # fmt: skip

    def hook(self, run: Training, graph: Graph[P], shrink: Shrink[P] | None) -> Pruning[P]:
        """The ladder down to the budgets."""
        from atograph.train.progressive.tightening import Tightening

        return Tightening(run, graph, shrink)
