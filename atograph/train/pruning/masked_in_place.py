"""The loss of a batch where some units of a sharded network are masked: its own parameters are, for a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atograph.train.pruning.masked_loss import by_batch_norms
from atograph.train.pruning.scoring import gradients_of, own_gradients
from atograph.train.pruning.sharded_units import ShardedUnits
from atograph.train.task import Task
from atograph.values.eval_mode import eval_mode, same_buffers


class MaskedInPlace:
    """Computes the loss at a mask, as `MaskedLoss` does; afterwards the model is as it was.

    Sharded parameters are gathered by their module, block by block, so none can be put in their place from outside. So
    they are multiplied by the mask, the loss is computed with its gradients, and their chain rule back to the mask is
    that of ``w * mask``, part by part and added up over the processes.

    Args:
        model, task, by_batch: as for `MaskedLoss`.
        units: of that model.
    """

    def __init__(self, model: nn.Module, task: Task, units: ShardedUnits, *, by_batch: bool) -> None:
        self.model, self.task, self.units, self.by_batch = model, task, units, by_batch

    def __call__(self, mask: Tensor, batch: object) -> Tensor:
        """The loss of this process's batch in eval mode, a scalar; its gradient in ``mask`` is the mean over all
        processes.

        Args:
            mask: ``[total]``, factors of units, the same in all processes.
            batch: on the device.
        """
        units, slopes = self.units, mask.requires_grad and torch.is_grad_enabled()
        before = {name: part.detach().clone() for name, part in units.tensors.items()}
        gradients: dict[str, Tensor] = {}
        units.scale_(mask.detach())
        try:
            with own_gradients(self.model), same_buffers(self.model), eval_mode(self.model):
                if self.by_batch:
                    by_batch_norms(self.model, batch)
                if slopes:
                    self.model.zero_grad(set_to_none=True)
                    loss = self.task.loss_to_train(self.model, batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                    gradients = gradients_of(units.parameters)
                else:
                    loss = self.task.checked_loss(self.model, batch)
        finally:
            for name, part in units.tensors.items():
                part.detach().copy_(before[name])
        if not slopes:
            return loss.detach()
        factors = mask.detach().requires_grad_()
        masked = units.masked(factors)
        there = [name for name in masked if name in gradients]
        (slope,) = torch.autograd.grad([masked[name] for name in there], factors, [gradients[name] for name in there])
        value: Tensor = _WithSlope.apply(mask, loss.detach(), units.everywhere(slope))  # type: ignore[no-untyped-call]
        return value


class _WithSlope(torch.autograd.Function):
    """A number whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None
