"""Auto-Train-Once in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from atograph.capture.model_state import current_state
from atograph.integrations.lessons import Lessons
from atograph.integrations.loop_run import LoopRun, OnSwap
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.run import latency_budget
from atograph.run.job import trace_to_train
from atograph.slimming.index_map import cut_state, masked_state, small_module
from atograph.slimming.masking import zero_
from atograph.slimming.slim import Slim, slim
from atograph.spec.example_inputs import as_inputs
from atograph.train.averaging import Average
from atograph.train.hook import Pruning
from atograph.train.methods.method import hook_of
from atograph.train.optim import check_optimizers, optimizers_of
from atograph.train.processes.replicas import join
from atograph.train.pruning.shrink import CannotShrink
from atograph.train.saved.weights import is_sharded
from atograph.train.settings import settings_of
from atograph.train.settings.method_table import METHOD_OF_LOOPS
from atograph.values.user_code import warn_user

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

    With ``distill=True`` it learns from the model as it came, or from ``teacher``: ``ato.loss(loss_fn, batch)`` takes
    the place of ``loss_fn(ato.model)`` then. With ``ema=0.99`` a moving average of the weights is what `finish` hands
    over, and what the model has within ``with ato.averaged():``.

    Attributes:
        model: what the loop is to train: the model that was given, and its slim form once that can take its place.
        graph: the trace of the model that was given.
        average: of the weights, where ``ema`` asks for one.
        lessons: what the loop learns from a teacher; None: there is none.
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
        teacher: a trained network of the same inputs and outputs, of which a copy is made (``distill`` follows from
            it); with ``distill=True`` alone it is the model as it is given.
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
        teacher: nn.Module | None = None,
        **settings: object,
    ) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise UserError(f"a loop makes one step or more, not {steps!r}.")
        self._given, model = model, _as_written(model)
        optimizers = () if optimizer is None else optimizers_of(optimizer)
        given = settings_of(settings if teacher is None else {"distill": True, **settings}, METHOD_OF_LOOPS)
        if given.shard or any(is_sharded(parameter) for parameter in model.parameters()):
            raise UserError(
                "a model whose parameters are sharded over processes is not pruned in a loop of one's own.",
                hint="atograph compress ... --shard trains one: see docs/large-models.md.",
            )
        if optimizers:
            check_optimizers(optimizers, model, whole=given.slim_at != "never")
        inputs = as_inputs(example_inputs, where="example_inputs")
        self.graph = trace_to_train(model, inputs, given).steered(**given.steering)
        if given.metric_mode is not None:
            raise UserError(
                "a loop measures by itself, so metric_mode is of no use to it.",
                hint="Keep the best weights where `settled` is true; in Lightning the callback's monitor does it, and "
                "for a Trainer load_best_model_at_end.",
            )
        if given.clip is not None:
            raise UserError(
                "a loop makes its steps by itself, so clip is of no use to it.",
                hint="Call torch.nn.utils.clip_grad_norm_ before the optimiser's step; in Lightning it is the "
                "trainer's gradient_clip_val, and a Trainer's max_grad_norm.",
            )
        if not given.epochs:
            raise UserError("a loop trains: epochs is 1 or more.", hint="To prune at once: graph.plan, atograph.slim.")
        replicas = join()
        self.settings = latency_budget.prepare(self.graph, given, earlier=None, alone=replicas.count == 1)
        latency_budget.keep(self.graph, given, None)
        self.steps, self.done, self._epoch = steps, 0, -1
        self._begun = self._finished = False
        self._loop = LoopRun(model, self.settings, steps, optimizers, lambda: self._pruner.plan, on_swap)
        shrink = partial(small_module, self.graph) if optimizers else None
        self._pruner: Pruning[Plan] = hook_of(self._loop, self.graph, shrink)
        self.average, self.lessons = Average(given.ema), self._lessons_of(teacher)

    def _lessons_of(self, teacher: nn.Module | None) -> Lessons | None:
        """What it learns from a teacher, if there is to be one."""
        if not self.settings.distill:
            return None
        return Lessons(
            self._loop.dense, teacher, self.settings, self.graph, lambda: self._pruner.in_force, self._loop.tell,
            compiled=self._given is not self._loop.dense or any(map(_is_compiled, self._loop.dense.modules())),
        )  # fmt: skip

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
            warn_user(f"{more}. Tell AutoTrainOnce how many steps it makes in all.")
        t = self._moment
        epoch = int(t * self.settings.epochs)
        if epoch > self._epoch:
            self._epoch = epoch
            self._pruner.epoch_start(t)
        before = len(losses)
        self._pruner.before_step(t, loss_fn)
        return losses[-1] if len(losses) > before else None

    def loss(self, loss_fn: LossFn, batch: object = None) -> Tensor:
        """The loss of a step, with what the teacher says where there is one: a 0-dim tensor.

        Args:
            loss_fn: as in `controller_step`. The teacher is asked what ``loss_fn`` asks the model.
            batch: what the loss is of, ``(inputs, targets)`` or a dict with labels. By its targets the teacher knows
                whether outputs are classes, and along which dimension; without it they are compared as numbers.

        Raises:
            UserError: ``loss_fn`` does not call the model, or the teacher cannot be asked the same.
        """
        model = self.model
        if self.lessons is None:
            return loss_fn(model)
        with self.lessons.listening(model) as said:
            own = loss_fn(model)
        return self.lessons.added(own, said, batch)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model has its average's weights, where there is one: to be measured, say."""
        with self.average.in_place(self._loop.model):
            yield

    def project(self, lr: float) -> None:
        """After each step of the optimiser: shrink what is masked, or hold it at zero.

        Args:
            lr: the rate of that step.
        """
        self._require_running()
        if not self._begun:
            raise UserError("controller_step(loss_fn) was not called before this step.", hint="It makes the mask.")
        self._loop.check()
        if self.lessons is not None:
            self.lessons.check()
        self._begun = False
        self._pruner.after_step(self._moment, lr)
        self.average.add(self._loop.model, settled=self.settled)
        self.done += 1

    def finish(self) -> Slim:
        """Zero what is left of the masked groups, put all weights back into the dense model, and make it slim.

        The weights are those of now, or with ``ema`` those of the average. Put another average (SWA), or what an
        optimiser evaluates with (schedule-free), into `model` before. What that has moved of the masked groups is zero
        again afterwards. An optimiser that has trained the slim module still holds its parameters: to train on, make a
        new one.
        """
        if not self._finished:
            if self.done < self.steps * self.settings.zero_from:
                early = (
                    f"the training ended after {self.done:,} of {self.steps:,} steps, so what is masked is set to zero"
                )
                warn_user(f"{early} at once, and the weights had no time to recover.")
            self.average.hand_over(self._loop.model)
            self._pruner.finish()
            self._finished = True
            self._tell_of_bad_weights()
        zero_(self._loop.dense, self._pruner.plan)
        return slim(self.graph, self._pruner.plan)

    def _tell_of_bad_weights(self) -> None:
        """A loop looks at its loss by itself; what it hands over is looked at here."""
        bad = [name for name, value in self._loop.dense.named_parameters() if not bool(value.isfinite().all())]
        if bad:
            what = f"the weights are not finite any more ({bad[0]}, of {len(bad):,} parameters)"
            warn_user(f"{what}: the training has diverged. Look for the step from which on its loss is no number.")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside the dense model (`sync` first) and the optimiser: tensors and numbers.

        The loss functions that were kept for the controller are not in it: it then learns from those that come.
        """
        state = {"done": self.done, "epoch": self._epoch, "pruner": self._pruner.state()}
        average = {} if self.settings.ema is None else {"average": self.average.state()}
        return state | average | ({} if self.lessons is None else {"teacher": self.lessons.state()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: after the dense model has its weights, and before the optimiser gets its state."""
        if not {"done", "epoch", "pruner"} <= state.keys():
            raise UserError("this is no state of AutoTrainOnce.", hint="state_dict() gives one.")
        self._check_same(state)
        self.done, self._epoch = state["done"], state["epoch"]
        try:
            self._pruner.load(state["pruner"])
        except CannotShrink as reason:
            raise UserError(
                f"the slim module of this state cannot be made again: {reason}.",
                hint="Load in this order: the dense model's weights, AutoTrainOnce's state, the optimiser's state.",
            ) from reason
        if "average" in state:
            self.average.load(state["average"], self._loop.device)

    def _check_same(self, state: Mapping[str, Any]) -> None:
        """Refuse a state with another average, or of another teacher.

        Raises:
            UserError: it is one.
        """
        for name, what, now in (
            ("average", "ema", self.settings.ema is not None), ("teacher", "distill", self.lessons is not None)
        ):  # fmt: skip
            if (name in state) != now:
                before = "without" if now else "with"
                raise UserError(f"this state is of another training: it was made {before} {what}.")
        if self.lessons is not None and not self.lessons.same(state["teacher"]):
            raise UserError(
                "the teacher is another network than the one that this state's training has learned from.",
                hint="Make AutoTrainOnce of the model as it came, and load the weights of the checkpoint after that; "
                "or give it the same teacher=.",
            )

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
            state = masked_state(self.graph, before[0], state)
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


def _is_compiled(module: nn.Module) -> bool:
    """Whether `nn.Module.compile` was called."""
    return getattr(module, "_compiled_call_impl", None) is not None
