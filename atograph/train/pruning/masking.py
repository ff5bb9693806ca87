"""What the hooks of methods that mask units have in common."""

from __future__ import annotations

from typing import Any

import torch

from atograph.passes.errors import UserError
from atograph.train.hook import Pruning
from atograph.train.interfaces import Graph, P, Training
from atograph.train.pruning.importance import Importance
from atograph.train.pruning.pool import Pool
from atograph.train.pruning.sharded_units import units_in
from atograph.train.pruning.shrink import Shrink
from atograph.train.pruning.swap import Swap


class Masking(Pruning[P]):
    """A hook whose plan is a mask on units: it finds out how important they are, and puts the slim module in place.

    Attributes:
        run, graph: as `Method.hook` gets them.
        units: of the graph's prunable groups.
        mask: ``[total]``, 0 for the units that are to go.
        pool: batches that were set aside.
        swap: which module is trained.
        importance: of the units.

    Raises:
        UserError: nothing can be pruned.
    """

    def __init__(self, run: Training, graph: Graph[P], shrink: Shrink[P] | None) -> None:
        if not graph.prunable:
            raise UserError(
                "the model has nothing that can be pruned.",
                hint="`graph.groups` says why, axis by axis. What requires no gradient goes with prune_frozen=True.",
            )
        self.run, self.graph = run, graph
        self.units = units_in(graph.prunable, run.model, run.device, run.replicas)
        self.mask = torch.ones(self.units.total, device=run.device)
        self.pool = Pool(run.task, run.settings, run.clock, run.device)
        self.swap = Swap(run, shrink)
        self.importance = Importance(run, graph, self.units, self.pool, self.swap)

    @property
    def slim_from(self) -> float | None:  # type: ignore[override]
        """When a slim module took over."""
        return self.swap.slim_from

    @property
    def why_dense(self) -> str:  # type: ignore[override]
        """Why none did."""
        return self.swap.why_dense

    @property
    def step_share(self) -> float:
        """FLOPs of the network that the steps train, over those of the dense one."""
        return self.flops_share if self.swap.slim else 1.0

    def sync(self) -> None:
        """Give the dense model what was trained in the slim one."""
        self.swap.sync()

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        return {
            "settings": self._settings,
            "kept": {name: list(units) for name, units in self.plan.kept.items()},
            "mask": self.mask,
            "flops_share": self.flops_share,
            "frozen": self.frozen,
            "metrics": [self.metric_dense, self.before_zero, self.after_zero],
            "criterion": self.importance.state(),
            "pool": self.pool.state(),
            "slim": self.swap.slim,
            "slim_from": self.slim_from,
            "why_dense": self.why_dense,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state; the dense model has its weights already, and the optimiser gets its own after it."""
        before, now = state.get("settings", {}), self._settings
        for name in now.keys() | before.keys():
            if before.get(name) != now.get(name):
                raise UserError(
                    f"this state is of another training: its {name} was {before.get(name)}, and is {now.get(name)}."
                )
        if state["kept"].keys() != self.plan.kept.keys():
            raise UserError("this state is of another training: it is of other groups.")
        self.plan, self.mask = self.graph.plan(kept=state["kept"]), state["mask"].to(self.mask.device)
        self.flops_share, self.frozen = state["flops_share"], state["frozen"]
        self.metric_dense, self.before_zero, self.after_zero = state["metrics"]
        self.importance.load(state["criterion"])
        self.pool.load(state["pool"])
        if self.frozen:
            self.importance.final()
        self.swap.resume(self.plan if state["slim"] else None, state["slim_from"], state["why_dense"])

    @property
    def _settings(self) -> dict[str, object]:
        """What must be the same for a training to go on, beside what a run compares (`run.unfinished.resumption`)."""
        moments = (
            "search_end", "zero", "tighten_start", "tighten_steps", "slim_apart", "controller", "controller_search",
            "controller_masked",
        )  # fmt: skip
        known = {name: getattr(self.run.settings, name) for name in moments if hasattr(self.run.settings, name)}
        return {
            "method": self.run.settings.method,
            "prior": self.run.settings.prior,
            **known,
            **self.run.settings.budgets,
        }

    def take(self, plan: P) -> None:
        """Let a plan be the mask."""
        self.plan, self.mask = plan, self.units.mask_of(plan)
        kept = {name: int(part.sum()) for name, part in self.units.split(self.mask).items()}
        self.flops_share = float(self.graph.cost.flops(kept)) / self.graph.flops

    def measured(self) -> float | None:
        """The metric on the validation data, or else on the batches that were set aside."""
        data = self.run.task.val_data
        return self.run.evaluate(self.pool.batches if data is None else data)
