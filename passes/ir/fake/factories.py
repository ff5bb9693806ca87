"""Ops that take a size as a plain number, of which torch.export makes a constant: what gives the same for any size.

Each function takes what its op takes, and gives the same but for rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, fx

from atograph.passes.torch_private import OpOverload, pytree

_ATEN = torch.ops.aten
_WIDE = (torch.float32, torch.float64)


def _linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_options: object,
) -> Tensor:
    index, last = _counted(steps, dtype, device)
    step = (end - start) / last.clamp(min=1)
    made = torch.where(2 * index <= last, start + index * step, end - (last - index) * step)
    return _of(made, dtype)


def _logspace(start: float, end: float, steps: int, base: float = 10.0, **options: Any) -> Tensor:
    return torch.pow(base, _linspace(start, end, steps, **options))


def _window(
    terms: Sequence[float],
    length: int,
    periodic: bool = True,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_options: object,
) -> Tensor:
    """A sum of cosines, whose first term is constant; a window of one place is 1."""
    index, last = _counted(length, dtype, device)
    turn = index * (2 * math.pi) / (last + 1 if periodic else last.clamp(min=1))
    waves = [(-1) ** order * term * torch.cos(order * turn) for order, term in enumerate(terms)]
    return _of(torch.where(last == 0, torch.ones_like(index), sum(waves[1:], waves[0])), dtype)


def _fftfreq(
    n: int,
    d: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_options: object,
) -> Tensor:
    index, last = _counted(n, dtype, device)
    return _of(torch.where(2 * index <= last, index, index - last - 1) / ((last + 1) * d), dtype)


def _rfftfreq(
    n: int,
    d: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_options: object,
) -> Tensor:
    index, _last = _counted(n // 2 + 1, dtype, device)
    return _of(index / (n * d), dtype)


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Where each place of an image comes from: the last size of an image is the first coordinate."""
    _batch, _channels, *image = size
    lines = []
    for dim, length in enumerate(image):
        index, last = _counted(length, theta.dtype, theta.device)
        line = (2 * index - last) / (last.clamp(min=1) if align_corners else last + 1)
        lines.append(line.reshape([-1 if other == dim else 1 for other in range(len(image))]).expand(image))
    places = torch.stack([*lines[::-1], torch.ones_like(lines[0])], -1).flatten(0, -2)
    moved = places @ theta.transpose(1, 2)
    return moved.reshape([moved.shape[0], *image, len(image)])


def _of(made: Tensor, dtype: torch.dtype | None) -> Tensor:
    return made.to(dtype or torch.get_default_dtype())


def _counted(count: int, dtype: torch.dtype | None, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """0, 1, 2, ... and the last of them, as a tensor of one number."""
    kind = dtype or torch.get_default_dtype()
    index = torch.arange(count, dtype=kind if kind in _WIDE else torch.float32, device=device)
    return index, index[-1:]


def _adaptive_average(x: Tensor, output_size: Sequence[int]) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(x.unsqueeze(-2), (1, output_size[0])).squeeze(-2)


def _adaptive_largest(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, None]:
    """Windows differ in length by one or two: shorter ones hold their last place several times."""
    for dim, size in enumerate(output_size, x.dim() - len(output_size)):
        whole = x.shape[dim]
        index = torch.arange(size, device=x.device).unsqueeze(1)
        start = torch.div(index * whole, size, rounding_mode="floor")
        end = torch.div((index + 1) * whole + size - 1, size, rounding_mode="floor")
        longest = (whole + size - 1) // size + 1
        places = torch.minimum(start + torch.arange(longest, device=x.device), end - 1)
        shape = list(x.shape)
        x = x.index_select(dim, places.flatten()).reshape([*shape[:dim], size, longest, *shape[dim + 1 :]])
        x = x.amax(dim + 1)
    return x, None


def _over_the_whole(
    of: Callable[..., Tensor], x: Tensor, kernel: Sequence[object], *options: object, **named: object
) -> Any:
    """A pool whose window is as large as the image: one place is left of each dim, whatever the stride is."""
    dims = list(range(-len(kernel), 0))
    plain = all(option in ([], [0] * len(kernel), list(kernel), False, True, None) for option in options[:2])
    if named or len(options) > 3 or not plain or [x.shape[dim] for dim in dims] != list(kernel):
        return NotImplemented
    return of(x, dims, keepdim=True)


def _one_hot(x: Tensor, classes: int) -> Tensor:
    return (x.unsqueeze(-1) == torch.arange(classes, device=x.device)).to(torch.int64)


_HANN, _HAMMING, _BLACKMAN = (0.5, 0.5), (0.54, 0.46), (0.42, 0.5, 0.08)

OF_ANY_LENGTH: Mapping[OpOverload, Callable[..., object]] = {
    _ATEN.linspace.default: _linspace,
    _ATEN.logspace.default: _logspace,
    _ATEN.affine_grid_generator.default: _affine_grid,
    _ATEN.fft_fftfreq.default: _fftfreq,
    _ATEN.fft_rfftfreq.default: _rfftfreq,
    **dict.fromkeys((_ATEN.hann_window.default, _ATEN.hann_window.periodic), partial(_window, _HANN)),
    **dict.fromkeys((_ATEN.hamming_window.default, _ATEN.hamming_window.periodic), partial(_window, _HAMMING)),
    **dict.fromkeys((_ATEN.blackman_window.default, _ATEN.blackman_window.periodic), partial(_window, _BLACKMAN)),
    _ATEN.adaptive_avg_pool1d.default: _adaptive_average,
    **dict.fromkeys((_ATEN.adaptive_max_pool1d.default, _ATEN.adaptive_max_pool2d.default), _adaptive_largest),
    **dict.fromkeys((_ATEN.avg_pool1d.default, _ATEN.avg_pool2d.default), partial(_over_the_whole, torch.mean)),
    **dict.fromkeys((_ATEN.max_pool1d.default, _ATEN.max_pool2d.default), partial(_over_the_whole, torch.amax)),
    _ATEN.one_hot.default: _one_hot,
}
"""Op → what gives the same for any size, in floating-point numbers; NotImplemented where it does not."""


def traced(node: fx.Node, args: tuple[object, ...], kwargs: Mapping[str, Any]) -> object:
    """What an op gives while torch.export traces; NotImplemented: it is to be called itself.

    Args:
        node: of the op.
        args, kwargs: its arguments, with symbols for dynamic sizes.

    Raises:
        Specialised: torch.export would make a constant of one, and there is no other form.
    """
    if not isinstance(node.target, OpOverload):
        return NotImplemented
    of_sizes = [name for name, value in _named(node.target, args, kwargs) if _is_symbolic(value)]
    takes_symbols = _plain_numbers(node.target).isdisjoint(of_sizes)
    form, dtype = OF_ANY_LENGTH.get(node.target) if of_sizes else None, kwargs.get("dtype")
    floating = dtype is None or dtype.is_floating_point
    places_read = any(user.args[1] == 1 and user.users for user in node.users if len(user.args) == 2)
    result: object = NotImplemented
    if form is not None and floating and not (form is _adaptive_largest and places_read):
        result = form(*args, **kwargs)
    if result is NotImplemented and not takes_symbols:
        raise Specialised(node)
    return result


class Specialised(Exception):
    """Torch takes a size as a plain number here, so that what torch.export writes is right for the example only."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(str(node.target))
        self.node = node


@cache
def _plain_numbers(op: OpOverload) -> frozenset[str]:
    """The arguments of an op that are integers, and may be no symbols."""
    return frozenset(re.findall(r"\bint(?:\[\d*\])?\??(?:\[\d*\])? (\w+)", str(op._schema)))


def _named(op: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> list[tuple[str, object]]:
    return [*zip((argument.name for argument in op._schema.arguments), args, strict=False), *kwargs.items()]


def _is_symbolic(value: object) -> bool:
    return any(isinstance(leaf, torch.SymInt) for leaf in pytree.tree_leaves(value))
