"""``fold-batch-norm``: a batch norm goes into the weights of the layer in front of it."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.values import require_values
from atograph.passes.rules.table import arguments_of

aten = torch.ops.aten

_LAYERS = (
    aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding,
    aten.conv3d.padding, aten.linear.default,
)  # fmt: skip
_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)


@dataclass(frozen=True)
class FoldBatchNorm(RewritePass):
    """Fold each batch norm of fixed statistics into the convolution or linear layer whose value it alone reads, and
    whose weight nothing else reads.

    The new weight and bias are ``folded.weight`` and ``folded.bias`` beside those of the layer, computed in float64.
    The values are the same to rounding. Where a weight is computed, and not read as it is, layer and norm stay.
    """

    name = "fold-batch-norm"

    def rewrite(self, program: Program) -> Program:
        """The same program with fewer batch norms.

        Raises:
            UserError: the weights are on the meta device.
        """
        names = program.state_names()
        norms = [node for node in program.graph.nodes if _may_fold(node, names.keys())]
        reads = {norm.args[0]: _read(norm) for norm in norms}
        found = [norm for norm in norms if all(reads.get(user) == _read(norm) for user in _weight(norm).users)]
        if not found:
            return program
        require_values(program.state, "folding a batch norm needs values")
        graph, nodes = copy_graph(program.graph)
        state, made = dict(program.state), dict[Hashable, list[fx.Node]]()
        tensors = {placeholder: program.state[name] for placeholder, name in names.items()}
        for old in found:
            norm = nodes[old]
            layer: fx.Node = norm.args[0]  # type: ignore[assignment]
            if _read(old) not in made:
                owner = names[_weight(old).name].rpartition(".")[0]
                for name, value in zip(("weight", "bias"), _folded(norm, layer, tensors), strict=True):
                    node = program.new_parameter(graph, value, f"{owner}.folded.{name}".lstrip("."))
                    made.setdefault(_read(old), []).append(node)
                    state[node.name] = torch.nn.Parameter(value, requires_grad=tensors[_weight(old).name].requires_grad)
            layer.args = (layer.args[0], *made[_read(old)], *layer.args[3:])
            layer.kwargs = {name: value for name, value in layer.kwargs.items() if name not in ("weight", "bias")}
            norm.replace_all_uses_with(layer)
        drop_dead_code(graph, program)
        return program.rewritten(graph, state)


def _may_fold(norm: fx.Node, state: Container[str]) -> bool:
    """Whether a node is a batch norm that can go into what it reads."""
    if norm.target is not aten.batch_norm.default or arguments_of(norm)["training"]:
        return False
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or len(layer.users) != 1 or not _has_channels_at_1(layer):
        return False
    tensors = [each for each in _read(norm) if isinstance(each, fx.Node)]
    same_type = len({each.meta["val"].dtype for each in (norm, layer, *tensors)}) == 1
    has_mean = arguments_of(norm)["running_mean"] is not None
    return has_mean and same_type and all(each.name in state for each in tensors)


def _weight(norm: fx.Node) -> fx.Node:
    """The weight of the layer in front."""
    weight: fx.Node = arguments_of(norm.args[0])["weight"]  # type: ignore[arg-type]
    return weight


def _read(norm: fx.Node) -> tuple[object, ...]:
    """What a batch norm and the layer in front of it are made of."""
    given, layer = arguments_of(norm), arguments_of(norm.args[0])  # type: ignore[arg-type]
    names = ("weight", "bias", "running_mean", "running_var", "eps")
    return layer["weight"], layer["bias"], *(given[name] for name in names)


def _has_channels_at_1(layer: fx.Node) -> bool:
    """Whether what a layer makes, one unit each, stands along the dim that a batch norm goes by."""
    if layer.target not in (*_LAYERS, *_TRANSPOSED):
        return False
    given = arguments_of(layer)
    batched = layer.meta["val"].dim() == given["weight"].meta["val"].dim()
    return batched and (layer.target in _LAYERS or given["groups"] == 1)


def _folded(norm: fx.Node, layer: fx.Node, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and the bias of a layer that does what it and a batch norm do; of their type."""
    given, own = arguments_of(norm), arguments_of(layer)

    def value(node: fx.Node | None, default: float) -> Any:
        return default if node is None else tensors[node.name].detach().double()

    mean, variance = value(given["running_mean"], 0), value(given["running_var"], 1)
    scale = value(given["weight"], 1) / torch.sqrt(variance + given["eps"])
    bias = (value(own["bias"], 0) - mean) * scale + value(given["bias"], 0)
    dim = 1 if layer.target in _TRANSPOSED else 0
    weight = value(own["weight"], 1)
    weight = weight * scale.view([-1 if d == dim else 1 for d in range(weight.dim())])
    dtype = layer.meta["val"].dtype
    return weight.to(dtype), bias.to(dtype)
