"""Auto-Train-Once as a callback of transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from atograph.integrations import Loss, Pruning, check_example, required
from atograph.integrations.loop_run import OnSwap
from atograph.integrations.own_loop import AutoTrainOnce
from atograph.integrations.taught_forward import TaughtForward
from atograph.passes.errors import UserError
from atograph.slimming.slim import Slim
from atograph.train.losses.defaults import LABELS, default_loss
from atograph.train.saved.checkpoints import Checkpoints
from atograph.train.saved.seeding import random_state, set_random_state
from atograph.train.settings import TrainSettings, settings_of
from atograph.train.settings.method_table import METHOD_OF_LOOPS
from atograph.values.batches import keep_copy, to_device
from atograph.values.eval_mode import copy_of

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

_TrainerCallback: Any = required("transformers", "transformers").TrainerCallback

_FOLDER = "atograph"
"""Within the folder of a checkpoint."""


class AutoTrainOnceCallback(_TrainerCallback):  # type: ignore[misc]  # known only where transformers is installed
    """Prunes the model that a Trainer trains: masks while it trains, and a slim model after that::

        callback = AutoTrainOnceCallback(flops=0.5)
        Trainer(model, args, train_dataset=data, callbacks=[callback]).train()
        callback.slim.to_onnx("slim.onnx")

    The dense model is trained to the end, because the Trainer holds its optimiser. A callback sees no batches: those
    for the controller are the first ``controller_batches`` of the training data, read once before the training begins.
    What it takes to resume lies in a folder ``atograph`` within each checkpoint, as safetensors and JSON. The best
    model (``load_best_model_at_end``) is one after everything masked is zero, and early stopping waits for that.

    Attributes:
        slim: what came out, on the device that it was trained on; None before the end of ``train()``.

    Args:
        example_inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords). None: the first batch
            without its labels.
        loss: ``loss(model, batch)`` for the controller, a 0-dim tensor. None: ``model(**batch).loss``.
        teacher: a trained network to learn from (``distill`` follows from it); with ``distill=True`` alone it is the
            model as it came. What it says is in the ``loss`` that the model gives in training, so that the Trainer has
            to take that one.
        resume_from: the checkpoint to resume from, where it does not lie in the Trainer's ``output_dir``.
        on_swap: called as ``on_swap(dense, slim)`` when there is a slim module, at the end of the training: what else
            follows the parameters (an average of them) may follow it from there; ``ato.cut`` makes dense tensors slim.
        settings: fields of `train.TrainSettings`, ``flops`` first of all; those of the weights (``lr``, ...) are the
            Trainer's own.

    Raises:
        UserError: a setting does not fit; from ``train()``, what `AutoTrainOnce` refuses, several devices, DeepSpeed,
            FSDP, a search for hyperparameters, and a checkpoint of another training.
    """

    def __init__(
        self,
        example_inputs: object = None,
        *,
        loss: Loss | None = None,
        on_swap: OnSwap | None = None,
        teacher: nn.Module | None = None,
        resume_from: str | Path | None = None,
        **settings: object,
    ) -> None:
        settings = settings if teacher is None else {"distill": True, **settings}
        self._chosen = settings_of(settings, METHOD_OF_LOOPS)
        self._batches_at_most = self._chosen.controller_batches
        self.slim: Slim | None = None
        check_example(example_inputs)
        self._inputs, self._loss, self._settings = example_inputs, loss or default_loss, settings
        self._on_swap = on_swap
        self._resume_from = resume_from
        self._teacher, self._as_it_came = teacher, teacher
        self._taught: TaughtForward | None = None
        self._pruning: Pruning | None = None
        self._batches: list[object] = []

    @property
    def ato(self) -> AutoTrainOnce | None:
        """What prunes; None before the training."""
        return None if self._pruning is None else self._pruning.ato

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the model as it comes, for a training that is resumed: it has other weights when that begins."""
        if self._chosen.distill and self._teacher is None:
            self._as_it_came = copy_of(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trace the model, set batches aside, and go on from the checkpoint that the Trainer resumes from."""
        _check(args, state, self._chosen)
        model: nn.Module = kwargs["model"]
        self.slim = None
        if self._taught is not None:
            self._taught.remove()  # of a training that was interrupted
        self._batches = _first(kwargs["train_dataloader"], self._batches_at_most)
        inputs = self._inputs if self._inputs is not None else _without_labels(self._batches[0], args)
        inputs = to_device(inputs, args.device)
        with _as_written(model):
            self._pruning = Pruning(
                model,
                inputs,
                kwargs["optimizer"],
                steps=state.max_steps,
                loss=self._loss,
                on_swap=self._on_swap,
                teacher=self._as_it_came if state.global_step else self._teacher,
                settings=self._settings,
            )
        if state.global_step:
            self._load(self._pruning, args, state, _sum(model))
        if self._pruning.lessons is not None:
            self._taught = TaughtForward(model, self._pruning.lessons, _precision(args))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Let the mask go on."""
        assert self._pruning is not None
        ato = self._pruning.ato
        warmup = int(ato.steps * ato.settings.controller_start)
        turn = ato.done // max(1, warmup // self._batches_at_most)  # so that the warm-up sets each batch aside once
        settled = ato.settled
        self._pruning.before_step(to_device(self._batches[turn % len(self._batches)], args.device))
        if not settled:  # what was the best so far is another network than the one that comes out
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shrink what is masked, at the rate that a scheduler has not yet changed."""
        assert self._pruning is not None
        if self._taught is not None:
            self._taught.check()
        self._pruning.after_step(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put a state of its own into the checkpoint."""
        assert self._pruning is not None
        own = self._pruning.state() | {"weights": _sum(kwargs["model"])}
        Checkpoints(_own_folder(args, state) / _FOLDER, {}, 0.0).save(0, state.global_step, own)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the slim model."""
        assert self._pruning is not None
        if self._taught is not None:
            self._taught.remove()
            self._taught = None
        with _as_written(kwargs["model"]):
            self.slim = self._pruning.finish()

    def _load(self, pruning: Pruning, args: TrainingArguments, state: TrainerState, weights: float) -> None:
        """A callback is not told where the Trainer resumes from."""
        own = _own_folder(args, state)
        for folder in [self._resume_from] if self._resume_from else [args.resume_from_checkpoint or own, own]:
            saved = Checkpoints(Path(folder) / _FOLDER, {}, 0.0).load()
            if saved is not None and isclose(saved["weights"], weights, rel_tol=1e-6):
                pruning.load(saved, state.global_step)
                return
        raise UserError(
            "there is no state of the pruning here that belongs to the weights that the Trainer resumes from.",
            where=str(self._resume_from or own),
            hint="Give AutoTrainOnceCallback resume_from, the same folder as the Trainer. Weights that were "
            "trained without the callback can be loaded into the model, and trained from step 0.",
        )


@contextmanager
def _as_written(model: nn.Module) -> Iterator[None]:
    """Within it the model's ``forward`` is its own: for mixed precision accelerate puts another in its place."""
    own = vars(model)
    replaced = own.pop("forward") if "_original_forward" in own and "forward" in own else None
    try:
        yield
    finally:
        if replaced is not None:
            own["forward"] = replaced


def _own_folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _sum(model: nn.Module) -> float:
    """One number that tells weights from others."""
    return float(sum(parameter.detach().cpu().double().abs().sum() for parameter in model.parameters()))


def _precision(args: TrainingArguments) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context that accelerate computes the model's own forward pass in."""
    if not (args.bf16 or args.fp16):
        return nullcontext
    return partial(torch.autocast, args.device.type, torch.bfloat16 if args.bf16 else torch.float16)


def _check(args: TrainingArguments, state: TrainerState, settings: TrainSettings) -> None:
    """Refuse a training that the callback cannot follow."""
    one = "Train on one device; with CUDA_VISIBLE_DEVICES=0 the Trainer sees one GPU."
    refused = (
        ("several devices", args.world_size > 1 or args.n_gpu > 1, one),
        ("DeepSpeed", args.deepspeed, one),
        ("FSDP", args.fsdp, one),
        ("hyperparameter_search()", state.is_hyper_param_search, "Search first, and then prune."),
        (
            "ema and load_best_model_at_end",
            settings.ema is not None and args.load_best_model_at_end,
            "Its best checkpoint holds no averaged weights: leave out one of them.",
        ),
        (
            "a teacher and torch_compile",
            settings.distill and args.torch_compile,
            "The teacher listens to the model's calls, which a compiled model hides: leave out torch_compile.",
        ),
    )
    for what, holds, hint in refused:
        if holds:
            raise UserError(f"the callback cannot prune with {what}.", where="the Trainer", hint=hint)


def _first(loader: DataLoader[object], count: int) -> list[object]:
    """The first batches, in main memory, read by another loader: the Trainer's goes on as if nobody had asked.

    Raises:
        UserError: there are none.
    """
    before = random_state(loader)
    batching: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        batching = {"batch_size": loader.batch_size}
    mine: DataLoader[object] = DataLoader(loader.dataset, collate_fn=loader.collate_fn, **batching)
    batches = [keep_copy(batch) for batch in islice(mine, count)]
    set_random_state(before, loader)
    if not batches:
        raise UserError("the training data has no batches.", where="train_dataset")
    return batches


def _without_labels(batch: object, args: TrainingArguments) -> dict[str, object]:
    if not isinstance(batch, Mapping):
        kind = "tensor" if isinstance(batch, torch.Tensor) else type(batch).__name__
        raise UserError(
            f"a batch is a {kind}, and no dict of what the model takes.",
            where="train_dataset",
            hint="Give AutoTrainOnceCallback example_inputs to trace with.",
        )
    return {key: value for key, value in batch.items() if key not in {*LABELS, *(args.label_names or ())}}
