"""What stands in the place of a layer whose branch is gone: it gives a constant, and holds no weights but that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import nn

Sizes = tuple[int, ...]


class Spatial(NamedTuple):
    """What a convolution does to sizes, dimension by dimension.

    Attributes:
        kernel, stride, dilation: of its windows.
        padding: on each side; None: as much as it takes for a window at each stride.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes | None
    dilation: Sizes

    def after(self, place: int, size: int) -> int:
        """What becomes of a size in one of the dimensions."""
        if self.padding is None:
            return -(-size // self.stride[place])
        covered = self.dilation[place] * (self.kernel[place] - 1) + 1
        return (size + 2 * self.padding[place] - covered) // self.stride[place] + 1


class Left(nn.Module):
    """What is left of a layer: its bias, or zeros.

    Args:
        like: of its type, and on its device.
        dim: of its output the dimension whose size is not that of the input, or along which the bias lies.
        size: of the output there.
        bias: if there is one, ``[size]``.
        spatial: what a convolution does to the dimensions after it.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        like: torch.Tensor,
        dim: int,
        size: int,
        bias: nn.Parameter | None = None,
        spatial: Spatial | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.size, self.spatial = dim, size, spatial
        self.register_parameter("bias", bias)
        self._empty = like.new_empty(0)

    def forward(self, x: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
        """The same for each input of one shape."""
        shape = list(x.shape)
        shape[self.dim] = self.size
        if self.spatial is not None:
            for place, d in enumerate(range(self.dim + 1, 0)):
                shape[d] = self.spatial.after(place, shape[d])
        if self.bias is None:
            return x.new_zeros(shape)
        along = [self.size if d == self.dim % len(shape) else 1 for d in range(len(shape))]
        return (
            self.bias.view(along).expand(shape).clone(memory_format=torch.contiguous_format)
        )  # code may write into it

    @property
    def weight(self) -> torch.Tensor:
        """Nothing; code asks for its type."""
        return self._empty

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self._empty = fn(self._empty)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Its size, and whether it is a bias."""
        return f"{self.size}, bias={self.bias is not None}"


class Fixed(nn.Module):
    """In the place of a layer without inputs (a table of relative positions) whose output nothing comes of: zeros.

    Args:
        zeros: of the shape of its output.
    """

    def __init__(self, zeros: torch.Tensor) -> None:
        super().__init__()
        self.zeros = zeros

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self.zeros = fn(self.zeros)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, *_args: object, **_kwargs: object) -> torch.Tensor:
        """Always the same."""
        return self.zeros


class LeftStates(nn.Module):
    """In the place of a recurrent layer: zeros, as its output and as its last states.

    Args:
        layer: with the units that are left of it.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        directions = 2 if layer.bidirectional else 1
        self.hidden_size, self.batch_first = layer.hidden_size, layer.batch_first
        self.states, self.width = layer.num_layers * directions, layer.hidden_size * directions
        self.pair = layer.mode == "LSTM"

    def flatten_parameters(self) -> None:
        """There are none."""

    def forward(
        self, x: torch.Tensor, *_states: object
    ) -> tuple[torch.Tensor, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """The same for each input of one shape."""
        batch = x.shape[0 if self.batch_first else 1 : 1 if self.batch_first else 2] if x.dim() == 3 else ()
        state = x.new_zeros(self.states, *batch, self.hidden_size)
        return x.new_zeros(*x.shape[:-1], self.width), (state, state) if self.pair else state


class Untrained(nn.Module):
    """Moves plain tensors of another layer along with it: what its code still reads, though nothing comes of it.

    Args:
        layer: whose attributes they are.
        names: of them.
    """

    def __init__(self, layer: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self._layer, self.names = (layer,), names  # in a tuple: no part of this one

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        (layer,) = self._layer
        for name in self.names:
            setattr(layer, name, fn(getattr(layer, name)))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class Through(nn.Module):
    """In the place of a layer whose output nothing comes of: it gives its input."""

    def forward(self, x: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
        """The input."""
        return x
