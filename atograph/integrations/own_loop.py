"""Auto-Train-Once in a training loop of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from atograph.capture.model_state import current_state
from atograph.graph import trace
from atograph.integrations.taking_over import TakingOver
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.run import latency_budget
from atograph.slimming.index_map import cut_state, small_module, whole_state
from atograph.slimming.masking import zero_
from atograph.slimming.slim import Slim, slim
from atograph.spec.example_inputs import as_inputs
from atograph.train.hook import Pruning
from atograph.train.methods.method import hook_of
from atograph.train.optim import check_optimizers, optimizers_of
from atograph.train.processes.replicas import join
from atograph.train.pruning.shrink import CannotShrink
from atograph.train.saved.weights import is_sharded
from atograph.train.schedule import Clock
from atograph.train.settings import settings_of
from atograph.train.task import Task

OnSwap = Callable[[nn.Module, nn.Module], object]
"""``on_swap(dense, slim)``."""

LossFn = Callable[[nn.Module], Tensor]
"""``loss_fn(model)``: the loss of a batch that the function holds, a 0-dim tensor."""


@public("atograph")
class AutoTrainOnce:
    """Prunes a model while a loop of your own trains it::

        ato = atograph.AutoTrainOnce(model, example_inputs, steps=epochs * len(loader), flops=0.3, optimizer=optimizer)
        for batch in batches:
            loss_fn = lambda model: loss(model, batch)
            ato.controller_step(loss_fn)
            optimizer.zero_grad()
            loss_fn(ato.model).backward()
            optimizer.step()
            ato.project(lr=optimizer.param_groups[0]["lr"])
        slim = ato.finish()

    Attributes:
        model: what the loop is to train: the model that was given, and its slim form once that can take its place.
        graph: the trace of the model that was given.
        settings: every choice of the training; those of the weights (``lr``, ``optimizer``, ...) are the loop's own.

    Args:
        model: the dense model, on the device that it is trained on.
        example_inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords), on that device.
        steps: how many steps the loop is going to make; moments of the schedule are shares of it.
        optimizer: the loop's, or a list of them; from the slim module on they train that one, with their state cut
            along. None: the dense model is trained to the end.
        on_swap: called as ``on_swap(dense, slim)`` when the slim module takes the dense one's place, after a
            checkpoint was loaded as well, and each time that a smaller one does (``method="progressive"``): what else
            follows the parameters (an average of them) is to follow those of the slim one from then on. `cut` makes
            dense tensors slim.
        settings: fields of `train.TrainSettings`, ``flops`` first of all; ``epochs`` says how often the mask is read
            anew while it is searched for. A loop that is to go on from a checkpoint with a budget of latency, or with
            ``round_to="auto"``, needs ``latency_table``, a file: what it holds is not measured again.

    Raises:
        UserError: the model cannot be captured, a setting does not fit, the budget is out of reach, or the optimisers
            do not hold all parameters that require a gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: object,
        *,
        steps: int,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        on_swap: OnSwap | None = None,
        **settings: object,
    ) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise UserError(f"a loop makes one step or more, not {steps!r}.")
        self._given, model = model, _as_written(model)
        optimizers = () if optimizer is None else optimizers_of(optimizer)
        given = settings_of(settings)
        if given.shard or any(is_sharded(parameter) for parameter in model.parameters()):
            raise UserError(
                "a model whose parameters are sharded over processes is not pruned in a loop of one's own.",
                hint="atograph compress ... --shard trains one: see docs/large-models.md.",
            )
        if optimizers:
            check_optimizers(optimizers, model, whole=given.slim_at != "never")
        inputs = as_inputs(example_inputs, where="example_inputs")
        graph = trace(
            model,
            inputs.args,
            inputs.kwargs,
            outputs=given.outputs,
            dynamic=given.dynamic_texts,
            state=given.state,
            checks=given.checks,
        )
        self.graph = graph.steered(**given.steering)
        if given.metric_mode is not None:
            raise UserError(
                "a loop measures by itself, so metric_mode is of no use to it.",
                hint="Keep the best weights where `settled` is true; in Lightning the callback's monitor does it, and "
                "for a Trainer load_best_model_at_end.",
            )
        own = [name for name in ("clip", "distill", "ema") if getattr(given, name)]
        if own:
            raise UserError(
                f"a loop makes its steps by itself, so {own[0]} is of no use to it.",
                hint="docs/training.md shows how a loop does it: torch.nn.utils.clip_grad_norm_, AveragedModel, and "
                "atograph.train.Teacher.",
            )
        if not given.epochs:
            raise UserError("a loop trains: epochs is 1 or more.", hint="To prune at once: graph.plan, atograph.slim.")
        replicas = join()
        self.settings = latency_budget.prepare(self.graph, given, earlier=None, alone=replicas.count == 1)
        latency_budget.keep(self.graph, given, None)
        self.steps, self.done, self._epoch = steps, 0, -1
        self._begun = self._finished = False
        self._loop = _Loop(model, self, optimizers, on_swap)
        shrink = partial(small_module, self.graph) if optimizers else None
        self._pruner: Pruning[Plan] = hook_of(self._loop, self.graph, shrink)

    @property
    def model(self) -> nn.Module:
        """What the loop is to train now."""
        return self._given if self._loop.model is self._loop.dense else self._loop.model

    @property
    def flops_share(self) -> float:
        """Share of the dense FLOPs that the current mask keeps."""
        return self._pruner.flops_share

    @property
    def settled(self) -> bool:
        """Whether what is masked is zero: only from then on do metrics tell what the slim model is worth."""
        return self._pruner.settled

    @property
    def why_dense(self) -> str:
        """Why there is no slim module to train; empty where there is, or will be."""
        return self._pruner.why_dense

    def controller_step(self, loss_fn: LossFn) -> float | None:
        """Before each step of the loop: freeze or zero the mask if it is time, and let the controller learn.

        Args:
            loss_fn: the loss of this step's batch. Some of the first ones are kept, with what they hold, for the
                controller to learn from.

        Returns:
            The loss of the controller, where it has learned.
        """
        self._require_running()
        if self._begun:
            raise UserError("project(lr) was not called after the last step.", hint="It shrinks what is masked.")
        self._begun = True
        losses = self._pruner.losses
        if self.done == self.steps:
            more = f"the loop was to make {self.steps:,} steps, and goes on: the mask stays as it is"
            warnings.warn(f"{more}. Tell AutoTrainOnce how many steps it makes in all.", stacklevel=2)
        t = self._moment
        epoch = int(t * self.settings.epochs)
        if epoch > self._epoch:
            self._epoch = epoch
            self._pruner.epoch_start(t)
        before = len(losses)
        self._pruner.before_step(t, loss_fn)
        return losses[-1] if len(losses) > before else None

    def project(self, lr: float) -> None:
        """After each step of the optimiser: shrink what is masked, or hold it at zero.

        Args:
            lr: the rate of that step.
        """
        self._require_running()
        if not self._begun:
            raise UserError("controller_step(loss_fn) was not called before this step.", hint="It makes the mask.")
        self._loop.check()
        self._begun = False
        self._pruner.after_step(self._moment, lr)
        self.done += 1

    def finish(self) -> Slim:
        """Zero what is left of the masked groups, put all weights back into the dense model, and make it slim.

        The weights are those of now: put an average (SWA, EMA) or what an optimiser evaluates with (schedule-free)
        into `model` before. What that has moved of the masked groups is zero again afterwards. An optimiser that has
        trained the slim module still holds its parameters: to train on, make a new one.
        """
        if not self._finished:
            if self.done < self.steps * self.settings.zero_from:
                early = (
                    f"the training ended after {self.done:,} of {self.steps:,} steps, so what is masked is set to zero"
                )
                warnings.warn(f"{early} at once, and the weights had no time to recover.", stacklevel=2)
            self._pruner.finish()
            self._finished = True
        zero_(self._loop.dense, self._pruner.plan)
        return slim(self.graph, self._pruner.plan)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside the dense model (`sync` first) and the optimiser: tensors and numbers.

        The loss functions that were kept for the controller are not in it: it then learns from those that come.
        """
        return {"done": self.done, "epoch": self._epoch, "pruner": self._pruner.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: after the dense model has its weights, and before the optimiser gets its state."""
        if not {"done", "epoch", "pruner"} <= state.keys():
            raise UserError("this is no state of AutoTrainOnce.", hint="state_dict() gives one.")
        self.done, self._epoch = state["done"], state["epoch"]
        try:
            self._pruner.load(state["pruner"])
        except CannotShrink as reason:
            raise UserError(
                f"the slim module of this state cannot be made again: {reason}.",
                hint="Load in this order: the dense model's weights, AutoTrainOnce's state, the optimiser's state.",
            ) from reason

    def sync(self) -> None:
        """Put the weights as they are now into the dense model."""
        self._pruner.sync()

    def cut(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the dense model, such as that of an average of its weights, as the slim module has it.

        Within ``on_swap``, it may be one of the slim module that was trained before, too.

        Raises:
            UserError: nobody knows yet what stays, or the tensors are not of these shapes.
        """
        if not self._pruner.frozen and not self._loop.plans:
            raise UserError(
                "the mask is not final yet, so nobody knows what stays.", hint="Call cut within on_swap, or later."
            )
        before = self._loop.plans[-2:-1]
        dense = current_state(self._loop.dense)
        if before and any(name in dense and dense[name].shape != value.shape for name, value in state.items()):
            state = whole_state(self.graph, before[0], state)
        return cut_state(self.graph, self._pruner.plan, state)

    @property
    def _moment(self) -> float:
        return min(self.done / self.steps, 1.0)

    def _require_running(self) -> None:
        if self._finished:
            raise UserError("the training is finished: there is nothing left to prune.")


def _as_written(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, whose tensors have the names that its code knows."""
    own = getattr(model, "_orig_mod", None)
    return own if isinstance(own, nn.Module) else model


class _Loop:
    """The loop as the pruner sees it (`train.interfaces.Training`)."""

    def __init__(
        self,
        model: nn.Module,
        ato: AutoTrainOnce,
        optimizers: Sequence[torch.optim.Optimizer],
        on_swap: OnSwap | None,
    ) -> None:
        self.dense = self.model = model
        self.settings = ato.settings
        self.clock = Clock(ato.settings.epochs, max(1, ato.steps // ato.settings.epochs))
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.task = Task([], loss=lambda model, loss_fn: loss_fn(model))
        self.replicas = join()
        self.optimizers, self._on_swap = optimizers, on_swap
        self._plan_of: Callable[[], Plan] = lambda: ato._pruner.plan
        self.plans = list[Plan]()  # of the slim modules so far
        self._taking_over: TakingOver | None = None

    def train_on(self, model: nn.Module) -> None:
        """The loop asks for it before each step."""
        self.model = model
        if self._taking_over is not None:
            self._taking_over.remove()
            self._taking_over = None
        if model is not self.dense:
            self.plans = [*self.plans[-1:], self._plan_of()]
            self._taking_over = TakingOver(self.dense, model)
            if self._on_swap is not None:
                self._on_swap(self.dense, model)

    def tell(self, text: str) -> None:
        """As a warning: the loop goes on."""
        warnings.warn(text, stacklevel=2)

    def check(self) -> None:
        """Refuse a loop that does not ask."""
        if self._taking_over is not None:
            self._taking_over.check()

    def evaluate(self, data: Iterable[object] | None) -> float | None:
        """A loop of one's own measures by itself."""
        return None
