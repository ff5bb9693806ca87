"""Layers of a slim module whose branches are gone: each gives a constant, and holds no weights but that.

The module was made slim with one unit, at zero, of each group that has none left, so that its code runs as ever. Here
the layers are exchanged that only serve this unit: they give zeros, or their bias, in the shape that they had. Where
such a unit stands beside others in a layer that stays (`cat`), they give nothing, and that layer is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Self

import torch
from torch import nn

from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Axis, axes_of
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import module_of
from atograph.passes.torch_private import ConvNd
from atograph.repair.tensors import correct_widths, named_state, replace_state
from atograph.values.eval_mode import eval_mode, same_buffers

Sizes = tuple[int, ...]


class Left(nn.Module):
    """What is left of a layer: its bias, or zeros.

    Args:
        like: of its type, and on its device.
        dim: of its output the dimension whose size is not that of the input, or along which the bias lies.
        size: of the output there.
        bias: if there is one, ``[size]``.
        spatial: kernel size, stride, padding and dilation of a convolution, dimension by dimension.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        like: torch.Tensor,
        dim: int,
        size: int,
        bias: nn.Parameter | None = None,
        spatial: tuple[Sizes, ...] | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.size, self.spatial = dim, size, spatial
        self.register_parameter("bias", bias)
        self._empty = like.new_empty(0)

    def forward(self, x: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
        """The same for each input of one shape."""
        shape = list(x.shape)
        shape[self.dim] = self.size
        for place, (kernel, stride, padding, dilation) in enumerate(zip(*(self.spatial or ()), strict=True)):
            d = self.dim + 1 + place
            shape[d] = (shape[d] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
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


def take_out_branches(
    module: nn.Module, dense: Program, slimmed: Program, emptied: Collection[Axis]
) -> tuple[list[str], list[str]]:
    """Exchange the layers that hold weights which the slim program has not.

    Args:
        module: slim but for one unit of each group that has none left; it is changed.
        dense: the program that was captured from the dense module.
        slimmed: the slim program.
        emptied: the axes without units.

    Returns:
        In words, what was exchanged; and the names of weights that are still there.
    """
    branches = dense.fact(Groups).branches
    rest, beside = branches.without(emptied), _beside_others(module, dense, slimmed, emptied)
    held = slimmed.state.keys()
    layers = {name: module.get_submodule(name) for name in _holding(module, dense, slimmed)}
    shapes = _shapes(module, layers, slimmed.interface.example)
    words = []
    for name, layer in layers.items():
        nodes = [node for node in dense.graph.nodes if node.op == "call_function" and module_of(node) == name]
        if not nodes or any(rest.computes(node) and node not in rest.fixed for node in nodes):
            continue
        left: nn.Module | None = None
        if any(True for child in layer.children() for _ in child.parameters()):
            continue  # its code calls them
        if isinstance(layer, nn.RNNBase) and not layer.proj_size:
            left = LeftStates(layer)
        elif name in shapes:
            bias = layer._parameters.get("bias") if f"{name}.bias" in held else None
            left = _left_of(layer, *shapes[name], bias=bias)
        dims = [dim for node in nodes for shape in branches.axes.shapes[node] for dim in shape]
        if isinstance(left, Left) and left.bias is None and any(branches.vanishes(dim, beside) for dim in dims):
            left.size = 0
        if left is not None:
            left.train(layer.training)
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, left)
            words.append(f"{name}: {type(layer).__name__} → {left}")
    words += [f"{name}: no parameter" for name in _left_over(module, dense, slimmed)]
    for name in _holding(module, dense, slimmed):
        _make_plain(module.get_submodule(name), name, _left_over(module, dense, slimmed))
    if beside:
        replace_state(module, slimmed)
        for part in module.modules():
            correct_widths(part)
    return words, [*_left_over(module, dense, slimmed), *_other_shapes(module, slimmed)]


def _make_plain(layer: nn.Module, path: str, names: Collection[str]) -> None:
    """Make plain tensors of those parameters of a layer that are among some names."""
    own = tuple(name for name in layer._parameters if (f"{path}.{name}" if path else name) in names)
    for name in own:
        value = layer._parameters.pop(name)
        assert value is not None
        setattr(layer, name, value.detach().clone())
    layer.add_module("_untrained", Untrained(layer, own))


def _other_shapes(module: nn.Module, slimmed: Program) -> list[str]:
    """The tensors of a module whose shape is not that of the slim program's."""
    state = slimmed.state
    return [name for name, value in named_state(module) if name in state and state[name].shape != value.shape]


def _beside_others(module: nn.Module, dense: Program, slimmed: Program, emptied: Collection[Axis]) -> set[Axis]:
    """Of some axes those whose one unit that is left stands beside others in a layer that stays."""
    wider, axes = set(_other_shapes(module, slimmed)), dense.fact(Groups).axes
    held = {
        axis
        for node, name in dense.state_nodes()
        if name in wider
        for dim in axes.shape(node)
        for axis in axes_of(dim)
    }  # fmt: skip
    return held & set(emptied)


def _left_over(module: nn.Module, dense: Program, slimmed: Program) -> list[str]:
    """The parameters of a module that went with a branch of its program."""
    named = list(module.named_parameters(remove_duplicate=False))
    kept = {id(value) for name, value in named if name in slimmed.state}
    return [name for name, value in named if name in dense.state and id(value) not in kept]


def _holding(module: nn.Module, dense: Program, slimmed: Program) -> list[str]:
    """The parts that hold such parameters."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in _left_over(module, dense, slimmed)))


def _shapes(
    module: nn.Module, layers: Mapping[str, nn.Module], example: Example | None
) -> dict[str, tuple[torch.Size | None, torch.Tensor]]:
    """Of layers that give one tensor, what they give in one call, and the shape of the one that they take, if any."""
    assert example is not None
    shapes: dict[str, tuple[torch.Size | None, torch.Tensor]] = {}

    def seen(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_layer: nn.Module, args: tuple[object, ...], output: object) -> None:
            given = args[0].shape if args and isinstance(args[0], torch.Tensor) else None
            if isinstance(output, torch.Tensor):
                shapes[name] = (given, output)

        return hook

    handles = [layer.register_forward_hook(seen(name)) for name, layer in layers.items()]
    try:
        with eval_mode(module), same_buffers(module), torch.no_grad():
            module(*example[0], **example[1])
            return dict(shapes)  # afterwards all that hooks hold is as it was
    finally:
        for handle in handles:
            handle.remove()


def _left_of(
    layer: nn.Module, before: torch.Size | None, output: torch.Tensor, bias: nn.Parameter | None
) -> nn.Module | None:
    """What stands in a layer's place; None where that is not known."""
    after = output.shape
    if before is None:
        return Fixed(torch.zeros_like(output))
    if isinstance(layer, ConvNd):
        if layer.transposed or isinstance(layer.padding, str):
            return None
        dim = -len(layer.kernel_size) - 1
        return Left(output, dim, after[dim], bias, (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
    mixes = any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))  # it is no norm
    if before == after and bias is None and not mixes:
        return Through()
    if before[:-1] == after[:-1]:
        return Left(output, -1, after[-1], bias)
    return None
