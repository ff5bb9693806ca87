"""A recording as a program's graph: placeholders by their names, and numbers that follow sizes computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import fx

from atograph.capture.recording.recorder import SAME, NotAligned, NotTraced, Recording
from atograph.passes.identifiers import identifier
from atograph.passes.ir.express import Expression, Holders, Known, Part, takes_pieces
from atograph.passes.ir.propagate import runs_alone
from atograph.passes.ir.reason import ORIGIN, reason_at
from atograph.passes.ir.sizes import BATCH, Size
from atograph.passes.torch_private import (
    FakeTensor,
)


class Rebuilt:
    """What was recorded, as a program's graph: placeholders named after what they are, sizes that follow the batch.

    Attributes:
        graph: the graph.
        state: placeholder → name in the user's model.
        inputs: for each leaf of the arguments its placeholder.
        copies: recorded node → that of the graph.
        output: of the graph.
        constants: name → tensor that the model's code holds or makes.

    Args:
        recorded: the recording.
        state: of the model.
        inputs: for each leaf of the arguments what it is called.
        held: the tensors that its modules have for plain attributes.
        shapes: for each node the sizes of its tensors at every point; empty where there is but one.
    """

    def __init__(
        self,
        recorded: Recording,
        state: dict[str, torch.Tensor],
        inputs: list[str | None],
        held: set[int],
        shapes: Mapping[fx.Node, list[tuple[int, ...]]],
    ) -> None:
        self.graph = fx.Graph()
        self._shapes = shapes
        self._holders = Holders()
        self.copies: dict[fx.Node, fx.Node] = {}
        self._computed: dict[tuple[object, ...], fx.Node] = {}
        self._dims: dict[tuple[fx.Node, int], fx.Node] = {}
        self._taken: set[str] = set()
        self._own, self._held = state, held
        self.constants: dict[str, torch.Tensor] = {}
        found = [node for node in recorded.graph.nodes if node.op == "placeholder"]
        self.state = {self._placeholder(node, f"p_{name}"): name for node, name in zip(found, state, strict=False)}
        for node in recorded.graph.nodes:
            if node.op == "get_attr":
                self._constant(node, recorded.constants[str(node.target)])
        taken = iter(found[len(state) :])
        self.inputs = tuple(None if name is None else self._placeholder(next(taken), name) for name in inputs)
        self._source = next((self.copies[node] for node in found[len(state) :] if _batch_first(node)), None)
        for node in recorded.graph.nodes:
            if node.op in ("call_function", "output"):
                self._copy(node)

    def _placeholder(self, node: fx.Node, name: str) -> str:
        wanted = plain = identifier(name)
        for number in count(1):
            if wanted not in self._taken:
                break
            wanted = f"{plain}_{number}"
        made = self.graph.placeholder(wanted)
        made.name = wanted  # fx would rename one that is called like a Python builtin
        self._taken.add(wanted)
        made.meta = {"val": node.meta["val"]}
        self._add(node, made)
        return made.name

    def _add(self, node: fx.Node, made: fx.Node) -> None:
        self.copies[node] = made
        for dim, size in enumerate(self._shape(node)):
            self._holders.add(size, made, dim)

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        """The sizes of a recorded tensor at every point; none where there is but one point."""
        is_tensor = isinstance(node.meta.get("val"), torch.Tensor)
        return self._shapes[node][0] if is_tensor and node in self._shapes else ()

    def _constant(self, node: fx.Node, value: torch.Tensor) -> None:
        if isinstance(value, FakeTensor) and id(value) not in self._held:
            raise NotTraced("its code makes a constant of what it computes")
        own = next((name for name, tensor in self._own.items() if tensor is value), None)
        if own is not None:
            self.copies[node] = next(n for n in self.graph.nodes if self.state.get(n.name) == own)
            return
        if not isinstance(value, FakeTensor) and _storage(value) in map(_storage, self._own.values()):
            raise NotTraced("its code holds a view of a parameter")
        same = next((name for name, known in self.constants.items() if known is value), None)
        if same is not None:
            self.copies[node] = next(n for n in self.graph.nodes if self.state.get(n.name) == same)
            return
        names = (f"lifted_tensor_{number}" for number in count(len(self.constants)))
        name = next(name for name in names if name not in self._own)
        self.constants[name] = value
        self.state[self._placeholder(node, f"c_{name}")] = name

    def _copy(self, node: fx.Node) -> None:
        if node.op == "call_function" and not runs_alone(node):
            raise NotTraced(f"it calls {node.target}")

        def value(argument: object) -> Any:
            if isinstance(argument, fx.Node):
                return self.copies[argument]
            if isinstance(argument, Size) or (type(argument) is int and argument and argument % BATCH == 0):
                return self._size(argument, node)
            return argument

        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), value)
        if node.op == "output":
            self.output = self.graph.output(args[0])
            return
        if node.meta.get(SAME):
            self.copies[node] = value(node.args[0])
            return
        made = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        made.meta = {key: node.meta[key] for key in ("val", *ORIGIN) if key in node.meta}
        self._add(node, made)

    def _size(self, size: int, reader: fx.Node) -> fx.Node:
        """A node that has a size which is not always the same, for an op that takes it.

        A dim of what the op reads comes first, then any dim that there is, then what computes it.
        """
        for operand in () if takes_pieces(reader) or not isinstance(size, Size) else reader.all_input_nodes:
            shape = self._shape(operand)
            if size in shape:
                return self._dim(self.copies[operand], shape.index(size))
        part = self._holders.express(size, reader)
        if part is None:
            raise NotAligned(_told(size, reader))
        return self._written(part)

    def _written(self, part: Part) -> fx.Node:
        """A node, with its value, for an expression that is no plain number."""
        if isinstance(part, Known):
            return self._known(part.size)
        assert isinstance(part, Expression)
        sides = [side if isinstance(side, int) else self._written(side) for side in (part.left, part.right)]
        if (part.function, *sides) not in self._computed:
            made: fx.Node = self.graph.call_function(part.function, tuple(sides))
            values = [side.meta["val"] if isinstance(side, fx.Node) else side for side in sides]
            made.meta = {"val": part.function(*values)}
            self._computed[part.function, *sides] = made
        return self._computed[part.function, *sides]

    def _known(self, size: int) -> fx.Node:
        if size == BATCH and self._source is None:
            raise NotTraced("no input has the batch for its first dimension")
        node, dim = (self._source, 0) if size == BATCH else self._holders[size]
        assert node is not None and dim is not None
        return self._dim(node, dim)

    def _dim(self, node: fx.Node, dim: int) -> fx.Node:
        """The size of a dim, read where the node is computed: nothing has to keep it for that."""
        if (node, dim) not in self._dims:
            made = self.graph.call_function(torch.ops.aten.sym_size.int, (node, dim))
            if node.op != "placeholder":
                node.append(made)
            made.meta = {"val": int(node.meta["val"].shape[dim])}
            self._dims[node, dim] = made
        return self._dims[node, dim]


def _told(size: int, reader: fx.Node) -> str:
    values = ", ".join(map(str, getattr(size, "values", (size,))))
    reason = reason_at(reader, f"{reader.target} takes a size that follows no simple law ({values} at the sizes tried)")
    return f"{reason.text} (at {reason.source})" if reason.source else reason.text


def _storage(value: torch.Tensor) -> int:
    return 0 if isinstance(value, FakeTensor) or value.is_meta else value.untyped_storage().data_ptr()


def _batch_first(node: fx.Node) -> bool:
    sizes = node.meta["val"].shape
    return len(sizes) > 0 and sizes[0] == BATCH
