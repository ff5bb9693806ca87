"""The program that passes work on: a `torch.fx.GraphModule` with parameters as graph inputs, their values beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import chain, count
from typing import Any, TypeVar

import torch
from torch import fx

from atograph.passes.errors import UserError
from atograph.passes.identifiers import identifier
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.interface import Interface
from atograph.passes.ir.propagate import mode_of
from atograph.passes.public import public
from atograph.passes.torch_private import FakeTensor, LazyGraphModule

T = TypeVar("T")

_PARAMETER = "parameter"
"""In the ``meta`` of a placeholder that a rewrite has made for a parameter: the name of that."""


class MissingFact(UserError):
    """The result of an analysis is needed that has not run.

    Args:
        name: of the pass that makes it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"this needs the result of the pass '{name}', which has not run on the program.",
            hint=f"Put '{name}' before it in the pipeline.",
        )


@public("atograph.passes")
class Program(LazyGraphModule):  # code is made of the graph when it is first run
    """A captured program: a graph of ATen ops, how it is called, its state, and what analyses found out.

    Parameters, buffers and constants are placeholders of the graph; ``state`` maps their names in the user's model
    to tensors. The ``meta["val"]`` of a node is what it gives for a batch of `sizes.BATCH`: a tensor without data, or a
    number. ``facts`` holds one result per analysis, by type; a rewrite returns a program without facts.
    """

    interface: Interface
    state: dict[str, torch.Tensor]
    facts: dict[type, Any]

    @classmethod
    def build(
        cls,
        graph: fx.Graph,
        interface: Interface,
        state: Mapping[str, torch.Tensor],
        root: torch.nn.Module | None = None,
    ) -> Program:
        """A program of its own, without the state that no node reads (an auxiliary head).

        Args:
            graph: of ATen ops, with a placeholder for each tensor of the state and each tensor input. It becomes the
                program's, or is copied if it is that of another module.
            interface: how it is called.
            state: name in the user's model → tensor.
            root: module that holds the bodies of higher-order ops.
        """
        if graph.owning_module is not None:
            graph, _nodes = copy_graph(graph)
        for node in graph.nodes:
            known = node.name in interface.state or node.name in interface.inputs
            if node.op == "placeholder" and not known and node.name in state:  # one that a rewrite has made
                name = node.meta.get(_PARAMETER)
                interface = interface.with_state(node.name, name or node.name, trained=name is not None)
                value = state[node.name] if name is None else _parameter(state[node.name])
                state = {**state, interface.state[node.name]: value}
        unused = _drop_unused_state(graph, interface)
        program = cls(torch.nn.Module() if root is None else root, graph)
        program.interface, program.facts = interface.without(unused), {}
        names = set(program.interface.state.values())
        program.state = {name: value for name, value in state.items() if name in names}
        return program

    def rewritten(
        self, graph: fx.Graph, state: Mapping[str, torch.Tensor], root: torch.nn.Module | None = None
    ) -> Program:
        """A new program that is called like this one, with another graph and other tensors.

        A placeholder that the interface does not know is a new constant or parameter, if ``state`` has a value under
        its name.

        Args:
            graph: the new one.
            state: the new tensors.
            root: the module that holds other regions; those of this program unless given.
        """
        return Program.build(graph, self.interface, state, root=self if root is None else root)

    def new_constant(self, graph: fx.Graph, value: torch.Tensor, name: str) -> fx.Node:
        """Add a placeholder for a constant to a graph that a rewrite is making of this program.

        Its name, ``name`` with a number, is new to the program and to the graph; the state that goes with the graph to
        `rewritten` has to hold ``value`` under it.
        """
        taken = {node.name for node in graph.nodes} | set(self.interface.state.values()) | self.interface.state.keys()
        number = next(n for n in count() if f"{name}_{n}" not in taken)
        inputs = {node.name for node in self.input_nodes()}
        before = next((n for n in graph.nodes if n.op != "placeholder" or n.name in inputs), None)
        with graph.inserting_before(before):
            made = graph.placeholder(f"{name}_{number}")
        made.target = made.name  # which fx writes in small letters
        made.meta["val"] = empty(mode_of(graph), value.shape, value.dtype, value.device)
        return made

    def new_parameter(self, graph: fx.Graph, value: torch.Tensor, name: str) -> fx.Node:
        """Add a placeholder for a parameter to a graph that a rewrite is making of this program.

        As `new_constant`: the state has to hold ``value`` under the placeholder's name. In the new program the
        parameter is called ``name``, with a number where the program has a tensor of that name. It is trained, unless
        ``value`` is an `nn.Parameter` that is not.
        """
        made = self.new_constant(graph, value, identifier(f"p_{name}"))
        taken = {*self.interface.state.values(), *(node.meta.get(_PARAMETER) for node in graph.nodes)}
        made.meta[_PARAMETER] = next(n for n in chain([name], (f"{name}_{n}" for n in count())) if n not in taken)
        return made

    def constants(self) -> dict[fx.Node, torch.Tensor]:
        """The placeholders of constants whose values are known: no parameter, no buffer, nothing on the meta device."""
        others = self.interface.parameters | self.interface.buffers
        found = {node: self.state[name] for node, name in self.state_nodes() if name not in others}
        return {n: t for n, t in found.items() if not t.is_meta and not isinstance(t, FakeTensor)}

    def state_names(self) -> Mapping[str, str]:
        """Placeholder name → name in the user's model, for parameters, buffers and constants still in the graph."""
        return self.interface.state

    def parameter_names(self) -> set[str]:
        """Names (in the user's model) of the parameters, without buffers and constants."""
        return set(self.state_names().values()) & self.interface.parameters

    def state_nodes(self) -> Iterator[tuple[fx.Node, str]]:
        """Each state placeholder with its name in the user's model, in order."""
        names = self.state_names()
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                yield node, names[node.name]

    def input_nodes(self) -> list[fx.Node]:
        """The placeholders of the user's own inputs."""
        names = self.state_names()
        return [n for n in self.graph.nodes if n.op == "placeholder" and n.name not in names]

    @property
    def output_node(self) -> fx.Node:
        """The node that returns."""
        last: fx.Node = next(iter(reversed(self.graph.nodes)))
        return last

    def fact(self, kind: type[T]) -> T:
        """The result of an analysis.

        Raises:
            UserError: the analysis has not run on this program.
        """
        if kind not in self.facts:
            name = getattr(kind, "made_by", kind.__name__)
            raise MissingFact(name)
        found: T = self.facts[kind]
        return found


def _parameter(value: torch.Tensor) -> torch.Tensor:
    """A value as a parameter: one that is trained, unless it is a parameter already, or of whole numbers."""
    if isinstance(value, torch.nn.Parameter):
        return value
    return torch.nn.Parameter(value.detach(), requires_grad=value.is_floating_point() or value.is_complex())


def _drop_unused_state(graph: fx.Graph, interface: Interface) -> set[str]:
    """Remove the placeholders of parameters and buffers that no node reads; their names."""
    kept = interface.state.keys() - set(interface.writes)
    unused = {n for n in graph.nodes if n.op == "placeholder" and n.name in kept and not n.users}
    for node in unused:
        graph.erase_node(node)
    return {node.name for node in unused}


@public("atograph.passes")
def copy_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of a graph that shares no node with it, and the map from old nodes to new ones."""
    copied = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = copy_node(copied, node, nodes)
    return copied, nodes


def copy_regions(
    graph: fx.Graph, root: torch.nn.Module, copy: Callable[[fx.Graph], fx.Graph] = lambda graph: copy_graph(graph)[0]
) -> torch.nn.Module:
    """A module with copies of the regions of another one that a graph names, and of those that are named within them.

    Args:
        graph: whose ops run them.
        root: the module that holds them; what is no graph is the same afterwards.
        copy: copies the graph of one.
    """
    own = torch.nn.Module()
    for target in dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr"):
        part = reduce(getattr, target.split("."), root)
        if isinstance(part, fx.GraphModule):
            inner = copy(part.graph)
            part = fx.GraphModule(copy_regions(inner, part, copy), inner)
        attach(own, target, part)
    return own


def attach(root: torch.nn.Module, path: str, part: object) -> None:
    """Make something a part of a module, within modules of its own where the path has several words."""
    *owners, leaf = path.split(".")
    for owner in owners:
        if not hasattr(root, owner):
            root.add_module(owner, torch.nn.Module())
        root = getattr(root, owner)
    setattr(root, leaf, part)


def copy_node(graph: fx.Graph, node: fx.Node, nodes: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """A copy of a node in another graph; ``nodes`` maps the nodes that it reads."""
    copied = graph.node_copy(node, lambda old: nodes[old])
    if node.op == "placeholder":  # fx would rename one that is called like a Python builtin; the signature knows it
        copied.name = node.name
    return copied
