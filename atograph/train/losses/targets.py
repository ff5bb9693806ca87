"""Whether targets are classes: what the default loss and the default metric take, and which loss the others want."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from atograph.passes.errors import UserError
from atograph.values.batches import describe

IGNORED = -100
"""The class index that marks a position without a class, as `torch.nn.functional.cross_entropy` has it."""

_SUM = 0.02
"""How far the probabilities of an example may be from one: they may be of half precision."""

_BINARY = "binary_cross_entropy_with_logits"
_OWN = "Define loss(model, batch) for it"


def refuse_other_targets(logits: Tensor, targets: Tensor) -> None:
    """Make sure that targets are class indices [N, ...] or class probabilities [N, C, ...] of logits [N, C, ...].

    Raises:
        UserError: they are something else, which cross-entropy would make a number of all the same; the hint names the
            loss that they seem to be for.
    """
    problem = next(_problems(logits, targets), None)
    if problem is not None:
        why, hint = problem
        raise UserError(
            f"the default loss is cross-entropy over classes, which does not fit logits {describe(logits)} with "
            f"targets {describe(targets)}: {why}.",
            hint=f"{_OWN}: {hint}.",
        )


def why_no_top1(logits: Tensor, targets: Tensor) -> str:
    """Why these targets have no top-1 accuracy; empty where they have one."""
    if targets.is_floating_point() or targets.dtype is torch.bool:
        what = f"the targets {describe(targets)} are no class indices"
        return f"{what} but one-hot, and targets.argmax(1) are the indices" if _one_hot(logits, targets) else what
    if not _one_index_each(logits, targets):
        return f"the logits {describe(logits)} are not [N, C, ...] for targets {describe(targets)}"
    return "" if logits.shape[1] > 1 else f"the logits {describe(logits)} have one column, so there is one class only"


def _one_hot(logits: Tensor, targets: Tensor) -> bool:
    return targets.shape == logits.shape and _holds_only(targets, 0, 1) and bool((targets.sum(1) == 1).all())


def _one_index_each(logits: Tensor, targets: Tensor) -> bool:
    return logits.ndim == targets.ndim + 1 and targets.shape == logits.shape[:1] + logits.shape[2:]


def _problems(logits: Tensor, targets: Tensor) -> Iterator[tuple[str, str]]:
    """What is wrong with the targets, and which loss they want."""
    classes = logits.shape[1] if logits.ndim > 1 else 1
    yes_or_no = _holds_only(targets, 0, 1)
    if targets.is_complex() or logits.is_complex():
        yield "complex numbers are no classes", "on real numbers"
    if classes == 1:
        if yes_or_no:
            yield "there is one column, and the targets are 0 or 1", f"{_BINARY}, with targets of the logits' shape"
        yield "there is one column, so one class only", "mse_loss for a number, with targets of the logits' shape"
    if targets.dtype is torch.bool:
        yield "the targets are yes or no", f"{_BINARY} with targets.float(), or cross_entropy with targets.long()"
    elif targets.is_floating_point():
        yield from _no_probabilities(logits, targets, classes, yes_or_no)
    else:
        yield from _no_indices(logits, targets, classes, yes_or_no)


def _no_probabilities(logits: Tensor, targets: Tensor, classes: int, yes_or_no: bool) -> Iterator[tuple[str, str]]:
    if targets.shape != logits.shape:
        whole = bool((targets == targets.round()).all())
        if whole and _one_index_each(logits, targets) and _in_range(targets, classes):
            yield "class indices are whole numbers of an integer type", "cross_entropy with targets.long()"
        yield "probabilities have the shape of the logits", "mse_loss for numbers, with targets of the output's shape"
        return
    if bool(((targets.sum(1) - 1).abs() <= _SUM).all()) and not bool((targets < 0).any()):
        return
    if yes_or_no:
        yield "they are 0 or 1 in each column, and no row of probabilities", f"{_BINARY} for several labels at once"
    yield "they are not negative and sum to one over the classes where they are probabilities", "mse_loss for numbers"


def _no_indices(logits: Tensor, targets: Tensor, classes: int, yes_or_no: bool) -> Iterator[tuple[str, str]]:
    if not _one_index_each(logits, targets):
        if targets.shape == logits.shape and yes_or_no:
            one_hot = bool((targets.sum(1) == 1).all())
            wanted = "cross_entropy with targets.argmax(1)" if one_hot else f"{_BINARY} with targets.float()"
            yield "class indices have the logits' shape without the classes, and these are 0 or 1", wanted
        if logits.shape[:-1] == targets.shape:
            yield "the classes come last there, and are expected second", "cross_entropy with logits.movedim(-1, 1)"
        if targets.shape == (*logits.shape[:1], 1, *logits.shape[2:]):
            yield "class indices have no dimension for the classes", "cross_entropy with targets.squeeze(1)"
        yield "class indices have the logits' shape without the classes", "cross_entropy of what belongs together"
    elif not _in_range(targets, classes):
        low, high = int(targets.min()), int(targets.max())
        yield (
            f"class indices are from 0 to {classes - 1} (or {IGNORED}), and these are from {low} to {high}",
            "cross_entropy with as many columns as there are classes, counted from 0",
        )


def _holds_only(targets: Tensor, *values: int) -> bool:
    fits = torch.zeros_like(targets, dtype=torch.bool)
    for value in values:
        fits |= targets == value
    return bool(fits.all())


def _in_range(targets: Tensor, classes: int) -> bool:
    return bool((((targets >= 0) & (targets < classes)) | (targets == IGNORED)).all())
