"""Let a criterion observe a model at work on some batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from atograph.files.mapped import tensors_aside
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.cost.prices import unit_prices
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.ranking import plan_scores
from atograph.passes.criteria.reads import Reads
from atograph.passes.criteria.units import Group
from atograph.passes.errors import UserError
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.values import require_values
from atograph.train.processes.replicas import Alone, Replicas
from atograph.train.pruning.masks import UnitMap
from atograph.train.saved.weights import local
from atograph.train.task import Loss, Task, naming
from atograph.values.batches import to_device
from atograph.values.eval_mode import eval_mode


class Traced(Protocol):
    """A traced model (`atograph.Graph`)."""

    @property
    def model(self) -> nn.Module | None:
        """What was traced."""

    @property
    def program(self) -> Program:
        """What it was captured as, with its facts."""

    @property
    def prunable(self) -> Sequence[Group]:
        """The groups whose units may go."""


def observe(
    criterion: Criterion,
    model: nn.Module,
    task: Task,
    batches: Iterable[object],
    replicas: Replicas,
    where: str = "train_data",
    *,
    aside: bool = False,
) -> None:
    """Let a criterion take in all of some batches, in eval mode; what it saw before counts as much for each batch.

    Args:
        criterion: of that model.
        model: on its device; its gradients are left as they are.
        task: how the model is called, and the loss whose gradients are observed.
        batches: on the device.
        replicas: the processes that train together; gradients are averaged over them.
        where: what the batches are called in errors.
        aside: whether gradients go into a file one by one (`tensors_aside`), because all of them are too large.

    Raises:
        UserError: the model or the loss rejects a batch; or there is no room for such a file.
    """
    criterion.seen.memory = math.inf
    show = (
        _Activations(criterion, model, task)
        if criterion.observes() == "activations"
        else _GradientsAside(model, task)
        if aside
        else _Gradients(model, task, replicas)
    )
    with own_gradients(model):
        for number, batch in enumerate(batches, 1):
            with naming("the model or the loss", f"batch {number}", batch, where=where), eval_mode(model):
                show(criterion, batch)


class _Gradients:
    """Shows a criterion the gradients of a batch."""

    def __init__(self, model: nn.Module, task: Task, replicas: Replicas) -> None:
        self.model, self.task, self.replicas = model, task, replicas

    def __call__(self, criterion: Criterion, batch: object) -> None:
        self.model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            self.task.loss_to_train(self.model, batch).backward()  # type: ignore[no-untyped-call]
        self.replicas.average_gradients(self.model.parameters())
        criterion.observe(gradients_of(dict(self.model.named_parameters())))


class _GradientsAside:
    """Shows a criterion the gradients of a batch, of which one at a time is in memory: each goes into a file as soon as
    it is complete, and the criterion reads it there."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model, self.task = model, task
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._files = tensors_aside(self._trained)
        self._seen: dict[str, Tensor] = {}

    def __call__(self, criterion: Criterion, batch: object) -> None:
        self.model.zero_grad(set_to_none=True)
        self._seen.clear()
        with ExitStack() as hooks:
            for name, parameter in self._trained.items():
                hook = parameter.register_post_accumulate_grad_hook(partial(self._take, name))  # type: ignore[no-untyped-call]
                hooks.callback(hook.remove)
            with torch.enable_grad():
                self.task.loss_to_train(self.model, batch).backward()  # type: ignore[no-untyped-call]
        criterion.observe(dict(self._seen))

    @torch.no_grad()
    def _take(self, name: str, parameter: Tensor) -> None:
        """Put a gradient into its place in the file; one that comes in parts is added up there."""
        gradient, place = parameter.grad, self._files[name]
        assert gradient is not None, "it has just been accumulated"
        gradient = gradient if gradient.layout == torch.strided else gradient.to_dense()
        if name in self._seen:
            place.add_(gradient)
        else:
            place.copy_(gradient)
        self._seen[name], parameter.grad = place, None


class _Activations:
    """Shows a criterion what is read of each unit, in each call of the model that the loss of a batch makes."""

    def __init__(self, criterion: Criterion, model: nn.Module, task: Task) -> None:
        assert criterion.program is not None, f"{criterion.name} needs the program"
        state = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
        self.reads = Reads(criterion.program, state, criterion.units.family.device)
        self.model, self.task = model, task

    @torch.no_grad()
    def __call__(self, criterion: Criterion, batch: object) -> None:
        calls: list[Example] = []
        hook = self.model.register_forward_pre_hook(
            lambda _module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        )
        try:
            self.task.checked_loss(self.model, batch)
        finally:
            hook.remove()
        for args, kwargs in calls:
            self.reads.run(args, kwargs, criterion.observe)


def scores_with_data(
    kind: type[Criterion],
    graph: Traced,
    budgets: Budgets,
    data: Iterable[object] | None,
    loss: Loss | None,
    *,
    aside: bool = False,
) -> dict[str, Tensor]:
    """Group → score of each unit, ``[size]``, by a criterion that has to see the network at work.

    Args:
        kind: of the criterion.
        graph: of a model that is there.
        budgets: what importance that adds up is weighed against.
        data: batches.
        loss: ``loss(model, batch)``; None: see `losses.defaults.default_loss`.
        aside: as for `observe`.

    Raises:
        UserError: there is no data, or no model, or the model or the loss rejects a batch.
    """
    model = graph.model
    if data is None or model is None:
        lacks = "data" if data is None else "the model, and this graph has none"
        raise UserError(
            f"the criterion '{kind.name}' looks at {kind.observes()}, for which it needs {lacks}.",
            hint=f'Give batches as for a training: graph.plan(..., by="{kind.name}", data=batches).',
        )
    require_values(dict(model.named_parameters()), f"a plan by {kind.name} needs the values of the weights")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    units = UnitMap(graph.prunable, model, device)
    criterion = kind(units, graph.program)
    task = Task(list(data) if isinstance(data, Iterator) else data, loss=loss)  # once is enough for a plan
    batches = (to_device(batch, device) for batch in task.train_data)
    observe(criterion, model, task, batches, Alone(), where="data", aside=aside)
    if not criterion.ready:
        raise UserError(
            f"the criterion '{kind.name}' has seen no {kind.observes()}: there are no batches, the loss does not call "
            "the model itself, nothing is finite, or its observe() added nothing to self.seen.",
            where="data",
        )
    prices = torch.tensor(list(unit_prices(budgets.priced(), units.sized).values()), device=device)
    return {name: part.cpu() for name, part in plan_scores(criterion, prices[units.family]).items()}


def gradients_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Name → gradient, of those that have one; of sharded ones the part of this process."""
    return {name: local(parameter.grad) for name, parameter in parameters.items() if parameter.grad is not None}


@contextmanager
def own_gradients(model: nn.Module) -> Iterator[None]:
    """Put back in the end what gradients the parameters had."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
