"""``functionalize``: one flat graph of functional ops, so that a value never changes after its node."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.from_exported import from_exported
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.fake.recurrent import told_by_shapes
from atograph.passes.ir.program import Program, copy_graph, copy_regions
from atograph.passes.ir.propagate import mode_of, run
from atograph.passes.ir.reason import ORIGIN
from atograph.passes.rewrite.writes import Hidden, without_writes, written
from atograph.passes.rules.einsum import spelt_out

_PAIRS = {
    torch.ops.aten.var_mean.correction: torch.ops.aten.var.correction,
    torch.ops.aten.var_mean.dim: torch.ops.aten.var.dim,
    torch.ops.aten.std_mean.correction: torch.ops.aten.std.correction,
    torch.ops.aten.std_mean.dim: torch.ops.aten.std.dim,
}
_OBSERVED = torch.ops.aten.fused_moving_avg_obs_fake_quant.default
_OBSERVED_FUNCTIONAL = torch.ops.aten._fused_moving_avg_obs_fq_helper_functional.default
_EINSUM = torch.ops.aten.einsum.default
_REGIONS = (torch.ops.higher_order.wrap_with_autocast, torch.ops.higher_order.wrap_with_set_grad_enabled)


@dataclass(frozen=True)
class Functionalize(RewritePass):
    """Replace ``relu_`` by ``relu`` and so on, drop assertions about types that capture has checked, take ``var_mean``
    apart, and enter regions that run under a mode of their own; in regions of control flow, too.

    Writes become values where they can be followed (`writes`). Where they cannot, and where ops stand inside a region
    (autocast, set_grad, vmap), torch's own functionalisation (`ExportedProgram.run_decompositions`) takes over: it
    traces the regions' ops, casts included.
    """

    name = "functionalize"

    def rewrite(self, program: Program) -> Program:
        """The same program without in-place ops, regions and assertions."""
        program = _without_observers(program)
        if any(_is_region(node) for node in program.graph.nodes):
            program = _by_torch(program)
        try:
            graph = without_writes(program.graph)
        except Hidden as hidden:
            if not hidden.torch_can:
                raise UserError(
                    f"what is written in place cannot be told: {hidden}.",
                    hint="Let the code give a new tensor instead of writing into one, or clone it first.",
                ) from hidden
            program = _by_torch(program)
            graph = program.graph
        return _with_plain_regions(program, _plain(graph))

    def broken(self, given: Program, result: Program) -> Iterator[str]:
        """No op writes into what it reads."""
        yield from (f"{node.name} ({node.target}) writes" for node in result.graph.nodes if written(node) is not None)


def _plain(graph: fx.Graph) -> fx.Graph:
    """A graph without assertions, pairs of results and long einsums: the very same one where it has none."""
    return _in_pairs(_without_pairs(_without_assertions(graph)))


def _with_plain_regions(program: Program, graph: fx.Graph) -> Program:
    """A program with a graph made of its own, and with plain regions.

    One that writes where nobody can tell stays, and one whose sizes torch cannot tell.
    """

    def plain(inner: fx.Graph) -> fx.Graph:
        copied, _nodes = copy_graph(inner)
        if any(node.op in ("placeholder", "call_function") and "val" not in node.meta for node in copied.nodes):
            return copied
        with suppress(Hidden):
            copied = without_writes(copied)
        return _plain(copied)

    if not any(node.op == "get_attr" for node in graph.nodes):
        return program if graph is program.graph else program.rewritten(graph, program.state)
    return program.rewritten(graph, program.state, copy_regions(graph, program, plain))


def _by_torch(program: Program) -> Program:
    try:
        interface = program.interface
        with told_by_shapes():
            exported = to_exported(program).run_decompositions({})
        result = from_exported(exported, interface.signature, interface.dynamic_called)
        result.interface = result.interface.as_captured(interface)
    except Exception as error:
        raise UserError(
            f"torch cannot make this program functional: {type(error).__name__}: {str(error).strip().splitlines()[0]}",
            hint="It writes into tensors in place: let it give new ones instead.",
        ) from error
    _note_origins(result.graph, program)
    return result


def _note_origins(graph: fx.Graph, program: Program) -> None:
    """Note at each op where the op comes from that torch made it of."""
    metas = {node.name: node.meta for node in program.graph.nodes}
    for node in graph.nodes:
        sources = node.meta.get("from_node") or []
        while sources and sources[-1].from_node:
            sources = sources[-1].from_node
        meta = metas.get(sources[-1].name, {}) if sources else {}
        node.meta.update({key: meta[key] for key in ORIGIN if key in meta})


def _without_observers(program: Program) -> Program:
    """Fake quantisation whose observer is switched off writes nothing.

    Whether it is, a buffer says; it is taken as it is now, as where code branches on it.
    """
    names = program.state_names()
    quiet = [
        node
        for node in program.graph.nodes
        if node.target is _OBSERVED and (flag := names.get(node.args[1].name)) and not program.state[flag].any()
    ]
    if not quiet:
        return program
    graph, nodes = copy_graph(program.graph)
    for old in quiet:
        node = nodes[old]
        with graph.inserting_before(node):
            both = graph.call_function(_OBSERVED_FUNCTIONAL, node.args, node.kwargs)
            result = graph.call_function(operator.getitem, (both, 0))
        both.meta, result.meta = dict(node.meta), dict(node.meta)
        with mode_of(program.graph), torch.no_grad():
            both.meta["val"] = run(both)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    return program.rewritten(graph, program.state)


def _without_assertions(given: fx.Graph) -> fx.Graph:
    if not any(_is_assertion(node) for node in given.nodes):
        return given
    graph, _nodes = copy_graph(given)
    for node in graph.nodes:
        if _is_assertion(node):
            graph.erase_node(node)
    return graph


def _without_pairs(given: fx.Graph) -> fx.Graph:
    """A variance and a mean from one op become two ops."""
    if not any(node.target in _PAIRS for node in given.nodes):
        return given
    graph, _nodes = copy_graph(given)
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
    return graph


def _in_pairs(given: fx.Graph) -> fx.Graph:
    """An einsum of more than two tensors becomes einsums of two, from left to right."""
    long = [node for node in given.nodes if node.target is _EINSUM and len(node.args[1]) > 2]
    if not long:
        return given
    graph, nodes = copy_graph(given)
    for old in long:
        node = nodes[old]
        tensors: Any = node.args[1]
        result, *rest = tensors
        term, *terms, output = _in_letters(node)
        for index, (other, following) in enumerate(zip(rest, terms, strict=True)):
            later = {*output, *(letter for each in terms[index + 1 :] for letter in each)}
            kept = "".join(letter for letter in dict.fromkeys(term + following) if letter in later)
            kept = kept if index + 1 < len(rest) else output
            with graph.inserting_before(node):
                result = graph.call_function(_EINSUM, (f"{term},{following}->{kept}", [result, other]))
            result.meta = {key: value for key, value in node.meta.items() if key != "val"}
            with mode_of(given), torch.no_grad():
                result.meta["val"] = run(result)
            term = kept
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    return graph


def _in_letters(node: fx.Node) -> list[str]:
    """The letters of each operand of an einsum and of its output, those of an ellipsis too."""
    ranks = [tensor.meta["val"].dim() for tensor in node.args[1]]  # type: ignore[union-attr]
    terms, output = spelt_out(str(node.args[0]), ranks)
    used = {*"".join(terms)}
    others = (letter for letter in ascii_letters if letter not in used)
    plain = {letter: letter if letter in ascii_letters else next(others) for letter in sorted(used)}
    return ["".join(plain[letter] for letter in term) for term in (*terms, output)]


def _is_region(node: fx.Node) -> bool:
    """Whether a node holds, or stands at the edge of, ops that run under a mode of their own."""
    return node.target in _REGIONS or getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


def _is_assertion(node: fx.Node) -> bool:
    """It restates a tensor's type and sizes, which hold by construction: capture has met them."""
    return node.target is torch.ops.aten._assert_tensor_metadata.default
