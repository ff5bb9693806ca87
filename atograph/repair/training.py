"""Whether a slim module computes in training mode what the masked dense one does, chance and batch statistics aside.

Code may go another way in training, where nothing was repaired, or use an attribute that was set for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from atograph.passes.ir.interface import Example
from atograph.passes.ir.outputs import OutputPath
from atograph.passes.torch_private import DropoutNd, NormBase
from atograph.values.difference import alike, tolerance
from atograph.values.eval_mode import eval_mode, same_buffers
from atograph.values.structures import copied, tensors_of

Cut: TypeAlias = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
"""Makes what a slim program returns of the tensors that the dense network does."""

_DROPOUTS = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
    torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout,
}  # fmt: skip

_TRAINING = 13
"""Which argument of `F.multi_head_attention_forward` says whether it drops anything."""


def same_in_training(
    module: nn.Module,
    masked: nn.Module,
    example: Example,
    whole: Example,
    cut: Cut,
    left_out: Collection[OutputPath] = (),
) -> bool:
    """Whether a slim module gives in training what the masked dense one does.

    True where that cannot be told, because the dense one draws random numbers or does not run.

    Args:
        module: the slim one.
        masked: the dense one.
        example: what the slim one is called with.
        whole: what the dense one is called with.
        cut: makes what the slim one gives of what the dense one does.
        left_out: outputs that are not compared, nor results that training returns elsewhere and that are narrower.

    Raises:
        Exception: whatever the slim module raises, which stands for itself: a second head that only training has.
    """
    try:
        expected = cut(_outputs(masked, whole, left_out))
    except Exception:
        return True
    try:
        if _agrees(module, masked, example, expected, left_out):
            return True
    except Exception:
        if _is_steady(masked, whole, cut, left_out, expected):
            raise
        return True
    return not _is_steady(masked, whole, cut, left_out, expected)


def same_on_less(
    module: nn.Module, masked: nn.Module, example: Example, left_out: Collection[OutputPath] = ()
) -> bool | None:
    """Whether `same_in_training` is true for inputs that are not the example; None where the dense one takes none such.

    False where the slim one raises.
    """
    try:
        expected = _outputs(masked, example, left_out)
    except Exception:
        return None
    try:
        same = _agrees(module, masked, example, expected, left_out)
    except Exception:
        return False
    return same or not _is_steady(masked, example, list, left_out, expected)


def _agrees(
    module: nn.Module,
    masked: nn.Module,
    example: Example,
    expected: list[torch.Tensor],
    left_out: Collection[OutputPath],
) -> bool:
    close = tolerance([*expected, *masked.parameters()], finest=torch.float32)
    found = _outputs(module, example, left_out)
    if left_out and len(found) == len(expected):
        pairs = [(a, b) for a, b in zip(expected, found, strict=True) if not _is_narrower(b, a)]
        if pairs:
            expected, found = [a for a, _b in pairs], [b for _a, b in pairs]
    return alike(expected, found, close)


def _is_narrower(slim: torch.Tensor, dense: torch.Tensor) -> bool:
    """Whether a result shows units that went: nothing but what was left out does, wherever training returns it."""
    same_rank = slim.dim() == dense.dim() and slim.shape != dense.shape
    return same_rank and all(a <= b for a, b in zip(slim.shape, dense.shape, strict=True))


def _is_steady(
    masked: nn.Module, whole: Example, cut: Cut, left_out: Collection[OutputPath], expected: list[torch.Tensor]
) -> bool:
    """Whether the dense model gives the same once more."""
    return alike(expected, cut(_outputs(masked, whole, left_out)), 0.0)


def _outputs(module: nn.Module, example: Example, left_out: Collection[OutputPath]) -> list[torch.Tensor]:
    args, kwargs = copied(example)
    with eval_mode(module), same_buffers(module), torch.no_grad(), _training(module), _NoDropout():
        return tensors_of(module(*args, **kwargs), left_out)


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """Modules in training mode, but for those that draw or follow the batch."""
    chosen = [part for part in module.modules() if not isinstance(part, (NormBase, DropoutNd))]
    for part in chosen:
        part.training = True
    try:
        yield
    finally:
        for part in chosen:
            part.training = False


class _NoDropout(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            args, kwargs = args[:4], {**kwargs, **dict(zip(("dropout_p", "is_causal"), args[4:6], strict=False))}
            kwargs["dropout_p"] = 0.0
        if func is F.multi_head_attention_forward:
            if len(args) > _TRAINING:
                args = (*args[:_TRAINING], False, *args[_TRAINING + 1 :])
            else:
                kwargs = {**kwargs, "training": False}
        return func(*args, **kwargs)
