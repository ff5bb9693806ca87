"""``recompose``: core ATen ops become the ops that modules call."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.patterns.gelu import WRITTEN_OUT
from atograph.passes.patterns.replace import PatternPass, Replacement

aten = torch.ops.aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_TRANSPOSED = (aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)


def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int,
) -> Any:  # fmt: skip
    rank = len(weight.shape) - 3
    if transposed:
        return _TRANSPOSED[rank](x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONVOLUTIONS[rank](x, weight, bias, stride, padding, dilation, groups)


def _instance_norm(x: Any, weight: Any, bias: Any, momentum: Any, eps: Any) -> Any:
    return aten.instance_norm(x, weight, bias, None, None, True, momentum, eps, False)


def _no_instances(x: fx.Node, shape: Sequence[Argument], weight: fx.Node | None = None) -> str | None:
    """Why what is normed is not each channel of each sample."""
    sizes = x.meta["val"].shape
    first, _channels, *others = (each.meta["val"] if isinstance(each, fx.Node) else each for each in shape)
    if first != 1 or others != list(sizes[2:]) or (weight is not None and weight.meta["val"].shape != sizes[1:2]):
        return "samples and channels are not made one dim"
    return None


def _of_other_sizes(x: fx.Node, n: Argument, c: Argument, hw: Argument) -> str | None:
    """Why a group norm is not over the channels of its input."""
    sizes = x.meta["val"].shape
    told = [each.meta["val"] if isinstance(each, fx.Node) else each for each in (n, c, hw)]
    own = [sizes[0], sizes[1], prod(sizes[2:])]
    return None if told == own else f"it is told the sizes {told}, and its input has {own}"


def _another_view(x: fx.Node, size: Sequence[Argument], stride: Sequence[Argument]) -> str | None:
    """Why a view by strides is not the tensor itself."""
    value = x.meta["val"]
    sizes, strides = ([each.meta["val"] if isinstance(each, fx.Node) else each for each in s] for s in (size, stride))
    same = len(sizes) == value.dim() and all(
        a == b and (a == 1 or step == own)
        for a, b, step, own in zip(sizes, value.shape, strides, value.stride(), strict=True)
    )
    return None if same else "it is another view of the memory"


class Recompose(PatternPass):
    """Replace what ``run_decompositions()`` makes of convolutions, linear layers and norms by the ops that were there
    before: the same values to rounding, and the groups of the module. GELUs that a model writes out become one op.
    Attention stays written out, with the same groups as well.
    """

    name = "recompose"
    replacements = (
        Replacement(
            lambda x, weight, bias, stride, padding, dilation, transposed, output_padding, groups: aten.convolution(
                x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
            ),
            _convolution,
        ),
        Replacement(
            lambda x, rows, weight, bias, shape: aten.view(
                aten.addmm(bias, aten.view(x, rows), aten.permute(weight, [1, 0])), shape
            ),
            lambda x, weight, bias: aten.linear(x, weight, bias),
        ),
        Replacement(
            lambda x, rows, weight, shape: aten.view(aten.mm(aten.view(x, rows), aten.permute(weight, [1, 0])), shape),
            lambda x, weight: aten.linear(x, weight),
        ),
        Replacement(
            lambda x, weight, bias: aten.addmm(bias, x, aten.permute(weight, [1, 0])),
            lambda x, weight, bias: aten.linear(x, weight, bias),
        ),
        Replacement(
            lambda x, weight: aten.mm(x, aten.permute(weight, [1, 0])),
            lambda x, weight: aten.linear(x, weight),
        ),
        Replacement(
            lambda x, shape, weight, bias, eps: aten.native_layer_norm(x, shape, weight, bias, eps)[0],
            lambda x, shape, weight, bias, eps: aten.layer_norm(x, shape, weight, bias, eps),
        ),
        Replacement(
            lambda x, weight, bias, n, c, hw, groups, eps: aten.native_group_norm(
                x, weight, bias, n, c, hw, groups, eps
            )[0],
            lambda x, weight, bias, groups, eps: aten.group_norm(x, groups, weight, bias, eps),
            _of_other_sizes,
        ),
        Replacement(
            lambda x, weight, bias, mean, var, momentum, eps: aten._native_batch_norm_legit_no_training(
                x, weight, bias, mean, var, momentum, eps
            )[0],
            lambda x, weight, bias, mean, var, momentum, eps: aten.batch_norm(
                x, weight, bias, mean, var, False, momentum, eps, False
            ),
        ),
        Replacement(
            lambda x, shape, weight, bias, times, momentum, eps, back: aten.view(
                aten._native_batch_norm_legit(
                    aten.view(x, shape), aten.repeat(weight, times), aten.repeat(bias, times), True, momentum, eps
                )[0],
                back,
            ),
            _instance_norm,
            _no_instances,
        ),
        Replacement(
            lambda x, shape, momentum, eps, back: aten.view(
                aten._native_batch_norm_legit(aten.view(x, shape), None, None, True, momentum, eps)[0], back
            ),
            lambda x, momentum, eps: _instance_norm(x, None, None, momentum, eps),
            _no_instances,
        ),
        Replacement(lambda x, size, stride: aten.as_strided(x, size, stride), lambda x: x, _another_view),
        Replacement(
            lambda x, dim: aten._log_softmax(x, dim, False),
            lambda x, dim: aten.log_softmax(x, dim),
        ),
        *WRITTEN_OUT,
    )
