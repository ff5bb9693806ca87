"""Elementwise ops: arithmetic, comparisons, activations, casts, choices."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx import known as host
from atograph.from_onnx.known import Known
from atograph.from_onnx.op import Op, all_known
from atograph.from_onnx.table import Value, row


def _operands(op: Op, one: Value, other: Value) -> tuple[Any, Any]:
    if isinstance(one, Tensor):
        return one, op.operand(other, one)
    like = op.tensor(other)
    return op.operand(one, like), like


def _divided(one: Any, other: Any) -> Tensor:
    tensor = one if isinstance(one, Tensor) else other
    if tensor.is_floating_point():
        return one / other  # type: ignore[no-any-return]
    return torch.div(torch.as_tensor(one), other, rounding_mode="trunc")


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": _divided, "Pow": operator.pow,
    "Equal": operator.eq, "Less": operator.lt, "LessOrEqual": operator.le, "Greater": operator.gt,
    "GreaterOrEqual": operator.ge, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": operator.and_, "BitwiseOr": operator.or_, "BitwiseXor": operator.xor,
}  # fmt: skip


@row(*BINARY)
def binary(op: Op, one: Value, other: Value) -> Value:
    """Two operands; numbers stay numbers."""
    if all_known(one, other) and op.kind in host.ELEMENTWISE:
        return host.elementwise(op.kind, one, other)
    if op.attribute("broadcast") and op.attribute("axis") is not None:
        raise op.refuse("it broadcasts along an axis, as opsets before 7 do")
    left, right = _operands(op, one, other)
    made = BINARY[op.kind](left, right)
    return made.to(left.dtype) if op.kind == "Pow" and isinstance(left, Tensor) and made.dtype != left.dtype else made


@row("Mod")
def mod(op: Op, one: Value, other: Value) -> Value:
    """The remainder, of the sign of the divisor; with ``fmod`` of the dividend."""
    if all_known(one, other):
        return host.elementwise("Mod", one, other)
    left, right = _operands(op, one, other)
    return torch.fmod(op.tensor(left), right) if op.attribute("fmod") else torch.remainder(left, right)


_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add, "Mean": torch.add,
}  # fmt: skip


@row(*_TWO)
def several(op: Op, *values: Value) -> Value:
    """Any number of operands."""
    if all_known(*values) and op.kind in host.ELEMENTWISE:
        return host.elementwise(op.kind, *values)
    like = next((value for value in values if isinstance(value, Tensor)), None)
    total = reduce(_TWO[op.kind], [op.tensor(value, like) for value in values])
    return total / len(values) if op.kind == "Mean" else total


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Exp": torch.exp, "Log": torch.log,
    "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Neg": torch.neg, "Abs": torch.abs, "Floor": torch.floor,
    "Ceil": torch.ceil, "Round": torch.round, "Sign": torch.sign, "Erf": torch.erf, "Sin": torch.sin,
    "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan,
    "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh,
    "Not": torch.logical_not, "IsNaN": torch.isnan, "Softplus": F.softplus, "Softsign": F.softsign,
    "Mish": F.mish, "HardSwish": F.hardswish, "BitwiseNot": torch.bitwise_not,
}  # fmt: skip


@row(*UNARY)
def unary(op: Op, value: Value) -> Value:
    """One operand; numbers stay numbers."""
    if all_known(value) and op.kind in host.ELEMENTWISE:
        return host.elementwise(op.kind, value)
    tensor = op.tensor(value)
    return (
        tensor if op.kind in ("Floor", "Ceil", "Round") and not tensor.is_floating_point() else UNARY[op.kind](tensor)
    )


@row("LeakyRelu")
def leaky_relu(op: Op, x: Tensor) -> Tensor:
    """A slope below zero."""
    return F.leaky_relu(x, op.attribute("alpha", 0.01))


@row("Elu")
def elu(op: Op, x: Tensor) -> Tensor:
    """An exponential below zero."""
    return F.elu(x, op.attribute("alpha", 1.0))


@row("Celu")
def celu(op: Op, x: Tensor) -> Tensor:
    """A smooth one."""
    return F.celu(x, op.attribute("alpha", 1.0))


@row("Selu")
def selu(op: Op, x: Tensor) -> Tensor:
    """A scaled one."""
    alpha, gamma = op.attribute("alpha", 1.67326319217681884765625), op.attribute("gamma", 1.05070102214813232421875)
    made: Tensor = F.elu(x, alpha) * gamma
    return made


@row("PRelu", weights=(1,))
def prelu(op: Op, x: Tensor, slope: Value) -> Tensor:
    """A slope for each channel, or any that broadcasts."""
    slopes = op.tensor(slope, x)
    channels = slopes.shape[0] if slopes.dim() and x.dim() == slopes.dim() + 1 else 0
    if channels and slopes.numel() == channels and x.shape[1] == channels:
        return F.prelu(x, slopes.reshape(-1))
    return torch.where(x < 0, x * slopes, x)


@row("HardSigmoid")
def hard_sigmoid(op: Op, x: Tensor) -> Tensor:
    """A clipped line."""
    made: Tensor = (x * op.attribute("alpha", 0.2) + op.attribute("beta", 0.5)).clamp(0.0, 1.0)
    return made


@row("ThresholdedRelu")
def thresholded_relu(op: Op, x: Tensor) -> Tensor:
    """Zero up to a threshold."""
    return F.threshold(x, op.attribute("alpha", 1.0), 0.0)


@row("Shrink")
def shrink(op: Op, x: Tensor) -> Tensor:
    """Zero within limits, and moved towards it outside."""
    limit, bias = op.attribute("lambd", 0.5), op.attribute("bias", 0.0)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


@row("Gelu")
def gelu(op: Op, x: Tensor) -> Tensor:
    """By the error function, or its approximation."""
    return F.gelu(x, approximate=op.attribute("approximate", "none"))


@row("Swish")
def swish(op: Op, x: Tensor) -> Tensor:
    """x · sigmoid(α x)."""
    alpha = op.attribute("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@row("IsInf")
def is_inf(op: Op, x: Tensor) -> Tensor:
    """Of either sign, or of one."""
    up, down = op.attribute("detect_positive", 1), op.attribute("detect_negative", 1)
    return torch.isinf(x) & ((x > 0) & bool(up) | (x < 0) & bool(down))


@row("Clip", known=(1, 2))
def clip(op: Op, x: Value, least: Value = None, most: Value = None) -> Value:
    """Between two limits, which older opsets have as attributes."""
    low = op.attribute("min", None) if least is None else least
    high = op.attribute("max", None) if most is None else most
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        tensor = op.tensor(x)
        tensor = tensor if low is None else torch.maximum(tensor, op.tensor(low, tensor))
        return tensor if high is None else torch.minimum(tensor, op.tensor(high, tensor))
    low, high = op.number(low), op.number(high)
    if isinstance(x, Known):
        made = host.each(lambda v: v if low is None else max(v, low), x.array)
        return Known(host.each(lambda v: v if high is None else min(v, high), made), x.dtype, x.sized)
    if low is None and high is None:
        return x
    return F.relu6(x) if (low, high) == (0.0, 6.0) else torch.clamp(x, low, high)


@row("Cast")
def cast(op: Op, x: Value) -> Value:
    """To another type."""
    to = op.dtype(op.attributes["to"])
    if isinstance(x, Known):
        return Known(host.each(lambda v: host.rounded(v, to), x.array), to, x.sized)
    return x if x.dtype == to else x.to(to)


@row("CastLike")
def cast_like(op: Op, x: Value, like: Value) -> Value:
    """To the type of another value."""
    to = like.dtype
    if isinstance(x, Known):
        return Known(host.each(lambda v: host.rounded(v, to), x.array), to, x.sized)
    return x.to(to)


@row("Where")
def where(op: Op, condition: Value, one: Value, other: Value) -> Value:
    """One of two values."""
    if all_known(condition, one, other):
        made = host.elementwise("Where", condition, one, other)
        return Known(made.array, one.dtype, made.sized)
    like = next((value for value in (one, other) if isinstance(value, Tensor)), None)
    if like is None:
        return torch.where(op.tensor(condition), op.tensor(one), op.tensor(other))
    choice = op.tensor(condition)
    return torch.where(
        choice, *(op.operand(value, like) if isinstance(value, Known) else value for value in (one, other))
    )


@row("Identity")
def identity(op: Op, x: Value) -> Value:
    """The same."""
    return x


@row("Dropout")
def dropout(op: Op, x: Value, _ratio: Value = None, training: Value = None) -> Value:
    """The same; nothing is dropped where nothing is trained."""
    if training is not None and (training.item() if isinstance(training, Known) else bool(training)):
        raise op.refuse("it drops by chance (training_mode)")
    return (x, torch.ones_like(x, dtype=torch.bool)) if len(op.outputs) > 1 and op.outputs[1] else x


@row("BitShift")
def bit_shift(op: Op, x: Tensor, by: Value) -> Tensor:
    """To the left or to the right."""
    by = op.tensor(by)
    return torch.bitwise_left_shift(x, by) if op.attributes["direction"] == "LEFT" else torch.bitwise_right_shift(x, by)
