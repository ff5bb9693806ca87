"""Norms and soft maxima."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row


@row("BatchNormalization", weights=(1, 2), buffers=(3, 4))
def batch_norm(op: Op, x: Tensor, scale: Value, bias: Value, mean: Value, var: Value) -> Tensor:
    """By the statistics in the file."""
    if op.attribute("training_mode", 0):
        raise op.refuse("it is in training mode", "Export the model in eval mode.")
    scale, bias, mean, var = (op.tensor(value, x) for value in (scale, bias, mean, var))
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, op.attribute("epsilon", 1e-5))


@row("InstanceNormalization", weights=(1, 2))
def instance_norm(op: Op, x: Tensor, scale: Value, bias: Value) -> Tensor:
    """Each channel of each sample by its own statistics."""
    weight, shift, eps = op.tensor(scale, x), op.tensor(bias, x), op.attribute("epsilon", 1e-5)
    return torch.instance_norm(x, weight, shift, None, None, True, 0.0, eps, False)  # F's refuses a single element


@row("GroupNormalization", weights=(1, 2))
def group_norm(op: Op, x: Tensor, scale: Value, bias: Value) -> Tensor:
    """Groups of channels; before opset 21 with a scale for each group."""
    groups, weight, shift = op.attributes["num_groups"], op.tensor(scale, x), op.tensor(bias, x)
    if op.opset < 21:
        weight, shift = (value.repeat_interleave(x.shape[1] // groups) for value in (weight, shift))
    return F.group_norm(x, groups, weight, shift, op.attribute("epsilon", 1e-5))


@row("LayerNormalization", weights=(1, 2))
def layer_norm(op: Op, x: Tensor, scale: Value, bias: Value = None) -> Tensor:
    """Over the last dims."""
    if any(op.outputs[1:]):
        raise op.refuse("it gives its mean and deviation")
    axis = op.attribute("axis", -1) % x.dim()
    weight = op.tensor(scale, x)
    shift = None if bias is None else op.tensor(bias, x)
    return F.layer_norm(
        x, tuple(weight.shape[weight.dim() - (x.dim() - axis) :]), weight, shift, op.attribute("epsilon", 1e-5)
    )


@row("RMSNormalization", weights=(1,))
@row("SimplifiedLayerNormalization", weights=(1,))
@row("SimplifiedLayerNormalization", domain="com.microsoft", weights=(1,))
def rms_norm(op: Op, x: Tensor, scale: Value) -> Tensor:
    """By the root mean square over the last dims."""
    weight, axis = op.tensor(scale, x), op.attribute("axis", -1) % x.dim()
    return F.rms_norm(x, tuple(weight.shape[weight.dim() - (x.dim() - axis) :]), weight, op.attribute("epsilon", 1e-5))


@row("LRN")
def local_response_norm(op: Op, x: Tensor) -> Tensor:
    """By the channels around each."""
    size, alpha, beta, bias = (
        op.attribute(n, d) for n, d in (("size", 1), ("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    if size % 2 == 0:
        raise op.refuse("its window has an even length")
    return F.local_response_norm(x, size, alpha, beta, bias)


@row("LpNormalization")
def lp_norm(op: Op, x: Tensor) -> Tensor:
    """By a norm along an axis."""
    made: Tensor = x / x.norm(op.attribute("p", 2), op.attribute("axis", -1), keepdim=True)
    return made


@row("MeanVarianceNormalization")
def mean_variance_norm(op: Op, x: Tensor) -> Tensor:
    """By mean and deviation over axes."""
    axes = op.attribute("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@row("Softmax", "LogSoftmax")
def softmax(op: Op, x: Tensor) -> Tensor:
    """Along an axis; before opset 13 over all dims from it on."""
    function = torch.softmax if op.kind == "Softmax" else torch.log_softmax
    axis = op.attribute("axis", 1 if op.opset < 13 else -1) % max(x.dim(), 1)
    if op.opset >= 13 or axis == x.dim() - 1 or all(size == 1 for size in x.shape[axis + 1 :]):
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


@row("Hardmax")
def hardmax(op: Op, x: Tensor) -> Tensor:
    """One at the largest along an axis, and zero elsewhere."""
    axis = op.attribute("axis", 1 if op.opset < 13 else -1) % x.dim()
    if op.opset < 13 and axis != x.dim() - 1:
        raise op.refuse("it works over several dims, as before opset 13")
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)
