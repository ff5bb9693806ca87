"""What a teacher says, in the loss that a model of transformers gives by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from atograph.integrations.lessons import Lessons, loss_in
from atograph.passes.errors import UserError
from atograph.train.losses.defaults import LABELS, logits_of
from atograph.train.losses.distilled import Said
from atograph.train.losses.hidden import States
from atograph.train.losses.targets import IGNORED

_ITEMS = "num_items_in_batch"
"""What the Trainer tells a model that divides its loss by the labels of all batches of a step."""


class TaughtForward:
    """Hooks of a model: while it is trained, the ``loss`` of its output holds what the teacher says.

    Args:
        model: of the Trainer.
        lessons: of that model.
        around: makes the context that the Trainer computes in.
    """

    def __init__(
        self, model: nn.Module, lessons: Lessons, around: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._lessons, self._around = lessons, around
        self._watching: ExitStack | None = None
        self._hidden: States = {}
        self._reached = True
        self._hooks = (
            model.register_forward_pre_hook(self._before),
            model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        )

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def check(self) -> None:
        """After the backward passes of a step: refuse a Trainer that takes another loss than the model's own.

        Raises:
            UserError: no gradient has come to that.
        """
        if not self._reached:
            raise UserError(
                "a callback can teach through the loss that the model gives, and this Trainer takes another one.",
                where="compute_loss",
                hint="Compute it by atograph.train.Teacher there, and leave distill out of the callback.",
            )

    def _before(self, model: nn.Module, _args: object) -> None:
        if model.training and torch.is_grad_enabled():
            self._watching = ExitStack()
            self._hidden = self._watching.enter_context(self._lessons.watching(model))

    def _after(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> object:
        if self._watching is None:
            return None
        self._watching.close()
        self._watching = None
        if output is None:  # it has raised something
            return None
        own = loss_in(output) if isinstance(output, Mapping) else None
        if own is None:
            raise UserError(
                "a callback can teach through the loss in the model's output, a dict, and there is none.",
                where="the Trainer",
                hint="With label_smoothing_factor, compute_loss_func or a compute_loss of one's own the Trainer "
                "computes another loss: use atograph.train.Teacher there. A model gives a dict with return_dict=True.",
            )
        asked = {name: value for name, value in kwargs.items() if name != _ITEMS}
        said = Said([(args, asked, logits_of(output).clone())], self._hidden)
        with self._around():
            loss = self._lessons.added(own, said, kwargs, _share(model, kwargs))
        self._reached = False
        loss.register_hook(self._note)  # type: ignore[no-untyped-call]
        output["loss"] = loss
        return output

    def _note(self, _gradient: Tensor) -> None:
        self._reached = True


def _share(model: nn.Module, kwargs: Mapping[str, Any]) -> float | Tensor:
    """The share of a batch's labels in those of the step, by which the model divides its loss already."""
    items = kwargs.get(_ITEMS)
    labels = kwargs.get("shift_labels", next((kwargs[name] for name in LABELS if name in kwargs), None))
    if items is None or not isinstance(labels, Tensor):
        return 1.0
    if "shift_labels" not in kwargs and str(getattr(model, "loss_type", "")).startswith("ForCausalLM"):
        labels = labels[..., 1:]  # each token foretells the next
    count: Tensor = (labels != IGNORED).sum()
    share: Tensor = count / items
    return share
