"""``functionalize``: one flat graph of functional ops, so that a value never changes after its node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from atograph.passes.base import RewritePass
from atograph.passes.errors import UserError
from atograph.passes.exported import from_exported, to_exported
from atograph.passes.program import Program, copy_graph
from torch import fx

_PAIRS = {
    torch.ops.aten.var_mean.correction: torch.ops.aten.var.correction,
    torch.ops.aten.var_mean.dim: torch.ops.aten.var.dim,
    torch.ops.aten.std_mean.correction: torch.ops.aten.std.correction,
    torch.ops.aten.std_mean.dim: torch.ops.aten.std.dim,
}
_REGIONS = (torch.ops.higher_order.wrap_with_autocast, torch.ops.higher_order.wrap_with_set_grad_enabled)


@dataclass(frozen=True)
class Functionalize(RewritePass):
    """Replace ``relu_`` by ``relu`` and so on, enter regions, drop assertions about types that capture has checked, and
    take ``var_mean`` apart.

    A write that no other live view can see is replaced node by node, which leaves all other ops whole. Where a view
    of the written tensor is still read, and where ops stand inside a region (autocast, set_grad, vmap), torch's own
    functionalisation (`ExportedProgram.run_decompositions`) takes over: it traces the regions' ops, casts included.
    """

    name = "functionalize"

    def rewrite(self, program: Program) -> Program:
        """The same program without in-place ops, regions and assertions."""
        if any(_is_region(node) for node in program.graph.nodes):
            program = _by_torch(program)
        return _without_pairs(_without_assertions(_without_writes(program)))


def _by_torch(program: Program) -> Program:
    try:
        return from_exported(to_exported(program).run_decompositions({}), program.interface.signature)
    except Exception as error:
        raise UserError(
            f"torch cannot make this program functional: {type(error).__name__}: {str(error).strip().splitlines()[0]}",
            hint="It writes into tensors in place: let it give new ones instead.",
        ) from error


def _without_writes(program: Program) -> Program:
    if not any(_written(node) is not None for node in program.graph.nodes):
        return program
    graph, _nodes = copy_graph(program.graph)
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in order:
        target = _written(node)
        if target is None:
            continue
        functional = _functional(node.target)
        if functional is None or _seen_by_others(node, target, order):
            return _by_torch(program)
        node.target = functional
        for user in [user for user in target.users if order[user] > order[node]]:
            user.replace_input_with(target, node)
    return program.rewritten(graph, program.state)


def _without_assertions(program: Program) -> Program:
    if not any(_is_assertion(node) for node in program.graph.nodes):
        return program
    graph, _nodes = copy_graph(program.graph)
    for node in graph.nodes:
        if _is_assertion(node):
            graph.erase_node(node)
    return program.rewritten(graph, program.state)


def _without_pairs(program: Program) -> Program:
    """A variance and a mean from one op become two ops."""
    if not any(node.target in _PAIRS for node in program.graph.nodes):
        return program
    graph, _nodes = copy_graph(program.graph)
    for node in list(graph.nodes):
        if node.target not in _PAIRS:
            continue
        spread = _PAIRS[node.target]
        for user in list(node.users):
            index = user.args[1]
            with graph.inserting_before(user):
                if index == 0:
                    apart = graph.call_function(spread, node.args, node.kwargs)
                else:
                    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
                    keep = node.args[3] if len(node.args) > 3 else node.kwargs.get("keepdim", False)
                    apart = graph.call_function(torch.ops.aten.mean.dim, (node.args[0], dims, keep))
            apart.meta = dict(user.meta)
            user.replace_all_uses_with(apart)
            graph.erase_node(user)
        graph.erase_node(node)
    return program.rewritten(graph, program.state)


def _is_region(node: fx.Node) -> bool:
    """Whether a node holds, or stands at the edge of, ops that run under a mode of their own."""
    return node.target in _REGIONS or getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


def _is_assertion(node: fx.Node) -> bool:
    """It restates a tensor's type and sizes, which hold by construction: capture has met them."""
    return node.target is torch.ops.aten._assert_tensor_metadata.default


def _written(node: fx.Node) -> fx.Node | None:
    """The node whose value an in-place op writes; None for a functional op."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return None
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node):
            return value
    return None


def _functional(target: Any) -> Any:
    """``aten.relu_.default`` → ``aten.relu.default``; None where there is no such op with the same arguments."""
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None:
        return None
    overload = getattr(packet, target._overloadname, None)
    if overload is None or _argument_types(overload) != _argument_types(target):
        return None
    return overload


def _argument_types(overload: Any) -> list[str]:
    return [str(argument.type) for argument in overload._schema.arguments]


def _aliases(node: fx.Node) -> Iterator[fx.Node]:
    """Inputs and users of a node that may share its memory."""
    for other in [*node.all_input_nodes, *node.users]:
        view = other if node in other.all_input_nodes else node
        schema = getattr(view.target, "_schema", None)
        if (schema is not None and any(result.alias_info is not None for result in schema.returns)) or (
            schema is None and view.op == "call_function"
        ):
            yield other


def _seen_by_others(write: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether memory that ``write`` changes is read after it through another node than ``target``, or before it is a
    placeholder (a parameter or an input that is mutated)."""
    seen, queue = {target, write}, [target]
    while queue:
        for alias in _aliases(queue.pop()):
            if alias in seen or order[alias] > order[write]:
                continue
            if alias.op == "placeholder" or any(order[user] > order[write] for user in alias.users):
                return True
            seen.add(alias)
            queue.append(alias)
    return target.op == "placeholder"
