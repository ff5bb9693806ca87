"""What is given as data: whether it can be read once per epoch, and gives batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from atograph.passes.errors import UserError
from atograph.values.batches import describe

_BATCHES = "Give an iterable of batches: a DataLoader, or a list of (inputs, targets)."


def reiterable(data: Iterable[object], name: str) -> Iterable[object]:
    """The data, if it can be iterated more than once.

    Args:
        data: batches.
        name: what the data is called in an error.

    Raises:
        UserError: it is an iterator (a generator, zip, map ...), which one pass uses up, or no iterable, or tensors
            that are not cut into batches.
    """
    if isinstance(data, Tensor):
        raise UserError("a tensor is not batches.", where=name, hint=_BATCHES)
    if _is_pair_of_all(data):
        raise UserError(
            "all inputs and all targets are not batches.",
            where=name,
            hint="Cut them: list(zip(inputs.split(64), targets.split(64))).",
        )
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        hint = "Call it: the parentheses are missing." if callable(data) else None
        raise UserError(f"must be an iterable of batches, got {type(data).__name__}.", where=name, hint=hint)
    if isinstance(data, Iterator):
        raise UserError(
            f"can be iterated only once ({type(data).__name__}), but every epoch needs it again.",
            where=name,
            hint="Give a DataLoader, a list of batches, or an object whose __iter__ starts anew.",
        )
    return data


def check_batch(batch: object, name: str) -> None:
    """Refuse a sample where a batch is expected, as a data set gives it to the default loss.

    Raises:
        UserError: the target is a single number.
    """
    if not isinstance(batch, Sequence) or isinstance(batch, str) or len(batch) != 2:
        return
    inputs, target = batch
    if isinstance(target, int | float) or (isinstance(target, Tensor) and not target.dim()):
        raise UserError(
            f"it gives samples, not batches: {describe(inputs)} with the target {target!r}.",
            where=name,
            hint="torch.utils.data.DataLoader(dataset, batch_size=64) makes batches of a data set.",
        )


def _is_pair_of_all(data: object) -> bool:
    """Whether data is all inputs beside all class indices, each in one tensor."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(isinstance(each, Tensor) for each in data):
        return False
    inputs, targets = data
    indices = targets.dim() == 1 and not targets.is_floating_point()
    return bool(inputs.dim() > 1 and indices and len(inputs) == len(targets))
