"""Auto-Train-Once as a callback of Lightning."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atograph.integrations import Loss, Pruning, check_batch, check_example, required
from atograph.integrations.lightning_step import arguments_of_step, taught, trainer_of, unnoticed
from atograph.integrations.loop_run import OnSwap
from atograph.integrations.own_loop import AutoTrainOnce
from atograph.passes.errors import UserError
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs, inputs_of_batch
from atograph.train.best import BestEpoch
from atograph.train.saved.weights import set_weights, weights_of
from atograph.train.settings import settings_of
from atograph.train.settings.method_table import METHOD_OF_LOOPS
from atograph.values.attributes import Attributes, values_of
from atograph.values.batches import to_device
from atograph.values.eval_mode import copy_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_Callback: Any = required("lightning", "lightning.pytorch", "pytorch_lightning").Callback


class AutoTrainOnceCallback(_Callback):  # type: ignore[misc]  # known only where Lightning is installed
    """Prunes the module that a Lightning trainer fits: masks while it trains, and a slim model after that::

        callback = AutoTrainOnceCallback(flops=0.3)
        Trainer(max_epochs=40, callbacks=[callback]).fit(module, loader)
        callback.slim.to_onnx("slim.onnx")

    The dense module is trained to the end, because the trainer holds its optimiser. What is traced, and made slim, is
    the module's ``forward``. Checkpoints of the trainer hold what it takes to resume (``ckpt_path``). Early stopping,
    and what the trainer takes for its best checkpoints, wait until everything masked is zero.

    Attributes:
        slim: what came out, on the device that it was trained on; None before the end of ``fit``, and after one that
            was interrupted.

    Args:
        example_inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords). None: the module's
            ``example_input_array``, or else the inputs in the first batch.
        loss: ``loss(module, batch)`` for the controller, a 0-dim tensor. None: the module's ``training_step``, without
            what it logs.
        monitor: name of a logged validation metric: with ``metric_mode="max"`` or ``"min"`` the weights of the best
            validation after everything masked is zero are kept, and made slim in the end.
        teacher: a trained network to learn from, called as the module (``distill`` follows from it); with
            ``distill=True`` alone it is the module as it came. What it says is added to the loss that ``training_step``
            returns, which has to call ``self(...)``; what that logs is its own loss.
        on_swap: called as ``on_swap(dense, slim)`` when there is a slim module, at the end of the training: what else
            follows the parameters (an average of them) may follow it from there; ``ato.cut`` makes dense tensors slim.
        settings: fields of `train.TrainSettings`, ``flops`` first of all; those of the weights (``lr``, ...) are the
            module's own.

    Raises:
        UserError: a setting does not fit; from ``fit``, what `AutoTrainOnce` refuses, manual optimisation (and so
            several optimisers), several devices, a training without an end, and a checkpoint of another one.
    """

    def __init__(
        self,
        example_inputs: object = None,
        *,
        loss: Loss | None = None,
        monitor: str | None = None,
        teacher: nn.Module | None = None,
        on_swap: OnSwap | None = None,
        **settings: Any,
    ) -> None:
        check_example(example_inputs)
        settings = settings if teacher is None else {"distill": True, **settings}
        self._chosen = settings_of(settings, METHOD_OF_LOOPS)  # what is wrong with them shows here
        mode = self._chosen.metric_mode
        if (monitor is None) != (mode is None):
            raise UserError("monitor and metric_mode go together: the name of a logged metric, and which is better.")
        if settings.pop("patience", None) is not None:
            raise UserError("patience is the trainer's.", hint="Give it an EarlyStopping, which waits for the zeroing.")
        self._monitor, self._best = monitor, BestEpoch(settings.pop("metric_mode", None))
        self.slim: Slim | None = None
        self._inputs, self._loss, self._on_swap, self._settings = example_inputs, loss, on_swap, settings
        self._pruning: Pruning | None = None
        self._saved: dict[str, Any] | None = None
        self._begun, self._lr = False, 0.0
        self._teacher, self._as_it_came = teacher, teacher
        self._taught, self._measured = ExitStack(), ExitStack()

    @property
    def ato(self) -> AutoTrainOnce | None:
        """What prunes; None before the first batch."""
        return None if self._pruning is None else self._pruning.ato

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the module as it comes: a checkpoint puts other weights into it afterwards."""
        if stage == "fit" and self._chosen.distill and self._teacher is None:
            with trainer_of(pl_module, None, then=trainer):
                self._as_it_came = copy_of(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Refuse what it cannot do."""
        if sum(isinstance(each, AutoTrainOnceCallback) for each in trainer.callbacks) > 1:
            raise UserError(
                "this trainer has several AutoTrainOnceCallbacks, and one module is pruned by one.",
                hint="Leave one of them, with all budgets: AutoTrainOnceCallback(flops=0.3, params=0.5).",
            )
        _check(trainer, pl_module)
        self._pruning = self.slim = self._best.epoch = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Before the first of the batches of a step, let the mask go on."""
        if self._begun:
            return
        pruning = self._pruning or self._start(trainer, pl_module, batch)
        settled = pruning.ato.settled
        with trainer_of(pl_module, None, then=trainer):
            pruning.before_step((batch, batch_idx))
        if not settled:
            _forget_best(trainer)
        self._begun = True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take note of the step's rate: after the step a scheduler changes it."""
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """After the step, shrink what is masked."""
        if self._pruning is not None and trainer.global_step > self._pruning.ato.done:
            self._pruning.after_step(self._lr)
            self._begun = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the averaged weights be measured, where there are some."""
        if self._pruning is not None and not trainer.sanity_checking:
            self._measured.enter_context(self._pruning.ato.averaged())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best ones since everything masked is zero."""
        if self._pruning is None or trainer.sanity_checking:
            return
        with self._measured:
            if self._monitor is not None and self._pruning.ato.settled:
                self._offer(trainer, pl_module, self._monitor)

    def _offer(self, trainer: Trainer, module: LightningModule, monitor: str) -> None:
        if monitor not in trainer.callback_metrics:
            logged = ", ".join(map(str, trainer.callback_metrics)) or "nothing"
            raise UserError(f"monitor={monitor!r} is not logged in validation; {logged} is.")
        weights = {name: value.to("cpu", copy=True) for name, value in weights_of(module).items()}
        metric = float(trainer.callback_metrics[monitor])
        self._best.offer(trainer.global_step, metric, weights, values_of(module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the trainer, and the module's weights, as they are without a callback."""
        self._taught.close()
        self._measured.close()
        if self._pruning is not None:
            self._pruning.ato.sync()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the slim model, while all of it is on one device."""
        self._taught.close()
        if self._pruning is not None:
            self._finish(trainer, pl_module, self._pruning)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, where the checkpoint was of the end and no batch came."""
        if self._pruning is None and self._saved is not None:
            self._finish(trainer, pl_module, self._start(trainer, pl_module, None))
        if self.slim is None:
            warnings.warn(
                "the trainer made no step, so nothing was pruned, and AutoTrainOnceCallback.slim is None. To prune "
                "without training: graph.plan(...) and atograph.slim.",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """What the trainer's checkpoints hold of it: tensors, numbers and text."""
        if self._pruning is None:
            return self._saved or {}
        return self._pruning.state() | {"best": self._best.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by the trainer, before there is anything to load it into."""
        self._saved = state_dict

    def _start(self, trainer: Trainer, module: LightningModule, batch: object) -> Pruning:
        saved, step, self._saved = self._saved, trainer.global_step, None
        if step and not saved:
            raise UserError(
                f"this training has made {step:,} steps without the callback, which prunes over a whole one.",
                hint="Load the weights into the module, and fit it from step 0.",
            )
        example = saved["inputs"] if batch is None and saved else self._example(module, batch)
        inputs = to_device(example, module.device)
        steps = int(trainer.estimated_stepping_batches)
        with trainer_of(module, None, then=trainer):
            if self._inputs is None and module.example_input_array is None:
                check_batch(module, inputs)
            pruning = Pruning(
                module,
                inputs,
                trainer.optimizers[0],
                steps=steps,
                loss=self._loss_of(trainer),
                on_swap=self._on_swap,
                teacher=self._as_it_came,
                settings=self._settings,
            )
        if saved and step:  # at step 0 it would be what a call of test() or validate() has left
            self._best.load(saved.pop("best", None))
            pruning.load(saved, step)
        self._pruning, self._begun = pruning, False
        if pruning.lessons is not None and batch is not None:
            self._taught.enter_context(taught(trainer, module, pruning.lessons))
        return pruning

    def _finish(self, trainer: Trainer, module: LightningModule, pruning: Pruning) -> None:
        best = self._best.epoch
        if best is not None:
            set_weights(module, best.weights)
            Attributes(module).put(best.attributes)
        with trainer_of(module, None, then=trainer):
            self.slim = pruning.finish(best=best is not None)

    def _example(self, module: LightningModule, batch: object) -> Any:
        if self._inputs is not None:
            return self._inputs
        own = module.example_input_array
        if own is not None:
            return own
        try:
            inputs: Inputs = inputs_of_batch(batch)
        except UserError as error:
            raise UserError(
                error.message, where=error.where, hint="Give AutoTrainOnceCallback example_inputs to trace with."
            ) from error
        return inputs.kwargs or inputs.args

    def _loss_of(self, trainer: Trainer) -> Loss:
        """The loss of a batch and its number, as a training step computes it."""

        def loss(module: Any, numbered: Any) -> Tensor:
            batch, number = numbered
            around = trainer.precision_plugin.train_step_context()
            with around, trainer_of(module, trainer, then=None), unnoticed(module):
                if self._loss is not None:
                    return self._loss(module, batch)
                output = module.training_step(*(batch, number)[: arguments_of_step(module.training_step)])
            found = output.get("loss") if isinstance(output, Mapping) else output
            if not isinstance(found, Tensor):
                raise UserError(
                    f"training_step() gives the controller no loss, but a {type(found).__name__}.",
                    hint="Give AutoTrainOnceCallback loss, a function of the module and a batch.",
                )
            return found

        return loss


def _forget_best(trainer: Any) -> None:
    """What was the best so far is another network than the one that comes out: it neither stops nor is a best one."""
    for each in trainer.early_stopping_callbacks:
        each.wait_count, each.best_score = 0, torch.tensor(-inf if each.mode == "max" else inf)
    for each in trainer.checkpoint_callbacks:
        if getattr(each, "monitor", None) is not None and hasattr(each, "best_k_models"):
            each.best_k_models, each.kth_best_model_path = {}, ""
            each.best_model_path, each.best_model_score, each.current_score = "", None, None


def _check(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a training that the callback cannot follow."""
    if not module.automatic_optimization:  # several optimisers are possible only then
        raise UserError(
            "the callback follows automatic optimisation with one optimiser, and this module steps by itself.",
            where=type(module).__name__,
            hint="With several optimisers or manual optimisation, call atograph.AutoTrainOnce in training_step.",
        )
    if type(module).forward.__qualname__ == "LightningModule.forward" and "forward" not in vars(module):
        raise UserError(
            "what is traced, and made slim, is forward(), and this module has none.",
            where=type(module).__name__,
            hint="Define it: def forward(self, x): return self.model(x), say.",
        )
    # by name: lightning and pytorch_lightning each have a class of their own
    if "SingleDeviceStrategy" not in {kind.__name__ for kind in type(trainer.strategy).__mro__}:
        raise UserError(
            f"the callback prunes on one device, and this trainer has {trainer.world_size}, by "
            f"{type(trainer.strategy).__name__}.",
            hint="Give the Trainer devices=1 and no strategy.",
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise UserError(
            "training_step() takes its batches from an iterator, so the callback sees none.",
            where=type(module).__name__,
            hint="Let it take a batch.",
        )
    steps = trainer.estimated_stepping_batches
    if trainer.max_steps == 0 or trainer.limit_train_batches == 0:
        raise UserError(
            "the trainer is to make no step, and the callback prunes while it trains.",
            hint="Give the Trainer steps to make; to prune without training: graph.plan(...) and atograph.slim.",
        )
    if not isfinite(steps) or steps < 1:
        raise UserError(
            "the schedule of the pruning needs to know how many steps the training makes, and nobody does.",
            hint="Give the Trainer max_steps, or max_epochs and data with a length.",
        )
