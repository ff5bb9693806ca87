"""Auto-Train-Once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.train.methods.method import Method

if TYPE_CHECKING:
    from atograph.train.hook import Pruning
    from atograph.train.interfaces import Graph, P, Training
    from atograph.train.pruning.shrink import Shrink


class AutoTrainOnceMethod(Method):
    """A controller learns masks while the network trains (Wu et al., CVPR 2024, arXiv 2403.14729)."""

    name = "ato"
    help = "prunes while it trains (Auto-Train-Once)"

    def hook(self, run: Training, graph: Graph[P], shrink: Shrink[P] | None) -> Pruning[P]:
        """The phases of the mask."""
        from atograph.train.ato.pruner import Pruner

        return Pruner(run, graph, shrink)
