"""Forms of ops that torch.onnx has no word for: rewritten to the same function, or refused in words."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from atograph.onnx.decompositions import copied
from atograph.onnx.per_sample import as_product, caller, follows_the_batch
from atograph.onnx.pieces import as_slices, in_pieces
from atograph.onnx.translations.pools import reads_places
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.edits import rebuilt
from atograph.passes.ir.reason import module_in, source_of

_ATEN = torch.ops.aten
_CLAMPS = (_ATEN.clamp.default, _ATEN.clamp_.default, _ATEN.clip.default, _ATEN.clip_.default)
_BOUNDS = ("min", "max")
_SMOOTH = (
    _ATEN._upsample_bilinear2d_aa.default, _ATEN._upsample_bilinear2d_aa.vec, _ATEN._upsample_bicubic2d_aa.default,
    _ATEN._upsample_bicubic2d_aa.vec,
)  # fmt: skip


def expressible(program: ExportedProgram) -> ExportedProgram:
    """The same program in forms that torch.onnx takes.

    Raises:
        UserError: there is no such form.
    """
    if not any(_has_another_form(node) for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    for node in list(graph.nodes):
        if _mixed(node):
            low, high = map(float, _bounds(node))  # type: ignore[arg-type]
            node.args, node.kwargs = (node.args[0], low, high), {}
        elif _masked(node):
            _laid_out_in_order(node)
        elif in_pieces(node):
            as_slices(node, caller(node))
        elif reads_places(node):
            raise _reads_places(node)
        elif _one_wide(node):
            raise _wrong_in_torch(node)
        elif follows_the_batch(node) and not as_product(node):
            raise _follows_the_batch(node)
    return rebuilt(program, root=fx.GraphModule(program.graph_module, graph), graph=graph)


def _has_another_form(node: fx.Node) -> bool:
    return any(odd(node) for odd in (_mixed, _masked, in_pieces, reads_places, follows_the_batch, _one_wide))


def _bounds(node: fx.Node) -> list[object]:
    return [node.args[i] if i < len(node.args) else node.kwargs.get(name) for i, name in enumerate(_BOUNDS, 1)]


def _mixed(node: fx.Node) -> bool:
    """Whether a clamp has an integer and a fraction as bounds, for which torch.onnx promotes to no type."""
    return node.target in _CLAMPS and {type(bound) for bound in _bounds(node)} == {int, float}


def _masked(node: fx.Node) -> bool:
    """Whether it is attention with a mask, whose result torch.onnx takes to lie in memory in two orders."""
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    return node.target is _ATEN.scaled_dot_product_attention.default and mask is not None


def _laid_out_in_order(node: fx.Node) -> None:
    """Let what uses a node read a copy of it whose memory lies in the order of its dims."""
    with node.graph.inserting_after(node):
        copy = node.graph.call_function(_ATEN.clone.default, (node,), {"memory_format": torch.contiguous_format})
    copy.meta = {**node.meta, "val": node.meta["val"].contiguous()}
    node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)


def _reads_places(node: fx.Node) -> UserError:
    return UserError(
        "torch.onnx has nothing to write the places of the largest with, which an adaptive pooling gives beside them.",
        where=_place(node),
        hint="Do without return_indices in the model, or without ONNX: --target pt2.",
    )


def _one_wide(node: fx.Node) -> bool:
    """Whether it changes the height of images that are one wide then, with antialiasing: its second pass is wrong on
    PyTorch's CPU kernels (2.13), which take a width of 1 for channels that come last, and give one row everywhere."""
    source = node.args[0] if node.target in _SMOOTH else None
    if not isinstance(source, fx.Node):
        return False
    (height, _width), (to, width) = source.meta["val"].shape[-2:], node.meta["val"].shape[-2:]
    return isinstance(width, int) and width == 1 and not (isinstance(to, int) and to in (1, height))


def _wrong_in_torch(node: fx.Node) -> UserError:
    return UserError(
        "PyTorch computes interpolate(antialias=True) to a width of 1 wrong (its CPU kernel gives one row everywhere); "
        "an ONNX file would give what the op says, and be another function.",
        where=_place(node),
        hint="Change the height in a call of its own, and then the width: two calls are right.",
    )


def _follows_the_batch(node: fx.Node) -> UserError:
    return UserError(
        "ONNX cannot express this convolution with weights per sample: its groups follow the batch, and ONNX's Conv "
        "has a fixed count of groups.",
        where=_place(node),
        hint="Compute it in the model as F.unfold and torch.matmul, which take any batch, or scale the convolution's "
        "input and output instead of its weight; or do without ONNX: --target pt2.",
    )


def _place(node: fx.Node) -> str:
    return ", ".join(filter(None, (module_in(node.meta), source_of(node))))
