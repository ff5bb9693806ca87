"""Programs as text: one line a value, with the names that nodes have, and what is told of them by analyses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, Factor, Permuted, Shape, axes_of
from atograph.passes.ir.interface import Interface
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program
from atograph.passes.public import public
from atograph.passes.text.literals import DTYPES, default_of, key_name, quoted, state_name, written
from atograph.passes.text.regions import call_text, region_lines
from atograph.passes.text.signatures import is_plain, signature_text
from atograph.passes.text.structures import filled
from atograph.passes.torch_private import pytree

SHORT = 16
"""Elements of a constant that are printed, where nobody asks for all of them."""

_EXACT = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}

TOLD = {"state", "parameters", "buffers", "inputs", "takes", "returns", "writes", "signature"}
"""What the lines of a program themselves tell of its interface; each other field has a line where it says something."""


@public("atograph.passes")
def format_program(program: Program, *, values: bool = False) -> str:
    """The program as text, which `parse_program` reads back: the same text for the same program.

    Dims stand with their groups once these are known. Weights are left out.

    Args:
        program: to print.
        values: print the values of all constants of integers and truth values, however many they are.
    """
    return _Printer(program, values).text()


def format_facts(program: Program) -> str:
    """What analyses found out, as comments: the facts whose class says how it is printed (``__str__``)."""
    lines: list[str] = []
    for kind, fact in program.facts.items():
        if _is_told(kind) and (text := str(fact)):
            lines += [f"# {getattr(kind, 'made_by', kind.__name__)}", *(f"#   {line}" for line in text.splitlines())]
    return "".join(f"{line}\n" for line in lines)


def _is_told(kind: type) -> bool:
    return any("__str__" in vars(base) for base in kind.__mro__ if base is not object)


class _Printer:
    def __init__(self, program: Program, values: bool) -> None:
        self.program, self.values = program, values
        groups: Groups | None = program.facts.get(Groups)
        self.axes: Axes | None = program.facts.get(Axes) if groups is None else groups.axes
        self.groups: Mapping[Axis, str] = (
            {group.axis: group.name for group in groups if group.frozen is None} if groups is not None else {}
        )
        self.points = Points(program.graph, program.interface.dynamic) if self.axes is None else self.axes.points
        self.constants = program.constants()

    def text(self) -> str:
        program = self.program
        lines = ["program {", *self._interface(program.interface)]
        lines += [f"  {self._placeholder(node)}" for node in program.graph.nodes if node.op == "placeholder"]
        lines += region_lines(program, program.graph, "  ")
        for node in program.graph.nodes:
            if node.op.startswith("call_"):
                lines.append(f"  %{node.name} = {call_text(node, self._value)} : {self._type(node)}")
        results, count = list(program.output_node.args[0]), len(program.interface.writes)  # type: ignore[arg-type]
        for placeholder, result in zip(program.interface.writes, results, strict=False):
            lines.append(f"  write {self._named(placeholder)} = {self._value(result)}")
        lines.append(f"  return {self._value(filled(program.interface.returns, iter(results[count:])))}")
        return "\n".join([*lines, "}"]) + "\n"

    def _interface(self, interface: Interface) -> Iterator[str]:
        """What the lines below do not tell of how the program is called."""
        inputs = [node.name for node in self.program.input_nodes()]
        if list(interface.signature.parameters) != inputs or not is_plain(interface.signature):
            yield f"  forward{signature_text(interface.signature)}"
        args, kwargs = self._called(interface)
        if kwargs or [getattr(arg, "name", None) for arg in args] != inputs:
            named = [f"{key_name(name)}={self._value(value)}" for name, value in kwargs.items()]
            yield f"  call({', '.join([*map(self._value, args), *named])})"
        for field in dataclasses.fields(interface):
            value = getattr(interface, field.name)
            if field.compare and field.name not in TOLD and value != default_of(field):
                yield f"  set {field.name} = {self._value(value)}"

    def _called(self, interface: Interface) -> tuple[Sequence[object], Mapping[str, object]]:
        """The arguments of a call: the nodes of inputs, and the example's value where there is none."""
        nodes = {node.name: node for node in self.program.input_nodes()}
        example = interface.example
        values = [None] * len(interface.inputs) if example is None else pytree.tree_leaves(example)
        leaves = [value if name is None else nodes[name] for name, value in zip(interface.inputs, values, strict=True)]
        called: tuple[Sequence[object], Mapping[str, object]] = filled(interface.takes, iter(leaves))  # type: ignore[assignment]
        return called

    def _placeholder(self, node: fx.Node) -> str:
        name = self.program.state_names().get(node.name)
        if name is None:
            return f"input %{node.name} : {self._type(node)}{_layout(node)}"
        interface = self.program.interface
        kind = "param" if name in interface.parameters else "buffer" if name in interface.buffers else "const"
        value = ""
        if node in self.constants and self.constants[node].dtype in _EXACT:
            tensor = self.constants[node]
            value = f" = {written(tensor.tolist(), str)}" if self.values or tensor.numel() <= SHORT else " = ..."
        return f"{kind} {state_name(name)} : {self._type(node)}{_layout(node)}{value}"

    def _named(self, placeholder: str) -> str:
        name = self.program.state_names().get(placeholder)
        return f"%{placeholder}" if name is None else state_name(name)

    def _value(self, value: object) -> str:
        return written(value, lambda node: f"@{node.target}" if node.op == "get_attr" else self._named(node.name))

    def _type(self, node: fx.Node) -> str:
        value = node.meta.get("val")
        if isinstance(value, (tuple, list)):
            return f"({', '.join(self._tensor(node, v, i) for i, v in enumerate(value))})"
        return self._tensor(node, value, 0)

    def _tensor(self, node: fx.Node, value: object, output: int) -> str:
        if not isinstance(value, torch.Tensor):
            return self.points.text(self.points.size(node)) if type(value) is int else written(value, str)
        shape: Shape = self.axes.shape(node, output) if self.axes is not None and self.axes.shapes.get(node) else ()
        sizes = map(self.points.text, self.points.shape(node, output))
        dims = [
            f"{self._dim(dim)}={size}" if self._has_group(dim) else size
            for size, dim in zip(sizes, shape or (Dim(()),) * value.dim(), strict=True)
        ]
        return f"{DTYPES[value.dtype]}[{', '.join(dims)}]"

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


def _layout(node: fx.Node) -> str:
    """Where a tensor lies, and how, where that is not row by row on the CPU."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return ""
    strides = "" if value.is_contiguous() else f" strides {written(value.stride(), str)}"
    device = "" if value.device.type == "cpu" else f" on {quoted(str(value.device))}"
    return strides + device
