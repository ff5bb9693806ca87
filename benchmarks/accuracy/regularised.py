"""Torch-Pruning's way to train and prune, in the loop that everyone else is trained in.

DepGraph (Fang et al., CVPR 2023): a group lasso while the dense network is trained (`GroupNormPruner.regularize`
between the backward pass and the optimiser's step), pruning in small steps until the budget is met, then fine-tuning.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from atograph.proof.flop_count import count_flops
from atograph.train import Silent, Task, TrainSettings
from atograph.train.fit import Fit
from atograph.train.hook import Hook
from atograph.values.eval_mode import eval_mode

STEPS = 400
"""Pruning steps from the whole network to nothing: how closely the budget is met."""


class Regularised(Hook):
    """The hook of one run, which prunes at fraction ``at`` of the training."""

    def __init__(self, fit: Fit, tp: ModuleType, budget: float, images: torch.Tensor, at: float) -> None:
        self.fit, self.budget, self.at, self.done = fit, budget, at, False
        self.images = images.to(fit.device)
        self.whole = self.flops()
        self.pruner = tp.pruner.GroupNormPruner(
            fit.model,
            self.images,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=1.0,
            max_pruning_ratio=0.95,  # the floor of 5 % that atograph has
            iterative_steps=STEPS,
            ignored_layers=[fit.model.head],
        )
        self.pruner.update_regularizer()
        fit.optimizer.register_step_pre_hook(self._regularise)

    def before_step(self, t: float, batch: Any) -> None:
        """Prune once the time has come."""
        if t < self.at or self.done:
            return
        self.done = True
        names = {id(parameter): name for name, parameter in self.fit.model.named_parameters()}
        for _ in range(STEPS):
            if self.flops() <= self.budget * self.whole:
                break
            self.pruner.step()
        now = dict(self.fit.model.named_parameters())
        for group in self.fit.optimizer.param_groups:
            group["params"] = [now[names[id(parameter)]] for parameter in group["params"]]
        self.fit.optimizer.state.clear()

    def flops(self) -> int:
        """Of the network as it is."""
        with eval_mode(self.fit.model):
            return count_flops(self.fit.model, self.images)

    def _regularise(self, *_: Any) -> None:
        if not self.done:
            self.pruner.regularize(self.fit.model)


def train_regularised(
    tp: ModuleType,
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    budget: float,
    images: torch.Tensor,
    at: float = 0.5,
) -> tuple[float, float]:
    """Accuracy in the end, as a share, and the share of the FLOPs kept.

    Args:
        tp: the package.
        model, task, settings: as for `dense_training`.
        budget: share of the FLOPs.
        images: an example input.
        at: the fraction of the training at which it prunes; 0: before the first step, without regularisation.
    """
    made: list[Regularised] = []
    fit = Fit(model, task, settings, Silent())

    def hook(run: Fit) -> Hook:
        made.append(Regularised(run, tp, budget, images, at))
        return made[0]

    fit.run(hook)
    metric = fit.history[-1].metric
    assert metric is not None
    made[0].images = made[0].images.cpu()
    return metric, made[0].flops() / made[0].whole
