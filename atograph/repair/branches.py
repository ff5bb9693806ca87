"""Layers of a slim module whose branches are gone: each gives a constant, and holds no weights but that.

The module was made slim with one unit, at zero, of each group that has none left, so that its code runs as ever. Here
the layers are exchanged that only serve this unit: they give zeros, or their bias, in the shape that they had. Where
such a unit stands beside others in a layer that stays (`cat`), they give nothing, and that layer is cut; or, where the
code between them knows no size of zero, it runs with this unit at zero (`padded`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Axis, axes_of
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import module_of
from atograph.passes.torch_private import ConvNd
from atograph.repair.left import Fixed, Left, LeftStates, Spatial, Through, Untrained
from atograph.repair.padded import Paddings, pad
from atograph.repair.tensors import correct_widths, named_state, replace_state
from atograph.values.eval_mode import eval_mode, same_buffers


def take_out_branches(
    module: nn.Module, dense: Program, slimmed: Program, emptied: Collection[Axis], paddings: Paddings | None = None
) -> tuple[list[str], list[str]]:
    """Exchange the layers that hold weights which the slim program has not.

    Args:
        module: slim but for one unit of each group that has none left; it is changed.
        dense: the program that was captured from the dense module.
        slimmed: the slim program.
        emptied: the axes without units.
        paddings: for layers that stay, to run with these units at zero; None: they run without them.

    Returns:
        In words, what was exchanged; and the names of weights that are still there.
    """
    branches = dense.fact(Groups).branches
    rest = branches.without(emptied)
    beside = beside_others(module, dense, slimmed, emptied) if paddings is None else set[Axis]()
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
    if paddings is not None:
        own = {id(tensor): paddings[name] for name, tensor in _others(module, slimmed)}
        padded = {name: own[id(tensor)] for name, tensor in named_state(module) if id(tensor) in own}
        replace_state(module, slimmed)
        words += pad(module, padded)
    return words, [*_left_over(module, dense, slimmed), *(name for name, _tensor in _others(module, slimmed))]


def _make_plain(layer: nn.Module, path: str, names: Collection[str]) -> None:
    """Make plain tensors of those parameters of a layer that are among some names."""
    own = tuple(name for name in layer._parameters if (f"{path}.{name}" if path else name) in names)
    for name in own:
        value = layer._parameters.pop(name)
        assert value is not None
        setattr(layer, name, value.detach().clone())
    layer.add_module("_untrained", Untrained(layer, own))


def _others(module: nn.Module, slimmed: Program) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a module whose shape is not that of the slim program's."""
    state = slimmed.state
    return [(name, value) for name, value in named_state(module) if name in state and state[name].shape != value.shape]


def beside_others(module: nn.Module, dense: Program, slimmed: Program, emptied: Collection[Axis]) -> set[Axis]:
    """Of some axes those whose one unit that is left stands beside others in a layer that stays."""
    wider, axes = {name for name, _tensor in _others(module, slimmed)}, dense.fact(Groups).axes
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
        spatial = _spatial_of(layer, output.new_zeros(before))
        dim = -len(layer.kernel_size) - 1
        return None if spatial is None else Left(output, dim, after[dim], bias, spatial)
    mixes = any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))  # it is no norm
    if before == after and bias is None and not mixes:
        return Through()
    if before[:-1] == after[:-1]:
        return Left(output, -1, after[-1], bias)
    return None


def _spatial_of(layer: ConvNd, given: torch.Tensor) -> Spatial | None:
    """What a convolution, whose class may pad by itself, does to the sizes of what it is given; None if not known."""
    if layer.transposed:
        return None
    dims = len(layer.kernel_size)
    each = [
        Spatial(layer.kernel_size, layer.stride, padding, layer.dilation)
        for padding in (layer.padding, None)
        if not isinstance(padding, str)
    ]
    for more in range(max(layer.stride)):  # after that it is the same again
        larger = nn.functional.pad(given, [0, more] * dims)
        with torch.no_grad():
            after = layer(larger).shape[-dims:]
        each = [one for one in each if tuple(map(one.after, range(dims), larger.shape[-dims:])) == after]
    return next(iter(each), None)
