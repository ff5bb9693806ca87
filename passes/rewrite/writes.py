"""In-place ops become functional ones: what is written into memory becomes a value, and reaches whoever reads it later.

A tensor and its views (slice, select, transpose, ...) are one memory. A write through one of them gives the memory a
new value: it is put back into what it is a view of (``slice_scatter`` undoes ``slice``), up to the tensor that owns the
memory, and the other views are taken again when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.ir.program import copy_node
from atograph.passes.ir.propagate import mode_of, run
from atograph.passes.ir.reason import ORIGIN
from atograph.passes.rules.aliases import DROPOUTS, is_undeclared, may_view
from atograph.passes.torch_private import OpOverload

aten = torch.ops.aten

Emit = Callable[..., fx.Node]
"""Adds an op to the new graph: ``emit(target, *args)``."""


class Hidden(Exception):
    """A write that this module cannot follow: into an input, or through an op that may or may not be a view.

    Attributes:
        torch_can: whether torch's functionalisation can; not where an op shares memory without saying so.
    """

    def __init__(self, text: str, *, torch_can: bool = True) -> None:
        super().__init__(text)
        self.torch_can = torch_can


def without_writes(graph: fx.Graph) -> fx.Graph:
    """The same graph with functional ops only: the very same one where it has no others.

    Raises:
        Hidden: a write cannot be followed.
    """
    if not any(written(node) is not None for node in graph.nodes):
        return graph
    return _Replay(graph).run()


def written(node: fx.Node) -> fx.Node | None:
    """The node whose value an in-place op writes; None for a functional op."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return None
    for index, argument in enumerate(node.target._schema.arguments):
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node):
            return value
    return None


# how a value goes back into what it is a view of: (emit, the view's node, the whole before, the part) → the whole after
_PUT_BACK: dict[Target, Callable[[Emit, fx.Node, fx.Node, fx.Node], fx.Node]] = {
    aten.slice.Tensor: lambda emit, view, whole, part: emit(aten.slice_scatter.default, whole, part, *view.args[1:]),
    aten.select.int: lambda emit, view, whole, part: emit(aten.select_scatter.default, whole, part, *view.args[1:]),
    aten.view.default: lambda emit, view, whole, part: emit(aten.view_as.default, part, whole),
    aten.unsqueeze.default: lambda emit, view, whole, part: emit(aten.view_as.default, part, whole),
    aten.squeeze.dim: lambda emit, view, whole, part: emit(aten.view_as.default, part, whole),
    aten.transpose.int: lambda emit, view, whole, part: emit(aten.transpose.int, part, *view.args[1:]),
    aten.t.default: lambda emit, view, whole, part: emit(aten.t.default, part),
    aten.permute.default: lambda emit, view, whole, part: emit(aten.permute.default, part, _inverse(view)),
    aten.alias.default: lambda emit, view, whole, part: part,
    aten.detach.default: lambda emit, view, whole, part: part,
    **dict.fromkeys(DROPOUTS, lambda emit, view, whole, part: part),  # the very same tensor
}


def _inverse(view: fx.Node) -> list[int]:
    dims = [int(d) for d in view.args[1]]  # type: ignore[union-attr, arg-type]
    return [[d % len(dims) for d in dims].index(target) for target in range(len(dims))]


class _Replay:
    """The graph, node by node, with what every tensor holds at that moment."""

    def __init__(self, given: fx.Graph) -> None:
        self.given, self.graph = given, fx.Graph()
        self.order = {node: index for index, node in enumerate(given.nodes)}
        self.now: dict[fx.Node, fx.Node] = {}
        self.part_of: dict[fx.Node, fx.Node] = {}  # view → what it is a view of; an in-place op's result → its target
        self.stale: set[fx.Node] = set()  # views of memory that was written to since
        self._mode = mode_of(given)

    def run(self) -> fx.Graph:
        for node in self.given.nodes:
            target = written(node)
            if target is not None:
                self._write(node, target)
                continue
            for argument in node.all_input_nodes:
                self._refresh(argument)
            self.now[node] = copy_node(self.graph, node, self.now)
            if node.target in _PUT_BACK and may_view(node):
                self.part_of[node] = node.args[0]
        return self.graph

    def _write(self, node: fx.Node, target: fx.Node) -> None:
        functional = functional_form(node.target)
        if functional is None:
            raise Hidden(f"{node.target} has no functional form")
        for argument in node.all_input_nodes:
            self._refresh(argument)
        value = self._emit_like(node, functional, *node.args, **node.kwargs)
        before = target.meta["val"]
        if value.meta["val"].dtype != before.dtype:  # memory keeps its type
            value = self._emit_like(node, aten.to.dtype, value, before.dtype)
        seen = list(_seen_later(node, target, self.order))
        if target.op == "placeholder" or any(alias.op == "placeholder" for alias in seen):
            raise Hidden("an input or a parameter is written to")
        self.part_of[node] = target
        self.now[node] = value
        alias = node
        while written(alias) is not None:  # what earlier in-place ops gave is the same tensor under other names
            alias = self.part_of[alias]
            self.now[alias] = value
            self.stale.discard(alias)
        if seen:
            self._put_back(node, target)

    def _put_back(self, write: fx.Node, target: fx.Node) -> None:
        """Give the whole memory its new value; the views that are not on the way are stale from here on."""
        path = [write, target]
        while path[-1] in self.part_of:
            view, whole = path[-1], self.part_of[path[-1]]
            if written(view) is None:
                self._refresh(whole)
                emit = lambda op, *args: self._emit_like(write, op, *args)  # noqa: E731
                self.now[whole] = _PUT_BACK[view.target](emit, view, self.now[whole], self.now[view])
            else:
                self.now[whole] = self.now[view]
            path.append(whole)
        owner = path[-1]
        if may_view(owner) and owner.op != "placeholder":
            raise Hidden(f"{owner.target} may or may not be a view", torch_can=not is_undeclared(owner))
        for node in _memory(owner, self.order, write):
            if node in path:
                continue
            if node in self.part_of:
                self.stale.add(node)
            elif any(self.order[user] > self.order[write] for user in node.users):
                raise Hidden(
                    f"{node.target} may or may not be a view of what is written to", torch_can=not is_undeclared(node)
                )

    def _refresh(self, node: fx.Node) -> None:
        """Take a view again, if the memory was written to since."""
        if node not in self.stale:
            return
        self.stale.discard(node)
        whole = self.part_of[node]
        self._refresh(whole)
        if written(node) is not None:
            self.now[node] = self.now[whole]
        else:
            self.now[node] = copy_node(self.graph, node, {**self.now, whole: self.now[whole]})

    def _emit_like(self, origin: fx.Node, target: Any, *args: Argument, **kwargs: Argument) -> fx.Node:
        """A new op where an old one stood; old nodes among its arguments stand for what they hold now."""
        made = self.graph.call_function(target, *fx.map_arg((args, kwargs), lambda n: self.now.get(n, n)))
        made.meta = {key: value for key, value in origin.meta.items() if key in ORIGIN}
        with self._mode, torch.no_grad():
            made.meta["val"] = run(made)
        return made


def functional_form(target: Any) -> OpOverload | None:
    """``aten.relu_.default`` → ``aten.relu.default``; None where there is no such op with the same arguments."""
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None:
        return None
    overload: OpOverload | None = getattr(packet, target._overloadname, None)
    if overload is None or _argument_types(overload) != _argument_types(target):
        return None
    return overload


def _argument_types(overload: OpOverload) -> list[str]:
    return [str(argument.type) for argument in overload._schema.arguments]


def _aliases(node: fx.Node) -> Iterator[fx.Node]:
    """Inputs and users of a node that may share its memory."""
    yield from may_view(node)
    for user in node.users:
        if node in may_view(user):
            yield user


def _memory(node: fx.Node, order: dict[fx.Node, int], until: fx.Node) -> set[fx.Node]:
    """The nodes up to a write that may share a node's memory."""
    seen, queue = {node}, [node]
    while queue:
        for alias in _aliases(queue.pop()):
            if alias not in seen and order[alias] <= order[until]:
                seen.add(alias)
                queue.append(alias)
    return seen


def _seen_later(write: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> Iterator[fx.Node]:
    """What else may hold memory that ``write`` changes, and is read after it; placeholders are read by the user."""
    for alias in _memory(target, order, write) - {write, target}:
        if alias.op == "placeholder" or any(order[user] > order[write] for user in alias.users):
            yield alias
