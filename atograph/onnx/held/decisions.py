"""Decisions of the example in an ONNX file: it refuses inputs whose values decide otherwise.

ONNX has no op that raises. A `Gather` from one zero takes the first place where a decision holds, and the second one,
which there is not, elsewhere: that is an error, with the name of the node, which says what was decided. What it gives
is added to the outputs. A runtime that reads beyond a tensor without a word computes what the file said without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram

from atograph.onnx.decompositions import copied
from atograph.onnx.per_sample import caller
from atograph.passes.ir.decisions import is_check
from atograph.passes.ir.exported.edits import rebuilt

_ATEN = torch.ops.aten
_LONGEST = 200


def hold_decisions(program: ExportedProgram) -> ExportedProgram:
    """The same program, whose outputs are computed with what raises in ONNX where a decision is another one."""
    checks = [*_checks(program.graph)]
    if not checks:
        return program
    graph = copied(program.graph)
    output = next(iter(reversed(graph.nodes)))
    zeros = list[fx.Node]()
    for check in [*_checks(graph)]:
        with graph.inserting_before(check):
            zeros.append(_zero(check))
    for result in dict.fromkeys(each for each in output.args[0] if isinstance(each, fx.Node)):
        value = result.meta.get("val")
        if result.op != "placeholder" and isinstance(value, torch.Tensor) and not value.is_complex():
            _add(graph, output, result, zeros)
    return rebuilt(program, root=fx.GraphModule(program.graph_module, graph), graph=graph)


def name_decisions(model: ir.Model, program: ExportedProgram) -> None:
    """Let the nodes that raise be called by what was decided: errors of ONNX Runtime name them."""
    nodes = (node for node in model.graph if node.op_type == "Gather" and _is_one_zero(node.inputs[0]))
    seen = Counter[str]()
    for node, check in zip(nodes, _checks(program.graph), strict=False):
        told = f"only for inputs where {str(check.args[1])[:_LONGEST]}"
        seen[told] += 1
        node.name = told if seen[told] == 1 else f"{told} ({seen[told]})"  # one for each round of a loop


def _is_one_zero(value: ir.Value | None) -> bool:
    constant = None if value is None else value.const_value
    return constant is not None and [*constant.shape] == [1] and int(constant.numpy()[0]) == 0


def _checks(graph: fx.Graph) -> Iterator[fx.Node]:
    """Those whose outcome is the same in any runtime: no number of a float is compared for being just that."""
    for node in graph.nodes:
        holds = node.args[0] if is_check(node) else None
        if isinstance(holds, fx.Node):
            read = holds.args[0] if holds.target is _ATEN.eq.Scalar else None
            if not isinstance(read, fx.Node) or not read.meta["val"].is_floating_point():
                yield node


def _zero(check: fx.Node) -> fx.Node:
    """A number, zero, that there is only where a decision holds."""
    holds = check.args[0]
    assert isinstance(holds, fx.Node)
    call = caller(holds)
    place = call(_ATEN.view.default, _cast(call, call(_ATEN.logical_not.default, holds), torch.int64), [1])
    taken = call(_ATEN.index_select.default, call(_ATEN.full.default, [1], 0), 0, place)
    return call(_ATEN.view.default, taken, [])


def _add(graph: fx.Graph, output: fx.Node, result: fx.Node, zeros: list[fx.Node]) -> None:
    """Let an output be a sum with zeros; it has the name that the result had, which the program knows it by."""
    name, call = result.name, caller(result)
    result.name = f"{name}_of_any_input"
    with graph.inserting_before(output):
        held = result
        for zero in zeros:
            if result.meta["val"].dtype == torch.bool:
                held = call(_ATEN.logical_or.default, held, _cast(call, zero, torch.bool))
            else:
                held = call(_ATEN.add.Tensor, held, _cast(call, zero, result.meta["val"].dtype))
    held.name = name  # the graph's own names are never given twice
    output.replace_input_with(result, held)


def _cast(call: Callable[..., fx.Node], node: fx.Node, dtype: torch.dtype) -> fx.Node:
    made = call(_ATEN._to_copy.default, node)
    made.kwargs = {"dtype": dtype}
    made.meta["val"] = made.meta["val"].to(dtype)
    return made
