"""An ONNX file that is right at the example's sizes only: which op torch.onnx has written so, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import fx

from atograph.files.writing import scratch
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.ort.of_one import settled
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.reason import module_of, source_of
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import pytree
from atograph.values.difference import largest_difference, relative_difference, tolerance
from atograph.values.resized import around, resized
from atograph.values.structures import tensors_of
from atograph.values.user_code import one_line

_FAR = 10
"""How many times the tolerance is no rounding."""

HINT = "Trace the model with this size fixed: without it in dynamic=, or with dynamic=False for all of them."


def check_other_sizes(program: Program, file: Callable[..., object], *, where: str, form: str = "ONNX") -> None:
    """Run a file at sizes below and above the example's, where some are dynamic.

    Args:
        program: that was written, with weights and example inputs.
        file: what runs it, on the CPU.
        where: the file, or the model, for the message.
        form: what kind of file it is.

    Raises:
        UserError: it cannot be run there, or computes something else; of an ONNX file it names the op, where that can
            be found out.
    """
    example, interface = program.interface.example, program.interface
    if example is None or not interface.dynamic or any(random_ops(program)):
        return
    run = ProgramModule(program)
    for sizes in around(interface):
        inputs = resized(example, interface, sizes)
        try:
            with torch.no_grad():
                expected = _on_the_cpu(run, inputs)
        except Exception:  # a table that ends: the program takes no such size either
            continue
        try:
            found = _on_the_cpu(file, inputs)
        except Exception as error:
            raise _wrong_there(program, sizes, one_line(error.__cause__ or error), where, form) from error
        if [each.shape for each in found] != [each.shape for each in expected]:
            raise _wrong_there(program, sizes, "its outputs have another shape", where, form)
        allowed = tolerance([*expected, *program.state.values()], finest=torch.float32)
        if not largest_difference(expected, settled(program.graph, expected, found)) <= _FAR * allowed:
            raise _wrong_there(program, sizes, "it computes something else than the program", where, form)


def _on_the_cpu(run: Callable[..., object], inputs: object) -> list[torch.Tensor]:
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach(), inputs)
    return [each.detach().cpu() for each in tensors_of(run(*args, **kwargs))]


def _wrong_there(program: Program, sizes: Mapping[str, int], what: str, where: str, form: str) -> UserError:
    at = ", ".join(f"{name} {size}" for name, size in sizes.items())
    try:
        node = _first_wrong(program, sizes) if form == "ONNX" else None
    except Exception:  # an intermediate result that no file can return
        node = None
    culprit = ""
    if node is not None:
        place = ", ".join(filter(None, (module_of(node), source_of(node))))
        culprit = f"; it is torch.onnx's mistake in {node.target}{f' ({place})' if place else ''}"
    return UserError(
        f"the {form} file is right at the example's sizes only (at {at}: {what}){culprit}.", where=where, hint=HINT
    )


def _first_wrong(program: Program, sizes: Mapping[str, int]) -> fx.Node | None:
    """The first node whose value a file computes as something else, or cannot compute; None if there is none."""
    nodes: list[fx.Node] = [
        node
        for node in program.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    wrong = _wrong(program, nodes, sizes)
    if wrong is not None:
        return nodes[wrong] if wrong < len(nodes) else None
    low, high = 0, len(nodes)  # of so many nodes a file runs, of so many it does not
    while high - low > 1:
        middle = (low + high) // 2
        wrong = _wrong(program, nodes[:middle], sizes)
        if wrong is not None and wrong < middle:
            return nodes[wrong]
        low, high = (low, middle) if wrong is None else (middle, high)
    return nodes[low]


def _wrong(program: Program, nodes: Sequence[fx.Node], sizes: Mapping[str, int]) -> int | None:
    """The first of some nodes of which a file gives another value; as many as there are if none, None if it cannot be
    run."""
    graph, copies = copy_graph(program.graph)
    output = next(iter(reversed(graph.nodes)))
    output.args = ([copies[node] for node in nodes],)
    graph.eliminate_dead_code()
    part = program.rewritten(graph, program.state)
    structure = pytree.tree_structure([0] * len(nodes))
    part.interface = replace(part.interface, returns=structure, writes=(), state_pairs={}, outputs=(), left_out={})
    assert program.interface.example is not None
    args, kwargs = resized(program.interface.example, program.interface, sizes)
    with scratch() as aside, torch.no_grad():
        exported = to_exported(part)
        model = OnnxModel(export_onnx(exported, aside / Path("part.onnx")), exported)
        expected = tensors_of(ProgramModule(part)(*args, **kwargs))
        try:
            values = tensors_of(model(*args, **kwargs))
        except UserError:
            return None
    allowed = tolerance(expected, finest=torch.float32)
    for index, (one, other) in enumerate(zip(expected, values, strict=True)):
        if one.shape != other.shape or not relative_difference(one.to(other.dtype), other) <= allowed:
            return index
    return len(nodes)
