"""The user's own `nn.Module` made slim: its parameters sliced, the widths that its leaf modules remember corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from atograph.copying import copy_of, eval_mode
from atograph.passes.program import Program
from atograph.passes.reason import module_of
from atograph.structures import tensors_of


class NotRepaired(Exception):
    """The module's own code keeps a width that slicing cannot reach; the text says where."""


def slim_module(model: nn.Module, slimmed: Program, reference: Callable[..., Any]) -> nn.Module:
    """A slim copy of the user's module.

    Args:
        model: the dense module; left as it is.
        slimmed: the slim program.
        reference: runs the slim program; the module is handed out only if it agrees with it.

    Raises:
        NotRepaired: the module does not run with its slim parameters, or does not agree with the program.
    """
    if any(tensor.is_meta for tensor in slimmed.state.values()):
        raise NotRepaired("the weights are on the meta device, so the module cannot be checked")
    replaced = {name: value for name, value in _named_state(model) if name in slimmed.state}
    module = copy_of(model, shared=replaced.values())
    _replace_state(module, slimmed)
    groups = {module_of(node): node for node in slimmed.graph.nodes if _is_grouped(node)}
    for name, part in module.named_modules():
        _correct_widths(part, groups.get(name))
    _check(module, slimmed, reference)
    return module


def _replace_state(module: nn.Module, slimmed: Program) -> None:
    """Put the slim tensors in, under every name that a tied tensor has."""
    names = {name: id(value) for name, value in _named_state(module)}
    replacement = {names[name]: value.detach().clone() for name, value in slimmed.state.items() if name in names}
    for name, identity in names.items():
        if identity not in replacement:
            continue
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        old, value = getattr(owner, leaf), replacement[identity]
        if isinstance(old, nn.Parameter):
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(value, requires_grad=old.requires_grad)
                replacement[identity] = value
            owner._parameters[leaf] = value
        elif leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            setattr(owner, leaf, value)


def _named_state(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _is_grouped(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(a.name in ("groups", "num_groups") for a in schema.arguments)


def _argument(node: fx.Node | None, name: str, default: int) -> int:
    if node is None:
        return default
    arguments = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    position = arguments.index(name)
    value = node.args[position] if position < len(node.args) else node.kwargs.get(name, 1)
    return int(value)  # type: ignore[arg-type]


def _correct_widths(part: nn.Module, node: fx.Node | None) -> None:
    """Set the integers in which torch's own layers repeat their parameters' sizes."""
    weight = getattr(part, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
    match part:
        case _ConvNd() if shape:
            part.groups = _argument(node, "groups", part.groups)
            first, second = (1, 0) if part.transposed else (0, 1)
            part.out_channels = shape[first] * (part.groups if part.transposed else 1)
            part.in_channels = shape[second] * (1 if part.transposed else part.groups)
        case nn.Linear() if shape:
            part.out_features, part.in_features = shape
        case _NormBase():
            stored = part.running_mean if part.running_mean is not None else weight
            if isinstance(stored, torch.Tensor):
                part.num_features = stored.shape[0]
        case nn.GroupNorm():
            part.num_groups = _argument(node, "num_groups", part.num_groups)
            part.num_channels = shape[0] if shape else part.num_channels
        case nn.LayerNorm() if shape:
            part.normalized_shape = shape
        case nn.Embedding() if shape:
            part.num_embeddings, part.embedding_dim = shape
        case nn.PReLU() if shape:
            part.num_parameters = shape[0]


def _check(module: nn.Module, slimmed: Program, reference: Callable[..., Any]) -> None:
    example = slimmed.interface.example
    if example is None:
        raise NotRepaired("there are no example inputs to check the module with")
    args, kwargs = example
    with eval_mode(module), torch.no_grad():
        try:
            found = tensors_of(module(*args, **kwargs))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise NotRepaired(f"its forward keeps an old width: {type(error).__name__}: {first}") from error
        expected = tensors_of(reference(*args, **kwargs))
    tolerance = 1e-4 if any(value.dtype != torch.float64 for value in expected) else 1e-9
    for a, b in zip(expected, found, strict=False):
        if a.shape != b.shape or relative_difference(a, b) > tolerance:
            raise NotRepaired("with its parameters sliced, the module's forward does not compute what the program does")


def relative_difference(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value; infinite where one is not finite."""
    if reference.numel() == 0:
        return 0.0
    reference, other = reference.detach().double(), other.detach().double()
    if not bool(torch.isfinite(other).all()) or not bool(torch.isfinite(reference).all()):
        return 0.0 if torch.equal(reference, other) else float("inf")
    scale = float(reference.abs().max())
    difference = float((reference - other).abs().max())
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))
