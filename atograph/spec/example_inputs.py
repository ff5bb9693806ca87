"""What a model is called with: taken from ``example_inputs()`` or from a batch of the training data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from atograph.passes.errors import UserError
from atograph.values.user_code import kind_of, line_of_user, one_line

if TYPE_CHECKING:
    from torch import nn

    from atograph.passes.ir.interface import Example

_HINT = "Define example_inputs() returning a tensor, a tuple (positional) or a dict (keywords)."

_ARRAYS = "Inputs are tensors: torch.from_numpy(array), in each batch too."


class Inputs(NamedTuple):
    """Arguments of one call, ``model(*args, **kwargs)``; tensors have the batch as their first dim."""

    args: tuple[object, ...]
    kwargs: dict[str, object]

    @property
    def example(self) -> Example:
        """The same as a plain tuple, which is how a program holds them."""
        return self.args, self.kwargs

    def __str__(self) -> str:
        from atograph.values.batches import describe

        parts = [describe(value) for value in self.args]
        parts += [f"{name}={describe(value)}" for name, value in self.kwargs.items()]
        return ", ".join(parts)


def as_inputs(value: object, *, where: str) -> Inputs:
    """Read a tensor, a tuple or list (positional) or a dict (keywords) as the arguments of one call."""
    import torch

    if isinstance(value, Inputs):
        return value
    if isinstance(value, torch.Tensor):
        return Inputs((value,), {})
    if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
        return Inputs((), dict(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
        return Inputs(tuple(value), {})
    hint = _ARRAYS if type(value).__module__ == "numpy" else _HINT
    raise UserError(f"{kind_of(value)} is nothing to call a model with.", where=where, hint=hint)


def inputs_of_batch(batch: object, *, where: str = "the batch") -> Inputs:
    """The model's inputs in one batch of training data.

    ``(inputs, targets)`` gives the inputs, be they a tensor, a tuple or a dict; a bare tensor gives itself; a
    dict gives keyword arguments, without its ``labels``: a program for inference has no use for them.
    """
    import torch

    if isinstance(batch, torch.Tensor):
        return Inputs((batch,), {})
    if isinstance(batch, Mapping):
        return as_inputs({key: value for key, value in batch.items() if key != "labels"}, where=where)
    if isinstance(batch, Sequence) and len(batch) == 2:
        return as_inputs(batch[0], where=where)
    kind = kind_of(batch) + (f" of length {len(batch)}" if isinstance(batch, Sequence) else "")
    raise UserError(f"a batch is {kind}, neither (inputs, targets) nor a dict.", where=where, hint=_HINT)


def check_accepts(model: nn.Module, inputs: Inputs, *, where: str) -> None:
    """Call ``model`` once in eval mode, without gradients, and put its training state back.

    Raises:
        UserError: the model raised; the message carries the shapes, its reason and the user's own line.
        TookTooLong: it was called within a limit of time.
    """
    import torch

    from atograph.capture.time_limit import TookTooLong, within_limit
    from atograph.values.eval_mode import set_mode

    modes = [(module, module.training) for module in model.modules()]
    set_mode(model, training=False)
    try:
        with torch.no_grad(), within_limit(model, "the first call of the model"):
            model(*inputs.args, **inputs.kwargs)
    except TookTooLong:
        raise
    except Exception as error:
        at = line_of_user(error)
        raise UserError(
            f"the model rejects the inputs {inputs}: {type(error).__name__}: {one_line(error)}"
            + (f" (raised at {at})." if at else "."),
            where=where,
            hint=_why_rejected(model, inputs),
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def _why_rejected(model: nn.Module, inputs: Inputs) -> str:
    """What to do about inputs that a model does not take: by their names and types, as far as these tell."""
    import torch

    taken = inspect.signature(model.forward).parameters
    any_name = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    if not any_name and any(name not in taken for name in inputs.kwargs):
        return (
            f"The keys of a dict are taken for arguments of forward(), which are {', '.join(taken)}: define "
            "example_inputs() (in Python example_inputs=) with what it takes."
        )
    tensors = [each for each in (*inputs.args, *inputs.kwargs.values()) if isinstance(each, torch.Tensor)]
    weights = {each.dtype for each in model.parameters() if each.is_floating_point()}
    strange = {each.dtype for each in tensors if each.is_floating_point()} - weights
    if len(weights) == 1 and (strange or any(each.dtype is torch.uint8 for each in tensors)):
        own, given = (str(next(iter(each), torch.uint8)).removeprefix("torch.") for each in (weights, strange))
        change = "model.float()" if given == "float32" else f"inputs.to(torch.{own}) in the data"
        return f"The weights are {own} and inputs are {given}: {change}."
    return "Check the shape and dtype of the data against the model's forward()."
