"""Knowledge distillation: what a teacher says of a batch, beside the task's own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.values import require_values
from atograph.passes.public import public
from atograph.train.losses.blocks import Plan
from atograph.train.losses.defaults import logits_of, split
from atograph.train.losses.hidden import HiddenStates, States, Tell, at_least_float32, relative_difference
from atograph.train.losses.targets import IGNORED
from atograph.train.settings import TrainSettings
from atograph.values.user_code import in_one_line

Call = tuple[tuple[Any, ...], dict[str, Any], Tensor]
"""Positional and keyword arguments of a model, and the logits that it gave."""


@dataclass(frozen=True)
class Said:
    """What a network was asked for a batch, and what it said.

    Attributes:
        calls: of the network, with its logits.
        hidden: what its blocks gave.
    """

    calls: list[Call]
    hidden: States


@public("atograph.train")
class Teacher:
    """A trained network whose outputs another one is to give as well.

    Source: Hinton et al., arXiv 1503.02531: (1 - weight) · loss + weight · T² · KL(teacher ‖ model), of the classes'
    probabilities at temperature T. Where a batch has no class indices, the outputs are no classes: the squared
    difference over the variance of the teacher's takes the place of the divergence. With ``hidden``, the squared
    difference of the outputs of both networks' blocks over the variance of the teacher's is added (FitNets,
    arXiv 1412.6550).

    Args:
        model: the teacher, of the model's inputs and outputs; it is put into eval mode, and its parameters require
            no gradient any more.
        weight: share of the whole loss, from 0 to 1.
        temperature: T.
        hidden: weight of the hidden states, beside that; 0: they are not looked at.
        layers: names or globs of the teacher's modules whose outputs are the hidden states; none: its blocks, the items
            of ``Sequential`` and ``ModuleList`` with modules of their own, or else all layers but the last one.
        tell: takes a sentence about hidden states that cannot be compared; None: a warning.

    Attributes:
        makes_sense: whether all that it has said so far are numbers, a truth value in a 0-dim tensor.

    Raises:
        UserError: the teacher is no module, or has no values.
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float = 0.5,
        temperature: float = 2.0,
        *,
        hidden: float = 0.0,
        layers: Sequence[str] = (),
        tell: Tell | None = None,
    ) -> None:
        self.model = checked_teacher(model).eval().requires_grad_(False)
        self.weight, self.temperature = weight, temperature
        self.makes_sense = torch.tensor(True)
        self._hidden = HiddenStates(hidden, layers, tell)

    def __call__(self, loss: Callable[[nn.Module, Any], Tensor], model: nn.Module, batch: object) -> Tensor:
        """The loss of one batch, a 0-dim tensor.

        Args:
            loss: ``loss(model, batch)``, the task's own; each call of the model that it makes is made of the teacher.
            model: in the making.
            batch: on the device.

        Raises:
            UserError: the loss does not call the model, or the teacher rejects its inputs or gives other outputs.
        """
        with self.listening(model) as said:
            own = loss(model, batch)
        return self.added(own, said, batch)

    def pruned(self, program: Program, plan: Callable[[], Plan | None]) -> None:
        """Tell that the model is one that is pruned: hidden states are compared at the units that stay.

        Args:
            program: of the dense model, as it was traced.
            plan: what is masked at the moment, or gone; None: nothing yet.
        """
        if self._hidden.weight:
            self._hidden.of(program, plan)

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[Said]:
        """Within, notes how a model is called and what it gives, for `added`."""
        with _calls(model) as calls, self.watching(model) as hidden:
            yield Said(calls, hidden)

    def watching(self, model: nn.Module) -> AbstractContextManager[States]:
        """Within, notes what the blocks of a model give, where hidden states are compared."""
        return self._hidden.watched(model, self.model)

    def added(self, own: Tensor, said: Said, batch: object, share: float | Tensor = 1.0) -> Tensor:
        """A loss of the task and what the teacher says of the same calls, a 0-dim tensor.

        Args:
            own: the loss of the task.
            said: of the calls that it is made of.
            batch: its targets tell which dimension of the outputs is that of the classes.
            share: of this batch in those that are added up to a step, where the loss of the task is divided so already.

        Raises:
            UserError: there was no call, or the teacher rejects its inputs or gives other outputs.
        """
        if not said.calls:
            raise UserError(
                "a teacher needs the model's outputs, and the loss does not call the model that it is given.",
                hint="Call model(...) in loss(model, batch), and not a part of it; or train without a teacher.",
            )
        targets, last = split(batch)[1], isinstance(batch, Mapping)
        with self.watching(self.model) as hidden:
            asked = [self._asked(args, kwargs) for args, kwargs, _given in said.calls]
        taught = [
            self._difference(given, wanted, targets, last)
            for (_args, _kwargs, given), wanted in zip(said.calls, asked, strict=True)
        ]
        loss = self.weight * torch.stack(taught).mean()
        states = self._hidden.difference(said.hidden, hidden) if self._hidden.weight else None
        loss = loss if states is None else loss + self._hidden.weight * states
        return (1 - self.weight) * own + share * loss

    def digest(self) -> float:
        """One number that tells its weights from others: a checkpoint does not hold them."""
        return digest_of(self.model)

    def same(self, digest: object) -> bool:
        """Whether such a number is of the same weights."""
        return isinstance(digest, float) and isclose(digest, self.digest(), rel_tol=1e-6)

    @torch.no_grad()
    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        try:
            return logits_of(self.model(*args, **kwargs))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the teacher rejects what the model is called with: {in_one_line(error)}",
                hint="A teacher takes the same inputs as the model.",
            ) from error

    def _difference(self, given: Tensor, wanted: Tensor, targets: Tensor | None, last: bool) -> Tensor:
        if given.shape != wanted.shape:
            raise UserError(
                f"the teacher's output is {list(wanted.shape)}, and the model's {list(given.shape)}.",
                hint="A teacher has the same outputs as the model.",
            )
        given, wanted = at_least_float32(given), at_least_float32(wanted)
        sane = ~(wanted.isnan() | wanted.isposinf()).any()  # a class that is ruled out has a logit of minus infinity
        self.makes_sense = self.makes_sense.to(sane.device) & sane
        dim = _classes(given, targets, last)
        if dim is None:
            return relative_difference(given, wanted)
        wanted = (wanted / self.temperature).log_softmax(dim)
        parts = functional.kl_div(
            (given / self.temperature).log_softmax(dim), wanted, reduction="none", log_target=True
        )
        divergence = parts.masked_fill(wanted.isneginf(), 0.0).sum(dim)  # p log p is 0 there
        counted = torch.ones_like(divergence)
        if targets is not None and targets.shape == divergence.shape:
            counted = (targets != IGNORED).to(divergence)
        return self.temperature**2 * (divergence * counted).sum() / counted.sum().clamp(min=1)


def checked_teacher(model: object) -> nn.Module:
    """A teacher as somebody has given it.

    Raises:
        UserError: it is no module, or its weights have no values.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"the teacher is a {type(model).__name__}, and not a torch.nn.Module.", hint=_TAKES)
    if any(map(is_lazy, model.parameters())):
        raise UserError("the teacher has lazy layers that were never called, and so no weights.", hint=_TAKES)
    require_values(model.state_dict(keep_vars=True), "a teacher needs the values of its weights", hint=_TAKES)
    return model


_TAKES = "It is a trained network with the inputs and outputs of the model."


def digest_of(model: nn.Module) -> float:
    """One number that tells a teacher's weights from others."""
    return float(sum(each.detach().cpu().double().abs().sum() for each in model.parameters()))


def teacher_of(model: nn.Module, settings: TrainSettings, tell: Tell | None = None) -> Teacher:
    """A network as the teacher that settings ask for.

    Args:
        model: a network of its own, on the device.
        settings: of the training.
        tell: as `Teacher` takes it.
    """
    return Teacher(
        model, settings.distill_weight, settings.distill_temperature, hidden=settings.distill_hidden,
        layers=settings.distill_layers, tell=tell,
    )  # fmt: skip


def _classes(logits: Tensor, targets: Tensor | None, last: bool) -> int | None:
    """The dimension of the classes, of which the targets hold indices or probabilities; None where they hold none.

    ``[N, C]`` and ``[N]``; ``[N, C, H, W]`` and ``[N, H, W]``; ``[N, L, C]`` and ``[N, L]``. Where both may be meant,
    it is the ``last`` one, or else the second.
    """
    if targets is None or targets.dtype is torch.bool:
        return None
    if targets.is_floating_point():
        several = targets.shape == logits.shape and logits.dim() > 1 and logits.shape[1] > 1
        sums = targets.sum(1) if several else torch.zeros(1)
        return 1 if torch.allclose(sums, torch.ones_like(sums), atol=1e-3) else None
    dims = (1, logits.dim() - 1) if logits.dim() > 1 else ()
    for dim in reversed(dims) if last else dims:
        if (
            dim < logits.dim()
            and logits.shape[:dim] + logits.shape[dim + 1 :] == targets.shape
            and logits.shape[dim] > 1
        ):
            return dim
    return None


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[Call]]:
    """Note how a model is called, and the logits that it gives: copies, for a loss may write into them."""
    calls: list[Call] = []
    hook = model.register_forward_hook(
        lambda _model, args, kwargs, output: calls.append((args, kwargs, logits_of(output).clone())), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()
