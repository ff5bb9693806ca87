"""What nodes are called: by the module that issued them and by their op, ``layer1_0_conv1_conv2d``.

Passes copy nodes with their names, so a name stays what it is whatever a pass puts before it; and a line that is new in
the user's model renames nothing outside its own module.
"""

from __future__ import annotations

from itertools import chain, count

from torch import fx

from atograph.passes.ir.program import Program, copy_regions
from atograph.passes.ir.reason import module_of
from atograph.passes.torch_private import OpOverload


def named(program: Program) -> Program:
    """The same program, whose ops have plain names; those of its placeholders stay. No two nodes share a name, those of
    regions included."""
    taken: set[str] = set()
    graph = _named(program.graph, taken)
    return program.rewritten(graph, program.state, copy_regions(graph, program, lambda inner: _named(inner, taken)))


def _named(graph: fx.Graph, taken: set[str]) -> fx.Graph:
    """A graph with plain names, none of which is taken; its own are taken then."""
    named, nodes, others = fx.Graph(), dict[fx.Node, fx.Node](), frozenset(taken)
    for node in graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda old: nodes[old])
        name = plain_name(node) if node.op.startswith("call_") else node.name
        known = taken if node.op == "placeholder" else others  # of ops fx knows which are taken in this graph
        name = next(each for each in chain([name], (f"{name}_{n}" for n in count(1))) if each not in known)
        copied = named.create_node(node.op, node.target, args, kwargs, name)
        if node.op == "placeholder":  # fx would rename one that is called like a Python builtin
            copied.name = name
            copied.target = name  # in Python, a name that another one is an argument under would be written over
        copied.meta = dict(node.meta)
        nodes[node] = copied
        taken.add(copied.name)
    return named


def plain_name(node: fx.Node) -> str:
    """What a node would be called if it were the only one: ``stem_1_batch_norm``; ``relu`` outside of all modules.

    A module that is called like the op is not said twice: ``stem_relu``.
    """
    *owners, op = [*module_of(node).split("."), op_name(node)]
    if owners and owners[-1] == op:
        owners.pop()
    return "_".join([owner for owner in owners if owner] + [op])


def op_name(node: fx.Node) -> str:
    """What a node's op is called without its package and overload: ``conv2d``."""
    if isinstance(node.target, OpOverload):
        return str(node.target.overloadpacket.__name__).strip("_")
    return str(getattr(node.target, "__name__", node.target)).rpartition(".")[2].strip("_")
