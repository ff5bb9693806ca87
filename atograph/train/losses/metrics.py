"""How a metric becomes one number for a data set: a mean over batches, or what an object with a state computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

import torch
from torch import nn

from atograph.passes.errors import AtographError, UserError
from atograph.train.losses.defaults import logits_by, split
from atograph.values.batches import batch_size, describe
from atograph.values.user_code import in_one_line, line_of_user

Metric = Callable[[nn.Module, Any], Any]

STATE = ("update", "compute", "reset")
"""What an object has that measures a data set as a whole."""


class DatasetMetric(Protocol):
    """A metric over all of the data, such as a mean IoU; those of torchmetrics are some."""

    def update(self, outputs: Any, targets: Any, /) -> object:
        """Take in one batch: the logits and the targets, as the default loss reads them.

        Where the parameters are called ``model`` and ``batch``, it is given these, and calls the model itself.
        """

    def compute(self) -> object:
        """One number for what was taken in since `reset`; None where there is none."""

    def reset(self) -> object:
        """Forget what was taken in."""


def is_dataset_metric(metric: object) -> TypeGuard[DatasetMetric]:
    """Whether a metric is an object with a state, or a class of such objects."""
    return all(callable(getattr(metric, name, None)) for name in STATE)


class MeanOverBatches:
    """The mean of ``metric(model, batch)``, weighted by batch size; batches without one (None) do not count."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._total, self._count = 0.0, 0

    def add(self, model: nn.Module, batch: object) -> None:
        """Take in one batch, on the model's device."""
        value = self._metric(model, batch)
        if value is not None:
            size = batch_size(batch)
            self._total, self._count = self._total + number(value, "metric(model, batch)") * size, self._count + size

    def totals(self) -> tuple[float, int]:
        """The sum over all examples that have one, and their number."""
        return self._total, self._count


class OverDataset:
    """What an object with a state computes of all batches together, counted as one.

    Args:
        metric: forgets what it holds.
        device: that of the batches; a metric that can be moved (``to``) goes there.
    """

    def __init__(self, metric: DatasetMetric, device: torch.device) -> None:
        self._metric, self._batches = metric, 0
        if callable(move := getattr(metric, "to", None)):
            move(device)
        if hasattr(metric, "distributed_available_fn"):
            metric.distributed_available_fn = _alone
        self._takes_model = list(inspect.signature(metric.update).parameters)[:2] == ["model", "batch"]
        metric.reset()

    def add(self, model: nn.Module, batch: object) -> None:
        """Take in one batch, on the model's device.

        Raises:
            UserError: no targets can be seen in it.
        """
        self._batches += 1
        if self._takes_model:
            self._metric.update(model, batch)
            return
        inputs, targets = split(batch)
        if targets is None:
            raise UserError(
                f"the metric's update(outputs, targets) needs targets, but a batch is {describe(batch)}.",
                hint="Write update(self, model, batch), which takes the batch apart itself.",
            )
        self._metric.update(logits_by(model, inputs), targets)

    def totals(self) -> tuple[float, int]:
        """The number and 1; (0, 0) without a number.

        Raises:
            UserError: ``compute()`` fails, or gives no number.
        """
        if not self._batches:
            return 0.0, 0
        try:
            value = self._metric.compute()
        except AtographError:
            raise
        except Exception as error:
            at = line_of_user(error)
            text = in_one_line(error).rstrip(".") + (f" (raised at {at})" if at else "")
            raise UserError(f"the metric's compute() fails: {text}.", where="metric") from error
        return (0.0, 0) if value is None else (number(value, "the metric's compute()"), 1)


def _alone() -> bool:
    """Every process sees all of the data (`Task.on`), so a metric has nothing to ask of the others."""
    return False


def number(value: object, who: str) -> float:
    """A metric's value as a number.

    Raises:
        UserError: it is none.
    """
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{who} must return one number or None, got {describe(value)}.") from None
