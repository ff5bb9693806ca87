"""Fake quantisation: each value is rounded to a step. Zero stays zero, because the zero point lies within the range."""

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
