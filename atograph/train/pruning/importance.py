"""What a run finds out about how important each unit is, by a criterion: from its own gradients, or on some batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.train.interfaces import Graph, P, Training
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.pool import Pool
from atograph.train.pruning.scoring import gradients_of, observe
from atograph.train.pruning.swap import Swap
from atograph.train.pruning.watch import GradientWatch
from atograph.values.batches import to_device

_MEMORY = 0.03
"""Share of the training whose gradients say how important a unit is."""

_MEMORY_WITHOUT_LENGTH = 100
"""The same in steps, where nobody knows how many there are."""


class Importance(Generic[P]):
    """A criterion and what it has seen.

    Attributes:
        criterion: the one that `TrainSettings.prior` names; None: none.

    Args:
        run: whose gradients are observed.
        graph, units: of its dense model.
        pool: batches to observe where the run itself does not show what the criterion needs.
        swap: which module is trained.
    """

    def __init__(self, run: Training, graph: Graph[P], units: UnitMap, pool: Pool, swap: Swap[P]) -> None:
        self._run, self._units, self._pool, self._swap = run, units, pool, swap
        self.criterion: Criterion | None = None
        self._watch: GradientWatch | None = None
        self._at_hand: list[object] = []  # the batch of this step, where no others are known
        if run.settings.prior == "none":
            return
        kind: type[Criterion] = CRITERIA.get(run.settings.prior)
        if run.settings.shard and kind.observes() == "activations":
            raise UserError(
                f"the criterion '{kind.name}' runs the captured program, whose weights are in several processes.",
                hint="Leave out --shard, or use another criterion: magnitude, taylor, lamp.",
            )
        self.criterion = kind(units, graph.program if kind.needs & {"program", "activations"} else None)
        self.criterion.seen.memory = run.clock.steps_between(0.0, _MEMORY) or _MEMORY_WITHOUT_LENGTH
        if self.criterion.observes() == "gradients":
            self._watch = GradientWatch(self._take_in)
            for optimizer in run.optimizers:
                self._watch.watch(optimizer)

    def step(self, batch: object) -> None:
        """A step is about to be made on a batch."""
        self._at_hand = [batch]
        if self._watch is not None:
            self._watch.due = True

    def leave_out(self) -> None:
        """The gradients of this step are of another network, one under a mask."""
        if self._watch is not None:
            self._watch.due = False

    def look(self) -> None:
        """Let the criterion see some batches, where the training itself does not show it what it needs."""
        criterion, run = self.criterion, self._run
        if criterion is None or criterion.observes() is None:
            return
        if criterion.observes() == "activations" or not criterion.ready:
            batches = self._pool.batches or run.task.some_batches(run.settings.controller_batches) or self._at_hand
            on_device = (to_device(batch, run.device) for batch in batches)
            observe(criterion, run.dense, run.task, on_device, run.replicas)
        if not criterion.ready:
            what = f"the criterion '{criterion.name}' has seen no {criterion.observes()}"
            hint = "The loss has to call the model itself, and its gradients have to be finite."
            if not run.settings.search_end:
                raise UserError(f"{what}, so nothing can be pruned by it.", hint=hint)
            run.tell(f"{what}: units are ranked by magnitude. {hint}")

    def final(self) -> None:
        """Nobody asks any more."""
        if self._watch is not None:
            self._watch.remove()

    def state(self) -> Mapping[str, object] | None:
        """What a checkpoint holds of it."""
        return None if self.criterion is None else self.criterion.state()

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from such a state."""
        if self.criterion is not None and state is not None:
            self.criterion.load(to_device(dict(state), self._run.device))

    def _take_in(self) -> None:
        assert self.criterion is not None, "it is watched for a criterion"
        gradients = self._swap.gradients()
        self.criterion.observe(gradients_of(self._units.parameters) if gradients is None else gradients)
