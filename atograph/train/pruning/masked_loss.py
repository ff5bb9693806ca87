"""The loss of a batch where some units of the network are masked."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from atograph.passes.torch_private import BatchNorm
from atograph.train.pruning.masks import UnitMap
from atograph.train.task import Task
from atograph.values.batches import batch_size
from atograph.values.eval_mode import eval_mode


class MaskedLoss:
    """Computes the loss at a mask; changes nothing of the model.

    Args:
        model: on its device.
        task: its loss.
        units: of that model.
        by_batch: whether batch norms normalise by the batch at hand, where it has more than one example: statistics
            gathered by the dense network say little of a masked one.
    """

    def __init__(self, model: nn.Module, task: Task, units: UnitMap, *, by_batch: bool) -> None:
        self.units, self.by_batch = units, by_batch
        self._objective = _Objective(model, task)

    def __call__(self, mask: Tensor, batch: object) -> Tensor:
        """The loss in eval mode, a scalar; differentiable in ``mask`` only.

        Args:
            mask: ``[total]``, factors of units.
            batch: on the device.
        """
        masked = self.units.masked(mask, changed=not mask.requires_grad)  # not a copy of all, where few are masked
        changed = {f"model.{name}": value for name, value in masked.items()}
        with eval_mode(self._objective):
            if self.by_batch:
                norms = by_batch_norms(self._objective, batch)
                changed |= {name: value.clone() for name, value in norms.items()}
            loss: Tensor = functional_call(self._objective, changed, (batch,))
        return loss


def by_batch_norms(model: nn.Module, batch: object) -> dict[str, Tensor]:
    """Let batch norms normalise by the batch at hand until the mode is set anew, if it has more than one example.

    Returns:
        Their buffers by name, which a call is going to change.
    """
    buffers: dict[str, Tensor] = {}
    if batch_size(batch) <= 1:
        return buffers
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            module.training = True
            buffers |= {f"{name}.{buffer}": value for buffer, value in module.named_buffers(recurse=False)}
    return buffers


class _Objective(nn.Module):
    """The task's loss as a module, so that `functional_call` reaches the model inside it."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: object) -> Tensor:
        """Task loss of one batch."""
        return self.task.checked_loss(self.model, batch)
