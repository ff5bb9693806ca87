"""What is trained: data, loss, metric, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.data import check_batch, reiterable
from atograph.train.losses.defaults import default_loss, default_metric
from atograph.train.losses.distilled import Teacher, checked_teacher
from atograph.train.losses.metrics import DatasetMetric, MeanOverBatches, Metric, OverDataset, is_dataset_metric
from atograph.train.saved.seeding import order_kept, own_randomness
from atograph.values.batches import batch_size, describe, keep_copy, to_device
from atograph.values.eval_mode import eval_mode
from atograph.values.user_code import line_of_user

Loss = Callable[[nn.Module, Any], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Task:
    """Data and what to do with a batch.

    Args:
        train_data: an iterable of batches that can be iterated again for each epoch (a DataLoader, a list).
        val_data: the same for validation, or None.
        loss: ``loss(model, batch)`` -> scalar tensor; None: see `losses.defaults.default_loss`.
        metric: ``metric(model, batch)`` -> mean over the batch; or an object with ``update``, ``compute`` and
            ``reset``, which measures all of the data together (`losses.metrics.DatasetMetric`), or its class; None:
            top-1 accuracy, `losses.defaults.default_metric`.
        metric_name: what the metric is called; None: see `name_of_metric`.
        optimizer: ``optimizer(parameters)`` -> a torch optimiser; None: the settings' own.
        teacher: a trained network, for `TrainSettings.distill`; None: the model as it came.

    Raises:
        UserError: data that can be iterated once only, or a teacher that is none (`losses.distilled.checked_teacher`).
    """

    def __init__(
        self,
        train_data: Iterable[object],
        val_data: Iterable[object] | None = None,
        *,
        loss: Loss | None = None,
        metric: Metric | DatasetMetric | type[DatasetMetric] | None = None,
        metric_name: str | None = None,
        optimizer: MakeOptimizer | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.train_data = reiterable(train_data, "train_data")
        self.val_data = None if val_data is None else reiterable(val_data, "val_data")
        self.loss: Loss = loss or default_loss
        self.metric: Any = default_metric if metric is None else metric
        if is_dataset_metric(self.metric) and isinstance(self.metric, type):
            self.metric = self.metric()
        self.metric_name = metric_name or name_of_metric(self.metric)
        self.optimizer = optimizer
        self.teacher = None if teacher is None else checked_teacher(teacher)
        self._taught: Teacher | None = None
        self._around: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def better(self) -> Literal["max", "min"] | None:
        """Which metric is better, where that is known: of top-1, and of what says ``higher_is_better``, as those of
        torchmetrics do."""
        higher = True if self.metric is default_metric else getattr(self.metric, "higher_is_better", None)
        return None if higher is None else "max" if higher else "min"

    def within(self, around: Callable[[], AbstractContextManager[object]]) -> Task:
        """The same task, with losses computed within the context that ``around()`` makes.

        Metrics are not: they are those of the network as it is exported.
        """
        task = copy(self)
        task._around = around
        return task

    def taught_by(self, teacher: Teacher) -> Task:
        """The same task, with what a teacher says in the losses that are trained."""
        task = copy(self)
        task._taught = teacher
        return task

    def on(self, part_of: Callable[[Iterable[object], bool], Iterable[object]]) -> Task:
        """The same task on a part of its data; a data set's own metric sees all of it.

        What a part is says `train.processes.replicas.Replicas.part_of`.
        """
        task = copy(self)
        task.train_data = part_of(self.train_data, True)
        if self.val_data is not None and not is_dataset_metric(self.metric):
            task.val_data = part_of(self.val_data, False)
        return task

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of training batches, None where the data has no length."""
        try:
            return len(self.train_data)  # type: ignore[arg-type]
        except TypeError:  # no __len__, or a DataLoader over a dataset without one
            return None

    def first_batch(self) -> object:
        """The first training batch; the data order of the training is as if it had not been asked for.

        Raises:
            UserError: the data is empty, or of samples instead of batches.
        """
        with order_kept(self.train_data):
            for batch in self.train_data:
                if self.loss is default_loss:
                    check_batch(batch, "train_data")
                return batch
        raise UserError("the training data has no batches.", where="train_data")

    def some_batches(self, count: int) -> list[object]:
        """Copies of the first training batches, in main memory; the data order of the training stays what it was."""
        with order_kept(self.train_data):
            return [keep_copy(batch) for batch in islice(self.train_data, count)]

    def checked_loss(self, model: nn.Module, batch: object) -> Tensor:
        """The loss of one batch.

        Raises:
            UserError: it is not one number.
        """
        return self._checked(self.loss, model, batch)

    def _checked(self, loss_of: Loss, model: nn.Module, batch: object) -> Tensor:
        with self._around():
            loss = loss_of(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UserError(f"loss(model, batch) must return a scalar tensor, got {describe(loss)}.")
        return loss.reshape(())

    def loss_to_train(self, model: nn.Module, batch: object) -> Tensor:
        """The same with a gradient, and with what the teacher says, where there is one.

        Raises:
            UserError: it is not one number, or depends on nothing that is trained.
        """
        loss = self._checked(self._whole_loss, model, batch)
        if not loss.requires_grad:
            raise UserError(
                "loss(model, batch) does not depend on any trainable parameter.",
                hint="It must be computed from the model's output without .detach() or torch.no_grad().",
            )
        return loss

    @property
    def _whole_loss(self) -> Loss:
        return self.loss if self._taught is None else partial(self._taught, self.loss)

    def check(self, model: nn.Module, device: torch.device) -> int:
        """Try the first batch in eval mode, without gradients; give the batch size.

        Raises:
            UserError: the model or the loss rejects the batch; the original error is its cause.
        """
        batch = self.check_loss(model, device)
        if self.val_data is not None:
            with _first(batch, model):
                running = self._running(device)
                running.add(model, to_device(batch, device))
                running.totals()
        return batch_size(batch)

    def check_loss(self, model: nn.Module, device: torch.device) -> object:
        """Try the loss alone on the first batch, as `check` does, and the teacher where there is one; give that batch.

        Raises:
            UserError: as `check`; or the teacher rejects what the model takes, or gives what is no number.
        """
        batch = self.first_batch()
        with _first(batch, model):
            self._checked(self._whole_loss, model, to_device(batch, device))
        if self._taught is not None and not self._taught.makes_sense:
            raise UserError(
                "the teacher's outputs are not finite, on the first batch of the training data.",
                hint="Look for bad values in its weights, and for a type that is too small for its numbers.",
            )
        return batch

    def check_validation(self, model: nn.Module, device: torch.device) -> None:
        """Measure the first validation batch, where there is one; the random state stays what it was.

        Raises:
            UserError: the model or the metric rejects it.
        """
        if self.val_data is not None:
            with order_kept(self.val_data):
                self.totals(model, islice(self.val_data, 1), device)

    def evaluate(self, model: nn.Module, data: Iterable[object] | None, device: torch.device) -> float | None:
        """The metric of ``data``: a mean weighted by batch size, or an object's own; None without data or a metric."""
        total, count = self.totals(model, data, device)
        return total / count if count else None

    def totals(self, model: nn.Module, data: Iterable[object] | None, device: torch.device) -> tuple[float, int]:
        """The sum of the metric over all examples of ``data`` that have one, and their number (1 of a data set's own).

        In eval mode, without gradients; the random state of the training is left as it was. What the metric and the
        data keep in global variables is theirs and stays.

        Raises:
            UserError: the model or the metric rejects a batch.
        """
        if data is None:
            return 0.0, 0
        with torch.no_grad(), own_randomness(), eval_mode(model, files=False):
            running = self._running(device)
            for number, batch in enumerate(data, 1):
                with naming("the model or the metric", "this batch", batch, where=f"validation, batch {number}"):
                    running.add(model, to_device(batch, device))
            return running.totals()

    def _running(self, device: torch.device) -> MeanOverBatches | OverDataset:
        metric = self.metric
        return OverDataset(metric, device) if is_dataset_metric(metric) else MeanOverBatches(metric)


@contextmanager
def _first(batch: object, model: nn.Module) -> Iterator[None]:
    """Try a model on the first batch: in eval mode, without gradients, and nothing is drawn for the training."""
    named = naming("the model or the loss", "the first batch", batch, where="train_data")
    with named, torch.no_grad(), own_randomness(), eval_mode(model):
        yield


@contextmanager
def naming(who: str, which: str, batch: object, *, where: str) -> Iterator[None]:
    """Run the user's code on a batch; what it raises becomes a `UserError` that tells the batch and the place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: " + str(error).strip().partition("\n")[0].rstrip(".")
        at = line_of_user(error)
        shapes = "Check the batch's shapes and types against what the model takes."
        raise UserError(
            f"{who} rejects {which}, {describe(batch)}: {text}" + (f" (raised at {at})." if at else "."),
            where=where,
            hint="Use smaller batches." if isinstance(error, torch.OutOfMemoryError) else shapes,
        ) from error


def name_of_metric(metric: object) -> str:
    """What a metric is called: ``top-1`` for the default one, else the name of the function or of its class.

    >>> name_of_metric(mean_iou), name_of_metric(lambda model, batch: 0.5)
    ('mean_iou', 'metric')
    """
    if metric is default_metric:
        return "top-1"
    while isinstance(metric, partial):
        metric = metric.func
    name = str(getattr(metric, "__name__", type(metric).__name__))
    return name if name.isidentifier() else "metric"
