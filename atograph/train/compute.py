"""How batches become a step: precision, memory format, compilation, gradients added up, and several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.processes.replicas import Replicas
from atograph.train.settings import TrainSettings
from atograph.train.task import Task
from atograph.values.batches import batch_size
from atograph.values.user_code import user_code

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of a setting; ``auto`` is the first CUDA device, or else the CPU.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        text = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(
            f"the device {name!r} cannot be used: {text}.", hint="Use --device auto, cpu or cuda."
        ) from error
    if device.type == "meta":
        raise UserError("nothing can be trained on the device 'meta'.", hint="Use --device auto, cpu or cuda.")
    return device


def autocast(settings: TrainSettings, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context that the forward passes of a training run in.

    Raises:
        UserError: the device cannot compute in that precision.
    """
    if settings.precision == "float32":
        return nullcontext
    dtype = _DTYPES[settings.precision]
    if not torch.amp.is_autocast_available(device.type):
        raise UserError(
            f"there is no mixed precision on the device {device.type}.", hint="Leave out --precision, or use a GPU."
        )
    return partial(torch.autocast, device.type, dtype)


class Compute:
    """Makes gradients and steps; float16 with its scaled loss, and everything averaged over the processes.

    Args:
        task: its losses are computed in the settings' precision already (`Task.within`).
        settings, device, replicas: of the training.
    """

    def __init__(self, task: Task, settings: TrainSettings, device: torch.device, replicas: Replicas) -> None:
        self.task, self.settings, self.replicas = task, settings, replicas
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module as steps are to call it; it shares everything with ``module``, whose memory format is set."""
        if self.settings.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.settings.compile:
            return module
        compiled: nn.Module = torch.compile(module)  # type: ignore[assignment]
        return compiled

    def gradients(self, called: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[object]) -> Tensor:
        """Gradients of the mean loss over some batches, and that mean; where it is not finite there are none.

        Raises:
            UserError: as `Task.loss_to_train`, or the model cannot be compiled.
        """
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for number, batch in enumerate(batches, 1):
            loss = self._loss(called, batch)
            share = self.replicas.share_of(batch_size(batch)) / len(batches)
            loss = loss * share if share != 1 else loss
            total = total.to(loss.device) + loss.detach().float()
            last = number == len(batches)
            with self.replicas.averaging(called.parameters()) if last else nullcontext():
                if self._is_finite(loss):
                    self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.replicas.average_([total])
        return total

    def _is_finite(self, loss: Tensor) -> bool:
        """Whether it has gradients; of a sharded model all processes compute them, or none does."""
        finite = bool(loss.detach().isfinite())
        return not self.replicas.total(float(not finite)) if self.settings.shard else finite

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, by clipped gradients if that was asked for; in float16 not if one overflowed (the scale is halved).

        Raises:
            UserCodeError: what the optimiser raises.
        """
        if self.settings.clip is not None:
            self.scaler.unscale_(optimizer)
            stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(stepped, self.settings.clip)
        with user_code(f"calling step() of {type(optimizer).__name__}", "the optimiser"):
            self.scaler.step(optimizer)
        self.scaler.update()

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        return self.scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        if state:
            self.scaler.load_state_dict(state)

    def _loss(self, called: nn.Module, batch: object) -> Tensor:
        if not self.settings.compile:
            return self.task.loss_to_train(called, batch)
        try:
            return self.task.loss_to_train(called, batch)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            text = str(error).strip().partition("\n")[0]
            raise UserError(f"torch.compile cannot compile this model: {text}.", hint="Leave out --compile.") from error
