"""The default optimiser."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


def default_lr(optimizer: str, batch: int) -> float:
    """Peak rate for a batch size: linear in it for SGD (0.1 at 128), a square root for AdamW (0.002 at 64).

    0.1 at 128 is the CIFAR recipe of He et al., arXiv 1512.03385; the linear rule is Goyal et al.,
    arXiv 1706.02677, the square root Malladi et al., arXiv 2205.10782. Both rules are kept within a factor of
    four of their reference point.
    """
    if optimizer == "sgd":
        return 0.1 * min(max(batch / 128, 0.25), 4.0)
    return 0.002 * min(max(math.sqrt(batch / 64), 0.25), 4.0)


def make_optimizer(model: nn.Module, task: Task, settings: TrainSettings, batch: int) -> torch.optim.Optimizer:
    """The task's optimiser, or else the settings' with weight decay on parameters of two or more dimensions.

    Raises:
        UserError: the model has nothing to train, or the task's function returns no optimiser.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not settings.epochs:
        return torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)  # nothing is trained
    if not trained:
        raise UserError("the model has no parameter that requires a gradient.")
    if settings.precision == "float16" and any(parameter.dtype == torch.float16 for parameter in trained):
        raise UserError(
            "mixed precision keeps weights in float32, and this model's are float16.", hint="Use model.float()."
        )
    if task.optimizer is not None:
        if not callable(task.optimizer):
            raise UserError(
                f"optimizer is a function of the parameters, not a {type(task.optimizer).__name__}.",
                hint="For example: optimizer=lambda params: torch.optim.SGD(params, lr=0.1).",
            )
        made = task.optimizer(trained)
        if not isinstance(made, torch.optim.Optimizer):
            raise UserError(f"optimizer(params) must return a torch optimiser, got {type(made).__name__}.")
        check_optimizers([made], model, whole=False)
        return made
    lr = settings.lr if settings.lr is not None else default_lr(settings.optimizer, batch)
    decay = settings.weight_decay
    if decay is None:
        decay = 5e-4 if settings.optimizer == "sgd" else 0.05
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr)


def not_trained(optimizer: torch.optim.Optimizer, model: nn.Module) -> str:
    """What an optimiser leaves as it is though it requires a gradient, in a sentence; empty where there is nothing."""
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    left = [name for name, parameter in trained.items() if parameter not in held]
    if not left:
        return ""
    which = left[0] if len(left) == 1 else f"{left[0]} and {len(left) - 1:,} more"
    return (
        f"the optimiser holds {len(trained) - len(left):,} of {len(trained):,} parameters, and does not train {which}"
    )


class Rates:
    """Scales every rate of an optimiser from the value it was made with."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def set(self, factor: float) -> float:
        """Set all rates to ``factor`` times their peak; give the first one (the projection's η)."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return self.peaks[0] * factor


def optimizers_of(given: object) -> tuple[torch.optim.Optimizer, ...]:
    """The optimisers in what a loop has: one or several, each perhaps in the wrapper of a trainer.

    Raises:
        UserError: something in it is no torch optimiser.
    """
    optimizers: dict[torch.optim.Optimizer, None] = {}
    for each in given if isinstance(given, (list, tuple)) else [given]:
        one = _unwrapped(each)
        if not isinstance(one, torch.optim.Optimizer):
            raise UserError(f"optimizer is a torch optimiser or a list of them, not a {type(one).__name__}.")
        optimizers[one] = None
    return tuple(optimizers)


def _unwrapped(optimizer: object) -> object:
    """What a wrapper (of Accelerate, of Lightning) hands everything on to; itself, where it has a state of its own."""
    inner = getattr(optimizer, "optimizer", None)
    state = getattr(inner, "state", None)
    return _unwrapped(inner) if state is not None and getattr(optimizer, "state", None) is state else optimizer


def check_optimizers(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module, *, whole: bool = True) -> None:
    """Refuse what cannot train a model. Parameters that are not the model's (of a loss, say) are left as they are.

    Args:
        optimizers: all that there are.
        model: what they train.
        whole: they have to hold every parameter that requires a gradient: another optimiser, which nobody knows of,
            would train the dense model's on after the slim module has taken over.

    Raises:
        UserError: they do not hold the model's parameters, or one steps by a closure.
    """
    held = {parameter for one in optimizers for group in one.param_groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing = [name for name, parameter in trained.items() if parameter not in held]
    if not trained:
        raise UserError("the model has no parameter that requires a gradient.")
    if len(missing) == len(trained):
        raise UserError(
            "the optimiser holds parameters that are not the model's.",
            hint="Make it from this model's parameters, once it is on its device; a function optimizer(params) of the "
            "parameters that it is given: a baseline trains a copy of the model.",
        )
    if missing and whole:
        others = f" and {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise UserError(
            f"the optimiser holds {len(trained) - len(missing):,} of the {len(trained):,} parameters that require a "
            f"gradient: {missing[0]}{others} would never be trained, and not be cut along with the model.",
            hint="Give all optimisers (AutoTrainOnce takes a list: optimizer=[a, b]), and call requires_grad_(False) "
            "on what is to stay as it is.",
        )
    for one in optimizers:
        closure = inspect.signature(type(one).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise UserError(
                f"{type(one).__name__} computes the loss several times in a step, which the training here does not.",
                hint="Use an optimiser whose step() needs no closure.",
            )
