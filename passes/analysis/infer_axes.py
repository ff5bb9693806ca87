"""``infer-axes``: give every dimension of every tensor an expression over axes, by unification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import fx

from atograph.passes.axes.dims import ONE, Axis, Dim, Permuted, Shape, axes_of, dim_of, resolve
from atograph.passes.axes.unify import freeze
from atograph.passes.base import AnalysisPass
from atograph.passes.errors import AtographError, InternalError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason, module_of, reason_at
from atograph.passes.public import public
from atograph.passes.rules import Effect, Op, Unsupported, frozen_effect, name_of, rule_for


@public("atograph.passes")
@dataclass
class Axes:
    """The result of axis inference.

    Attributes:
        shapes: for each node the shape of each of its tensor outputs.
        effects: for each op node what its rule said.
        unknown: the ops that have no rule, by name, with the number of nodes that each froze.
    """

    made_by: ClassVar[str] = "infer-axes"
    shapes: dict[fx.Node, tuple[Shape, ...]] = field(default_factory=dict)
    effects: dict[fx.Node, Effect] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)

    def shape(self, node: fx.Node, output: int = 0) -> Shape:
        """The resolved shape of a tensor."""
        return tuple(resolve(dim) for dim in self.shapes[node][output])

    def settle(self) -> None:
        """Resolve all shapes, once no axis is bound any more; axes that multiply themselves are frozen."""
        for node in self.shapes:
            self.shapes[node] = tuple(self.shape(node, output) for output in range(len(self.shapes[node])))
            for shape in self.shapes[node]:
                for dim in shape:
                    _freeze_repeated(node, dim)

    def read_output(self, node: fx.Node) -> int:
        """Which output of its input a node reads: getitem says so."""
        source = node.args[0] if node.args else None
        several = isinstance(source, fx.Node) and len(self.shapes.get(source, ())) > 1
        return int(node.args[1]) if several else 0  # type: ignore[arg-type]


@dataclass(frozen=True)
class InferAxes(AnalysisPass):
    """Run every node's rule once, in order."""

    name = "infer-axes"

    def analyse(self, program: Program) -> Axes:
        """Infer the axes of a functional program."""
        axes = Axes()
        state = set(program.state_names())
        constants = program.constants()
        for node in program.graph.nodes:
            if node.op == "placeholder":
                axes.shapes[node] = _placeholder(node, is_input=node.name not in state)
            elif node.op == "output":
                _freeze_outputs(node, axes)
            elif node.op == "call_function":
                _apply_rule(node, axes, constants)
        axes.settle()
        return axes


def _placeholder(node: fx.Node, *, is_input: bool) -> tuple[Shape, ...]:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return ()
    reason = Reason("model input", node.name) if is_input else None
    empty = Reason("nothing is there", node.name, structural=True)
    return (tuple(ONE if size == 1 else dim_of(Axis(size, reason if size else empty)) for size in value.shape),)


def _freeze_outputs(node: fx.Node, axes: Axes) -> None:
    for result in node.all_input_nodes:
        for shape in axes.shapes.get(result, ()):
            for dim in shape:
                freeze(dim, Reason("model output", result.name, module_of(result)))


def _apply_rule(node: fx.Node, axes: Axes, constants: Mapping[fx.Node, torch.Tensor]) -> None:
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    if not any(isinstance(v, torch.Tensor) for v in values):
        return  # arithmetic on symbolic sizes
    op = Op(node, axes.shapes, constants)
    rule = rule_for(node.target)
    if rule is None:
        name = name_of(node.target)
        axes.unknown[name] = axes.unknown.get(name, 0) + 1
        effect = frozen_effect(op, f"no rule for the op {name}")
    else:
        try:
            effect = rule(op)
        except Unsupported as limit:
            effect = frozen_effect(op, f"{limit} is not covered by the rule of {name_of(node.target)}")
        except AtographError:
            raise
        except Exception as error:
            raise InternalError(f"the rule of {node.target} failed on node {node.name}: {error!r}.") from error
    for index, shape in enumerate(effect.outs):
        inferred = tuple(dim.size for dim in shape)
        if isinstance(values[index], torch.Tensor) and shape != () and inferred != op.out_sizes(index):
            raise InternalError(
                f"the rule of {node.target} infers {inferred} for node {node.name}, captured as {op.out_sizes(index)}."
            )
    axes.shapes[node], axes.effects[node] = effect.outs, effect


def _freeze_repeated(node: fx.Node, dim: Dim) -> None:
    """An axis that multiplies itself has no unit that can go alone. In a sum, as in (f + f) × c, it may stand twice."""
    for term in dim.terms:
        if len(term) == 1 and isinstance(term[0], Axis):
            continue
        inside = [set(axes_of(Dim(((factor,),)))) for factor in term]
        for axis in dict.fromkeys(axes_of(Dim((term,)))):
            if sum(axis in axes for axes in inside) > 1:
                freeze(dim_of(axis), reason_at(node, "it multiplies itself in one dimension"))
        for factor in term:
            if not isinstance(factor, Axis):
                _freeze_repeated(node, factor.source if isinstance(factor, Permuted) else factor)
