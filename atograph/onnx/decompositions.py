"""Ops that torch.onnx has no word for, taken apart one by one, where torch would trace the whole program anew."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import cache, partial
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.node import Argument

from atograph.onnx.registry import in_place_of
from atograph.passes.ir.exported.edits import rebuilt
from atograph.passes.torch_private import (
    OpOverload,
    is_composite,
    may_stay_composite,
    onnx_decompositions,
    onnx_passes,
)

_ATEN = torch.ops.aten
_SQUEEZE = torch.ops.prims.squeeze.default
_BIT_BY_BIT: Mapping[object, OpOverload] = {
    _ATEN.__and__.Tensor: _ATEN.bitwise_and.Tensor,
    _ATEN.__or__.Tensor: _ATEN.bitwise_or.Tensor,
}
_IN_ORDER: dict[str, Argument] = {"memory_format": torch.contiguous_format}


def one_by_one() -> AbstractContextManager[None]:
    """Within it, ``torch.onnx.export`` traces a program anew only where an op needs that, most of what it does."""
    return in_place_of(onnx_passes, "decompose_with_registry", partial(partial, _decomposed))


def _decomposed(by_torch: Any, program: ExportedProgram, registry: Any) -> ExportedProgram:
    quick = decomposed(program, {*onnx_decompositions.get_onnx_implemented_overloads(registry)})
    return by_torch(program, registry) if quick is None else quick


def decomposed(program: ExportedProgram, translated: Collection[object]) -> ExportedProgram | None:
    """A program in ops that torch.onnx translates: what ``run_decompositions`` gives, in a tenth of the time.

    Args:
        program: it is left as it is.
        translated: the ops that torch.onnx has a word for.

    Returns:
        None where an op has to be taken apart that `ROWS` does not know: torch does it then.
    """
    graph = copied(program.graph)
    for node in list(graph.nodes):
        if node.op == "get_attr":
            return None
        if node.op != "call_function" or (node.target in translated and _stays(node.target)):
            continue
        row = ROWS.get(node.target)
        if row is None or not row(node):
            return None
    return rebuilt(program, root=fx.GraphModule(program.graph_module, graph), graph=graph)


def copied(graph: fx.Graph) -> fx.Graph:
    """A copy whose nodes are called as they are: Python calls an input `input_1` that is called `input`, as its own."""
    other = deepcopy(graph)
    for old, node in zip(graph.nodes, other.nodes, strict=True):
        node.name = old.name
    return other


@cache
def _stays(target: object) -> bool:
    """Whether torch, tracing a program anew, leaves an op that has a translation."""
    if not isinstance(target, OpOverload):
        return True  # arithmetic of sizes, and parts of a result
    return not target._schema.is_mutable and (not is_composite(target) or may_stay_composite(target))


def _viewed(node: fx.Node) -> bool:
    """A reshape becomes a view of what lies in order, where 0 is a size like any: in a reshape of ONNX it is none."""
    source, shape = node.args
    assert isinstance(source, fx.Node)
    with node.graph.inserting_before(node):
        copy = node.graph.call_function(_ATEN.clone.default, (source,), _IN_ORDER)
    copy.meta = {**node.meta, "val": source.meta["val"].contiguous()}
    node.target, node.args = _ATEN.view.default, (copy, shape)
    return True


def _reshaped(node: fx.Node) -> bool:
    """What is flattened or unflattened is reshaped, if each size that is not a number is one of the input's."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    places = {str(size): dim for dim, size in enumerate(source.meta["val"].shape)}
    sizes: list[int | fx.Node] = []
    for size in node.meta["val"].shape:
        if isinstance(size, int):
            sizes.append(size)
            continue
        if str(size) not in places:
            return False
        with node.graph.inserting_before(node):
            read = node.graph.call_function(_ATEN.sym_size.int, (source, places[str(size)]))
        read.meta = {**node.meta, "val": size}
        sizes.append(read)
    node.args, node.kwargs = (source, sizes), {}
    return _viewed(node)


def _copied_in_order(node: fx.Node) -> bool:
    """The same tensor, whose memory lies in the order of its dims."""
    node.target, node.args, node.kwargs = _ATEN.clone.default, (node.args[0],), _IN_ORDER
    return True


def _kept_whole(node: fx.Node) -> bool:
    """A dropout outside of a training gives what it takes."""
    training = node.args[2] if len(node.args) > 2 else node.kwargs["train"]
    if training is not False:
        return False
    node.target, node.args, node.kwargs = _ATEN.clone.default, (node.args[0],), {}
    return True


def _of_its_type(node: fx.Node) -> bool:
    """A conversion to the type that a tensor has gives what it takes; devices and layouts are none of a file's."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    dtype = node.meta["val"].dtype
    if dtype == source.meta["val"].dtype:
        node.target, node.args, node.kwargs = _ATEN.clone.default, (source,), {}
    else:
        node.target, node.args, node.kwargs = _ATEN._to_copy.default, (source,), {"dtype": dtype}
    return True


def _bit_by_bit(node: fx.Node) -> bool:
    """Python's operators for masks become the ops that they call."""
    node.target = _BIT_BY_BIT[node.target]
    return True


def _dropped_by_torch(_node: fx.Node) -> bool:
    """What states a tensor's type and sizes: torch.onnx drops it before it writes."""
    return True


def _by_running_statistics(node: fx.Node) -> bool:
    """A batch norm outside of a training becomes the op for that."""
    names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if given.pop("training") is not False:
        return False
    value = node.meta["val"]
    with node.graph.inserting_before(node):
        args = tuple(given[name] for name in names if name in given)
        norm = node.graph.call_function(_ATEN._native_batch_norm_legit_no_training.default, args)
    norm.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
    node.target, node.args, node.kwargs = operator.getitem, (norm, 0), {}
    return True


def _squeezed(node: fx.Node) -> bool:
    """Dims of size 1 that are named go, one after the other from the last."""
    source, dims = node.args
    assert isinstance(source, fx.Node) and isinstance(dims, (list, tuple))
    shape = source.meta["val"].shape
    if not all(isinstance(dim, int) and isinstance(shape[dim], int) for dim in dims):
        return False
    places = sorted(dim % len(shape) for dim in dims if isinstance(dim, int) and shape[dim] == 1)
    if not places:
        return _copied_in_order(node)
    for dim in reversed(places[1:]):
        with node.graph.inserting_before(node):
            squeezed = node.graph.call_function(_SQUEEZE, (source, [dim]))
        squeezed.meta = {**node.meta, "val": source.meta["val"].squeeze(dim)}
        source = squeezed
    node.target, node.args = _SQUEEZE, (source, [places[0]])
    return True


ROWS: Mapping[object, Callable[[fx.Node], bool]] = {
    _ATEN.reshape.default: _viewed,
    _ATEN.flatten.using_ints: _reshaped,
    _ATEN.unflatten.int: _reshaped,
    _ATEN.contiguous.default: _copied_in_order,
    _ATEN.dropout.default: _kept_whole,
    _ATEN.batch_norm.default: _by_running_statistics,
    _ATEN.squeeze.dims: _squeezed,
    _ATEN.to.dtype: _of_its_type,
    _ATEN.to.dtype_layout: _of_its_type,
    _ATEN.to.device: _of_its_type,
    **dict.fromkeys(_BIT_BY_BIT, _bit_by_bit),
    _ATEN._assert_tensor_metadata.default: _dropped_by_torch,
}
"""Op → what writes a node of it as other ops, in its place and under its name; False where it cannot."""
