"""Quantisation: each value is rounded to a step, and stays a float (fake quantisation) or becomes an integer and back.

Zero stays zero, because the zero point lies within the range: as an integer it is the zero point.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from atograph.passes.axes.flow import Map
from atograph.passes.rules.table import Effect, Op, Unsupported, rule

aten = torch.ops.aten


# s (clamp(round(x / s) + z) − z), one step and one zero point for all, or for each index of a dim
@rule(
    aten.fake_quantize_per_tensor_affine.default, aten.fake_quantize_per_tensor_affine.tensor_qparams,
    aten.fake_quantize_per_tensor_affine_cachemask.default,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default,
    aten._fake_quantize_learnable_per_tensor_affine.default,
    aten.fake_quantize_per_channel_affine.default, aten.fake_quantize_per_channel_affine_cachemask.default,
    aten._fake_quantize_learnable_per_channel_affine.default,
)  # fmt: skip
def fake_quantise(op: Op) -> Effect:
    """Values rounded to multiples of a step, which is cut with its units and must not be zero."""
    x = op.shape("self")
    steps = [op[name] for name in ("scale", "zero_point") if isinstance(op[name], fx.Node)]
    links: dict[int, int] = {}
    if op.has("axis"):
        at = op.axis("axis")
        links = {0: at}
        for step in steps:
            op.unify(op.shape(step)[0], x[at])
    operands = (op.operand("self"), *(op.operand(step, links) for step in steps))
    return Effect((x,) * op.out_count(), Map(operands, absorbing=(op["self"],), dividing=(op["scale"],)))


# the same with a step computed from the smallest and largest values that were met
@rule(aten._fused_moving_avg_obs_fq_helper_functional.default)
def observed(op: Op) -> Effect:
    """Fake quantisation with an observer, which is switched off: where it is not, its notes are outputs."""
    if any(user.target is not operator.getitem or user.args[1] not in (0, 1) for user in op.node.users):
        raise Unsupported("an observer that is switched on")
    x = op.shape("self")
    links: dict[int, int] = {}
    names = ("running_min", "running_max", "scale", "zero_point")
    if op["per_row_fake_quant"]:
        at = op.axis("ch_axis")
        links = {0: at}
        for name in names:
            op.unify(op.shape(name)[0], x[at])
    operands = (op.operand("self"), *(op.operand(name, links) for name in names))
    notes = tuple(op.shape(name) for name in names)
    return Effect((x, x, *notes), Map(operands, absorbing=(op["self"],), dividing=(op["scale"],)))


_DECOMPOSED = "quantized_decomposed"


# round(x / s) + z as an integer, and (q − z) s as a float again; one step and one zero point for all
@rule(*(
    f"{_DECOMPOSED}.{way}_per_tensor.{overload}"
    for way in ("quantize", "dequantize") for overload in ("default", "tensor", "tensor2")
))  # fmt: skip
def quantise(op: Op) -> Effect:
    """Floats to integers or back: the proof evaluates it, for what is zero is the zero point as an integer."""
    steps = [op[name] for name in ("scale", "zero_point") if isinstance(op[name], fx.Node)]
    operands = (op.operand("input"), *(op.operand(step, {}) for step in steps))
    dividing = (op["scale"],) if steps and op.name.startswith("quantize") else ()
    return Effect((op.shape("input"),), Map(operands, dividing=dividing))


# the same with a step and a zero point for each index of a dim
@rule(f"{_DECOMPOSED}.quantize_per_channel.default", f"{_DECOMPOSED}.dequantize_per_channel.default")
def quantise_by_channel(op: Op) -> Effect:
    """Steps and zero points are cut with their units; where all zero points are zero, so is what was zero."""
    x, at = op.shape("input"), op.axis("axis")
    steps = [op[name] for name in ("scales", "zero_points") if op.has(name)]
    for step in steps:
        op.unify(op.shape(step)[0], x[at])
    zeros = op.constant("zero_points") if op.has("zero_points") else None
    symmetric = not op.has("zero_points") or (zeros is not None and not bool(zeros.any()))
    operands = (op.operand("input"), *(op.operand(step, {0: at}) for step in steps))
    dividing = (op["scales"],) if op.name.startswith("quantize") else ()
    return Effect((x,), Map(operands, absorbing=(op["input"],) if symmetric else (), dividing=dividing))
