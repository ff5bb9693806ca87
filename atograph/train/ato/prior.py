"""Scores to start from, before the controller has learned anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atograph.train.ato.masks import UnitMap
from atograph.train.processes.replicas import Replicas
from atograph.train.task import Task
from atograph.values.eval_mode import eval_mode


@torch.no_grad()
def magnitude(units: UnitMap) -> Tensor:
    """Tensor[total]: log of ‖x_g‖ over its family's mean ‖x_g‖, in standard deviations over all units."""
    norms = units.squared_norms().sqrt()
    families = len(units.sizes)
    counts = torch.bincount(units.family, minlength=families).clamp(min=1)
    mean = torch.zeros(families, device=norms.device).index_add_(0, units.family, norms) / counts
    return _standard((norms / mean[units.family].clamp(min=1e-12)).clamp(min=1e-3).log())


class Taylor:
    """How much the loss depends on each unit: the mean over batches of (Σ w · ∂L/∂w)², summed over the unit's slices.

    Source: Molchanov et al., CVPR 2019, arXiv 1906.10771, equation 8, here over a zero-invariant group. The gradients
    are those of the training itself, and the last steps count most.

    Attributes:
        mean: Tensor[total], not a number for units that never had a gradient; None while nothing was observed.
        due: whether the gradients of the next step are to be taken in: once a step, however many optimisers make it.

    Args:
        units: of the prunable groups.
        memory: over about how many of the last steps the mean is.
    """

    def __init__(self, units: UnitMap, memory: int) -> None:
        self.units = units
        self.mean: Tensor | None = None
        self.due = True
        self._rate = 1.0 / max(memory, 1)

    def watch(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Observe the gradients of each step of an optimiser: before it, or when its closure has computed them."""

        def before(
            _: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            own, *given = args
            closure = given[0] if given else kwargs.get("closure")
            if closure is not None:
                return (own,), {**kwargs, "closure": self._observing(closure)}
            self._observe_if_due()
            return None

        return optimizer.register_step_pre_hook(before)

    def _observing(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        @wraps(closure)
        def observed() -> Any:
            loss = closure()
            self._observe_if_due()
            return loss

        return observed

    def _observe_if_due(self) -> None:
        if self.due:
            self.due = False
            self.observe()

    @torch.no_grad()
    def observe(self) -> None:
        """Take in the gradients that the parameters hold now; where there are none, nothing is learned."""
        products, known = self.units.products()
        found = products.square()
        if not bool(found.isfinite().all()):
            return
        before = torch.full_like(found, torch.nan) if self.mean is None else self.mean
        mixed = torch.where(before.isnan(), found, before.lerp(found, self._rate))
        self.mean = torch.where(known, mixed, before)

    def measure(self, model: nn.Module, task: Task, batches: Iterable[Any], replicas: Replicas) -> None:
        """Take in the gradients of some batches (on the device), in eval mode; the parameters end without gradients."""
        seen: list[Tensor] = []
        for batch in batches:
            model.zero_grad(set_to_none=True)
            with eval_mode(model):
                task.loss_to_train(model, batch).backward()  # type: ignore[no-untyped-call]
            replicas.average_gradients(model.parameters())
            products, known = self.units.products()
            seen.append(products.square().masked_fill(~known, torch.nan))
        model.zero_grad(set_to_none=True)
        if seen:
            self.mean = torch.stack(seen).nanmean(dim=0)

    def scores(self, prices: Tensor) -> Tensor:
        """Tensor[total]: log of the importance that a unit has for what it costs, in standard deviations.

        Ranked by it, units fill a budget as a knapsack is filled: greedily, by worth over weight. A unit that never had
        a gradient (its parameters are frozen, or no loss so far has used them) is not worth nothing: it is ranked by
        its magnitude, in standard deviations as well.

        Args:
            prices: [total], above 0: what each unit costs.
        """
        assert self.mean is not None
        known = ~self.mean.isnan()
        if not bool(known.any()):
            return magnitude(self.units)
        mean = self.mean[known]
        worth = (mean / mean.mean().clamp(min=1e-30)).clamp(min=1e-6)
        scores = _standard(worth.log() - prices[known].log())
        if bool(known.all()):
            return scores
        return magnitude(self.units).masked_scatter(known, scores)


def _standard(score: Tensor) -> Tensor:
    return score / score.std(correction=0).clamp(min=1e-6)
