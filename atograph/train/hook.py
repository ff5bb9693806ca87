"""What happens around the steps of a training beside plain training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from atograph.passes.authors import tell_errors
from atograph.passes.public import public
from atograph.train.interfaces import P, Plan


@dataclass(frozen=True)
class Pruned:
    """How far the pruning is; the fields are those of `EpochRow`."""

    zeroed: float = 0.0
    lam: float = 0.0
    controller_loss: float | None = None
    controller_lr: float = 0.0
    controller_significant: float | None = None
    controller_agreement: float | None = None
    controller_resource: float | None = None
    soft_flops: float = 1.0
    vanishing: float = 0.0
    kept: Mapping[str, int] = field(default_factory=dict)


class Hook:
    """What happens around a step beside plain training; this one does nothing.

    Attributes:
        flops_share: of the current mask.
    """

    flops_share = 1.0

    @property
    def step_share(self) -> float:
        """FLOPs of the network that the steps train, over those of the dense one."""
        return 1.0

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        calls = ("pruned", "epoch_start", "before_step", "after_step", "finish", "sync", "state", "load")
        tell_errors(cls, "hook", calls)

    def pruned(self) -> Pruned:
        """Asked for at the end of each epoch."""
        return Pruned()

    def epoch_start(self, t: float) -> None:
        """An epoch begins at fraction ``t`` of the training."""

    def before_step(self, t: float, batch: Any) -> None:
        """A step is about to be made on ``batch`` (on the device)."""

    def after_step(self, t: float, lr: float) -> None:
        """The optimiser has stepped with rate ``lr``."""

    @property
    def settled(self) -> bool:
        """Whether the network is the one that comes out: what is masked is zero."""
        return True

    def finish(self) -> None:
        """The last step is done."""

    def sync(self) -> None:
        """The dense model is about to be read: it has to hold the weights as they are now."""

    def state(self) -> Mapping[str, object]:
        """What a checkpoint holds of it."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""


@public("atograph.train")
class Pruning(Hook, Generic[P]):
    """The hook of a training that prunes; a method makes one (`train.methods`).

    Attributes:
        plan: what stays, as far as it is known; the plan of the run in the end, within the budgets.
        frozen: whether that is final.
        losses: of the controller, in this epoch; empty where nothing learns.
        metric_dense: of the whole network when the mask became final.
        before_zero, after_zero: the metric around the moment where what was left of the masked groups was set to zero.
        slim_from: the fraction of the training from which on the slim module is trained; None: it never was.
        why_dense: why it could not be.
    """

    plan: P
    frozen = False
    metric_dense: float | None = None
    before_zero: float | None = None
    after_zero: float | None = None
    slim_from: float | None = None
    why_dense = ""

    @property
    def in_force(self) -> Plan | None:
        """The plan by which units are masked, or gone, in the steps that are made now; None while all of them stay."""
        return self.plan if self.frozen else None

    @property
    def losses(self) -> list[float]:
        """Of the controller, in this epoch."""
        return []
