"""The textual form of programs and groups: the same text for the same program, whatever its node names are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import torch
from torch import fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, Factor, Permuted, Shape, axes_of
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program
from atograph.passes.public import public
from atograph.passes.torch_private import OpOverload

_DTYPES = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
}  # fmt: skip


@public("atograph.passes")
def format_program(program: Program) -> str:
    """One line a node, numbered in order; parameters by their own names; dims with their groups once known."""
    return _Printer(program).text()


def format_groups(groups: Groups) -> str:
    """One line a group."""
    return "".join(f"{group}\n" for group in groups)


class _Printer:
    def __init__(self, program: Program) -> None:
        self.program = program
        groups: Groups | None = program.facts.get(Groups)
        self.axes: Axes | None = program.facts.get(Axes) if groups is None else groups.axes
        self.groups: Mapping[Axis, str] = (
            {group.axis: group.name for group in groups if group.frozen is None} if groups is not None else {}
        )
        self.points = Points(program.graph, program.interface.dynamic) if self.axes is None else self.axes.points
        self.names: dict[fx.Node, str] = {}
        self.parameters = program.parameter_names()

    def text(self) -> str:
        lines = ["program {"]
        state, numbers = self.program.state_names(), count()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                kind = "input" if node.name not in state else self._kind(state[node.name])
                self.names[node] = state.get(node.name, f"%{node.name}")
                lines.append(f"  {kind} {self.names[node]} : {self._type(node)}")
        for node in self.program.graph.nodes:
            if node.op == "output":
                lines.append(f"  return {self._value(node.args[0])}")
            elif node.op == "get_attr":
                self.names[node] = f"@{node.target}"
            elif node.op != "placeholder":
                arguments = [self._value(a) for a in node.args]
                arguments += [f"{k}={self._value(v)}" for k, v in node.kwargs.items()]
                self.names[node] = f"%{next(numbers)}"
                lines.append(f"  {self.names[node]} = {_target(node)}({', '.join(arguments)}) : {self._type(node)}")
        return "\n".join([*lines, "}"]) + "\n"

    def _kind(self, name: str) -> str:
        return "param" if name in self.parameters else "buffer"

    def _value(self, value: object) -> str:
        if isinstance(value, fx.Node):
            return self.names[value]
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(self._value(v) for v in value)}]"
        return str(value)

    def _type(self, node: fx.Node) -> str:
        value = node.meta.get("val")
        if isinstance(value, (tuple, list)):
            return f"({', '.join(self._tensor(node, v, i) for i, v in enumerate(value))})"
        return self._tensor(node, value, 0)

    def _tensor(self, node: fx.Node, value: object, output: int) -> str:
        if not isinstance(value, torch.Tensor):
            return self.points.text(self.points.size(node)) if type(value) is int else str(value)
        shape: Shape = self.axes.shape(node, output) if self.axes is not None and self.axes.shapes.get(node) else ()
        sizes = map(self.points.text, self.points.shape(node, output))
        dims = [
            f"{self._dim(dim)}={size}" if self._has_group(dim) else size
            for size, dim in zip(sizes, shape or (Dim(()),) * value.dim(), strict=True)
        ]
        return f"{_DTYPES.get(value.dtype, str(value.dtype))}[{', '.join(dims)}]"

    def _has_group(self, dim: Dim) -> bool:
        return any(axis in self.groups for axis in axes_of(dim))

    def _dim(self, dim: Dim) -> str:
        return "+".join("×".join(self._factor(factor) for factor in term) or "1" for term in dim.terms)

    def _factor(self, factor: Factor) -> str:
        if isinstance(factor, Axis):
            return self.groups.get(factor, self.points.text(factor.size))
        if isinstance(factor, Permuted):
            return f"permuted({self._dim(factor.source)})"
        return f"({self._dim(factor)})"


def _target(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        return str(node.target).removesuffix(".default")
    return getattr(node.target, "__name__", str(node.target))
