"""A graph of ONNX as a module: its constants are parameters, buffers or numbers, its nodes one module each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, TypeAlias

import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from atograph.from_onnx.constants import constant_of, demanded, readers_of, role_of
from atograph.from_onnx.known import Known
from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value
from atograph.passes.errors import UserError

_TORCHS_OWN = re.compile(r"val_\d+")
"""What torch.onnx calls the values that it makes itself: the weights of files that it wrote, too."""

Place: TypeAlias = tuple[nn.Module, str]
"""A module, and what it calls a tensor."""


GraphPath: TypeAlias = tuple[tuple[int, str], ...]
"""The way to an inner graph: the position of a node that is no constant, and the attribute that holds the graph."""


@dataclass(frozen=True)
class Source:
    """Where a tensor of a network comes from.

    Attributes:
        name: of the parameter or buffer.
        graph: which graph the constant is in.
        constant: its name there.
        where: for each element of the tensor its position in the constant; None: the same.
    """

    name: str
    graph: GraphPath
    constant: str
    where: torch.Tensor | None


class Weights(nn.Module):
    """Holds weights whose names begin alike."""


class Body(nn.Module):
    """A graph that is computed node by node.

    Attributes:
        inputs, outputs: names of values.
        outer: names of the values that it reads from the graph around it.
        nodes: in order.
        sources: parameter or buffer of this module → the constant of the file that it comes from, and for each of its
            elements the position there (None: the same).
    """

    def __init__(self, graph: onnx.GraphProto, opsets: Mapping[str, int]) -> None:
        super().__init__()
        if graph.sparse_initializer:
            raise UserError(
                f"the constant {graph.sparse_initializer[0].values.name!r} is sparse.", where="the ONNX file",
                hint="Write it as an ordinary initialiser.",
            )  # fmt: skip
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.inputs = [each.name for each in graph.input if each.name not in constants]
        self.outputs = [each.name for each in graph.output]
        self.nodes: list[Op] = []
        self.sources: dict[str, tuple[str, torch.Tensor | None]] = {}
        self._numbers: dict[str, Known] = {}
        self._tensors: dict[str, Place] = {}
        self._laid_out: dict[tuple[int, int], list[Place]] = {}
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                constants[node.output[0]] = constant_of(node)
            else:
                self._add(node, opsets)
        made = {name for op in self.nodes for name in op.outputs} | {*self.inputs, *constants}
        reads = [*(name for op in self.nodes for name in op.inputs), *self.outputs]
        self.outer = [name for name in dict.fromkeys(reads) if name and name not in made]
        self._sort(constants)
        last = {name: index for index, op in enumerate(self.nodes) for name in op.inputs}
        self._done: dict[int, list[str]] = defaultdict(list)
        for name, index in last.items():
            if name and name not in self.outputs:
                self._done[index].append(name)

    def _add(self, node: onnx.NodeProto, opsets: Mapping[str, int]) -> None:
        """Add a node, which reads what its own graphs read of this one."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        op = Op(node, opsets.get(domain, 1))
        for key, graph in op.graphs.items():
            op.bodies[key] = Body(graph, opsets)
        op.graphs.clear()
        op.captured = [*dict.fromkeys(name for body in op.graphs_within for name in body.outer)]
        op.inputs += op.captured
        name = re.sub(r"[.\s]+", "_", node.name.strip("/")) or f"{node.op_type}_{len(self.nodes)}"
        while hasattr(self, name) or iskeyword(name):
            name += "_"
        self.add_module(name, op)
        self.nodes.append(op)

    def _sort(self, constants: Mapping[str, NDArray[Any]]) -> None:
        """Make parameters, buffers and numbers of the constants."""
        readers, numbers = readers_of(self), demanded(self, self.inputs)
        index_of = {id(op): index for index, op in enumerate(self.nodes)}
        for name, array in constants.items():
            if name not in readers and name not in self.outputs:
                continue
            if array.dtype.kind not in "fiub":
                text = array.dtype.kind in "OSU"
                raise UserError(
                    f"the constant {name!r} is {'text' if text else f'of the type {array.dtype}'}, of which no program "
                    "is made.", where="the ONNX file",
                    hint=f"Cut off what reads it ({readers[name][0][0].place}), with onnx.utils.extract_model say."
                    if readers.get(name) else None,
                )  # fmt: skip
            uses = readers.get(name, ())
            role = role_of(array, uses, numbers=name in numbers)
            if role == "number":
                self._numbers[name] = Known.of_array(array)
                continue
            tensor = torch.from_numpy(array.copy())
            laid_out = [(op, position) for op, position in uses if position in op.row.layouts and id(op) in index_of]
            if len(laid_out) < len(uses) or not uses:
                self._tensors[name] = self._hold(name, tensor, name, None, trained=role == "weight")
            places = torch.arange(tensor.numel()).reshape(tensor.shape)
            for op, position in laid_out:
                layout = op.row.layouts[position]
                self._laid_out[index_of[id(op)], position] = [
                    self._hold(
                        f"{name}_{number}", part.contiguous(), name, where.contiguous(), trained=role == "weight"
                    )
                    for number, (part, where) in enumerate(zip(layout(op, tensor), layout(op, places), strict=True))
                ]

    def _hold(
        self, name: str, tensor: torch.Tensor, source: str, where: torch.Tensor | None, *, trained: bool
    ) -> Place:
        """Register a tensor under its own name, within modules for the parts before its dots."""
        *heads, leaf = [part for part in name.split(".") if part] or ["constant"]
        module: nn.Module = self
        path = list[str]()
        for head in heads:
            while iskeyword(head) or (not isinstance(module._modules.get(head), Weights) and hasattr(module, head)):
                head += "_"
            if head not in module._modules:
                module.add_module(head, Weights())
            module = module.get_submodule(head)
            path.append(head)
        while hasattr(module, leaf) or _TORCHS_OWN.fullmatch(leaf) or iskeyword(leaf):
            leaf += "_"
        if trained:
            module.register_parameter(leaf, nn.Parameter(tensor))
        else:
            module.register_buffer(leaf, tensor)
        self.sources[".".join([*path, leaf])] = (source, where)
        return module, leaf

    def compute(
        self, given: Sequence[Value], outer: Mapping[str, Value], seen: Callable[[Op, str, Value], Value] | None = None
    ) -> tuple[Value, ...]:
        """Compute it.

        Args:
            given: its inputs.
            outer: values of the graph around it, by name.
            seen: told of each value of a node by its name; goes on with what it gives.
        """
        values: dict[str, Value] = {"": None, **self._numbers, **{name: outer[name] for name in self.outer}}
        values.update((name, getattr(module, leaf)) for name, (module, leaf) in self._tensors.items())
        values.update(zip(self.inputs, given, strict=True))
        for index, op in enumerate(self.nodes):
            taken = [self._input(index, position, name, values) for position, name in enumerate(op.inputs)]
            for name, value in zip(op.outputs, op(*taken), strict=False):
                values[name] = value if seen is None or not name else seen(op, name, value)
            values[""] = None
            for name in self._done[index]:
                values.pop(name, None)
        return tuple(values[name] for name in self.outputs)

    def forward(self, given: Sequence[Value], outer: Mapping[str, Value]) -> tuple[Value, ...]:
        """As `compute`."""
        return self.compute(given, outer)

    def _input(self, index: int, position: int, name: str, values: Mapping[str, Value]) -> Value:
        laid_out = self._laid_out.get((index, position))
        return values[name] if laid_out is None else [getattr(module, leaf) for module, leaf in laid_out]

    def tensor_of(self, name: str) -> torch.Tensor | None:
        """The weight or buffer that a name stands for."""
        if name not in self._tensors:
            return None
        module, leaf = self._tensors[name]
        found: torch.Tensor = getattr(module, leaf)
        return found

    def number_of(self, name: str) -> float | None:
        """The one number that a name stands for."""
        found = self._numbers.get(name)
        return float(found.item()) if found is not None and found.array.size == 1 else None

    def all_sources(self, prefix: str = "", path: GraphPath = ()) -> Iterator[Source]:
        """Where each parameter and buffer comes from, those of inner graphs as well."""
        for name, (constant, where) in self.sources.items():
            yield Source(f"{prefix}{name}", path, constant, where)
        names = {id(module): name for name, module in self.named_children()}
        for index, op in enumerate(self.nodes):
            for key, body in op.bodies.items():
                assert isinstance(body, Body)
                yield from body.all_sources(f"{prefix}{names[id(op)]}.bodies.{key}.", (*path, (index, key)))
