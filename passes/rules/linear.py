"""Ops that multiply and contract: convolutions, linear layers, matrix products, embeddings."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import flop_registry

from atograph.passes.axes.dims import ONE, Shape, product
from atograph.passes.axes.flow import Affine, Contraction, Link, Operand
from atograph.passes.rules.counting import flops_of
from atograph.passes.rules.pointwise import broadcast, right_aligned
from atograph.passes.rules.table import Effect, Op, Unsupported, rule

aten = torch.ops.aten

# The formulas of torch.utils.flop_counter themselves, without the wrapper that would replace a tensor by its shape.
_convolution_flops = flop_registry[aten.convolution].__wrapped__
_bmm_flops = flop_registry[aten.bmm].__wrapped__
_mm_flops = flop_registry[aten.mm].__wrapped__


def _bias(op: Op, channel: int) -> tuple[tuple[Operand, ...], ...]:
    """The bias as one more product of an affine flow; none where there is no bias."""
    return ((op.operand("bias", {0: channel}),),) if op.has("bias") else ()


def _left(op: Op, channel: int) -> tuple[Operand, ...]:
    """What is left of a layer without inputs: its bias, if it has one."""
    return tuple(operand for product in _bias(op, channel) for operand in product)


# out[n, g·o] = Σ_i x[n, g·i] w[g·o, i]: depthwise is i = 1, a plain convolution g = 1
@rule(
    aten.conv1d.default, aten.conv1d.padding,
    aten.conv2d.default, aten.conv2d.padding,
    aten.conv3d.default, aten.conv3d.padding,
)  # fmt: skip
def convolution(op: Op) -> Effect:
    """Convolution: grouped, depthwise or plain."""
    return _convolution(op, transposed=False)


# the same with w[g·i, o]
@rule(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(op: Op) -> Effect:
    """Transposed convolution."""
    return _convolution(op, transposed=True)


def _convolution(op: Op, *, transposed: bool) -> Effect:
    x, w = op.shape("input"), op.shape("weight")
    spatial = len(w) - 2
    batched = len(x) == spatial + 2
    channel = 1 if batched else 0
    groups = op.size(op["groups"])  # with weights per sample a multiple of the batch
    group = op.fresh(groups)
    for kernel in w[2:]:
        op.freeze(kernel, "kernel size", structural=True)
    for size in x[channel + 1 :]:
        op.freeze(size, "spatial size of a convolution")
    if transposed:
        outer, inner = op.fresh(w[0].size // groups), w[1]
        op.unify(w[0], product([group, outer]))
        contracted, out_channel, w_contracted = outer, product([group, inner]), 0
        w_links = [Link(0, channel, via=group), Link(1, channel)]
    else:
        outer = op.fresh(w[0].size // groups)
        op.unify(w[0], product([group, outer]))
        contracted, out_channel, w_contracted = w[1], w[0], 1
        w_links = [Link(0, channel)]
    op.unify(x[channel], product([group, contracted]))
    if op.has("bias"):
        op.unify(op.shape("bias")[0], out_channel)
    x_links = [Link(channel, channel, via=group)] + ([Link(0, 0)] if batched else [])
    sizes = op.out_sizes()
    out = (*x[:channel], out_channel, *(op.fixed(size) for size in sizes[channel + 1 :]))
    lead: Shape = () if batched else (ONE,)
    return Effect(
        outs=(out,),
        flow=Affine(
            products=((op.operand("input", x_links), op.operand("weight", w_links)), *_bias(op, channel)),
            contractions=(Contraction(((op["input"], channel), (op["weight"], w_contracted)), contracted),),
        ),
        sizes={"groups": group},
        flops=lambda at: _convolution_flops(
            at(lead + x), at(w), None, None, None, None, transposed, out_shape=at(lead + out)
        ),
        left=_left(op, channel),
    )


# out[..., o] = Σ_i x[..., i] w[o, i]
@rule(aten.linear.default)
def linear(op: Op) -> Effect:
    """Fully connected layer."""
    x, w = op.shape("input"), op.shape("weight")
    op.unify(x[-1], w[-1])
    last = len(x) - 1
    out = (*x[:-1], w[0]) if len(w) == 2 else x[:-1]
    products: tuple[tuple[Operand, ...], ...] = (
        (
            op.operand("input", {i: i for i in range(last)}),
            op.operand("weight", {0: last} if len(w) == 2 else {}),
        ),
    )
    if op.has("bias") and op.shape("bias"):
        op.unify(op.shape("bias")[0], w[0])
        products += _bias(op, last)
    contraction = Contraction(((op["input"], last), (op["weight"], len(w) - 1)), w[-1])
    rows = product(x[:-1])
    return Effect(
        outs=(out,),
        flow=Affine(products, (contraction,)),
        flops=(lambda at: _mm_flops(at((rows, w[-1])), at((w[-1], w[0])))) if len(w) == 2 else None,
        left=_left(op, last) if not op.has("bias") or op.shape("bias") else None,
    )


# out[..., m, n] = Σ_k a[..., m, k] b[..., k, n], batch dims broadcast
@rule(aten.matmul.default, aten.linalg_matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default,
      aten.dot.default, aten.vdot.default)  # fmt: skip
def matmul(op: Op) -> Effect:
    """Matrix products of two activations, or of an activation and a raw parameter."""
    left, right = op.node.args[0], op.node.args[1]
    assert isinstance(left, torch.fx.Node) and isinstance(right, torch.fx.Node)
    a, b = op.shape(left), op.shape(right)
    rows: Shape = a[-2:-1] if len(a) > 1 else ()
    columns: Shape = b[-1:] if len(b) > 1 else ()
    contracted_b = len(b) - 2 if len(b) > 1 else 0
    op.unify(a[-1], b[contracted_b])
    lead = broadcast(op, [a[:-2], b[:-2]])
    out = (*lead, *rows, *columns)
    a_links = right_aligned(len(a) - 2, len(lead)) if len(a) > 1 else {}
    b_links = right_aligned(len(b) - 2, len(lead)) if len(b) > 1 else {}
    if rows:
        a_links[len(a) - 2] = len(lead)
    if columns:
        b_links[len(b) - 1] = len(out) - 1
    # torch does not count matrix × vector; which way it goes depends on strides and gradients
    counted = min(len(a), len(b)) > 1 or bool(flops_of(op.node))
    return Effect(
        outs=(out,),
        flow=Affine(
            products=((op.operand(left, a_links), op.operand(right, b_links)),),
            contractions=(Contraction(((left, len(a) - 1), (right, contracted_b)), a[-1]),),
        ),
        flops=(
            lambda at: _bmm_flops(
                at((product(lead), product(rows), a[-1])), at((product(lead), a[-1], product(columns)))
            )
        )
        if counted
        else None,
        left=(),
    )


# out[m, n] = bias[n] + Σ_k a[m, k] b[k, n]
@rule(aten.addmm.default)
def addmm(op: Op) -> Effect:
    """Matrix product plus a bias."""
    bias, a, b = op.shape("self"), op.shape("mat1"), op.shape("mat2")
    op.unify(a[1], b[0])
    broadcast(op, [bias, (a[0], b[1])])
    links = right_aligned(len(bias), 2)
    return Effect(
        outs=((a[0], b[1]),),
        flow=Affine(
            products=((op.operand("mat1", {0: 0}), op.operand("mat2", {1: 1})), (op.operand("self", links),)),
            contractions=(Contraction(((op["mat1"], 1), (op["mat2"], 0)), a[1]),),
        ),
        flops=lambda at: _mm_flops(at(a), at(b)),
        left=(op.operand("self", links),) if op["beta"] == 1 else None,
    )


# out[..., d] = w[index[...], d]: the vocabulary is indexed by data
@rule(aten.embedding.default)
def embedding(op: Op) -> Effect:
    """Table look-up."""
    w, index = op.shape("weight"), op.shape("indices")
    op.freeze(w[0], "rows are chosen by index")
    return Effect(outs=((*index, w[1]),), flow=Affine(((op.operand("weight", {1: len(index)}),),)))


# out = β bias + α Σ_k a[.., m, k] b[.., k, n]
@rule(aten.baddbmm.default)
def baddbmm(op: Op) -> Effect:
    """Batched matrix product plus a matrix."""
    bias, a, b = op.shape("self"), op.shape("batch1"), op.shape("batch2")
    op.unify(a[0], b[0])
    op.unify(a[2], b[1])
    out = (a[0], a[1], b[2])
    broadcast(op, [bias, out])
    products = (
        (op.operand("batch1", {0: 0, 1: 1}), op.operand("batch2", {0: 0, 2: 2})),
        (op.operand("self", right_aligned(len(bias), 3)),),
    )
    contraction = Contraction(((op["batch1"], 2), (op["batch2"], 1)), a[2])
    left = products[1] if op["beta"] == 1 else None
    return Effect((out,), Affine(products, (contraction,)), flops=lambda at: _bmm_flops(at(a), at(b)), left=left)


# out[i.., j..] = Σ_k a[i.., k..] b[k.., j..]
@rule(aten.tensordot.default)
def tensordot(op: Op) -> Effect:
    """Contraction of several dims of two tensors."""
    a, b = op.shape("self"), op.shape("other")
    over_a = [int(d) % len(a) for d in op["dims_self"]]
    over_b = [int(d) % len(b) for d in op["dims_other"]]
    for x, y in zip(over_a, over_b, strict=True):
        op.unify(a[x], b[y])
    kept_a = [d for d in range(len(a)) if d not in over_a]
    kept_b = [d for d in range(len(b)) if d not in over_b]
    out = tuple(a[d] for d in kept_a) + tuple(b[d] for d in kept_b)
    products = (
        (
            op.operand("self", {d: i for i, d in enumerate(kept_a)}),
            op.operand("other", {d: len(kept_a) + i for i, d in enumerate(kept_b)}),
        ),
    )
    contractions = tuple(
        Contraction(((op["self"], x), (op["other"], y)), a[x]) for x, y in zip(over_a, over_b, strict=True)
    )
    rows, inner = product([a[d] for d in kept_a]), product([a[d] for d in over_a])
    columns = product([b[d] for d in kept_b])
    return Effect(
        (out,),
        Affine(products, contractions),
        flops=(lambda at: _mm_flops(at((rows, inner)), at((inner, columns)))) if flops_of(op.node) else None,
        left=(),
    )


# out[i, j] = a[i] b[j]
@rule(aten.outer.default)
def outer(op: Op) -> Effect:
    """Outer product of two vectors."""
    a, b = op.shape("self"), op.shape("vec2")
    return Effect(((a[0], b[0]),), Affine(((op.operand("self", {0: 0}), op.operand("vec2", {0: 1})),)))


# rows come sorted by expert: each run of them meets its expert's matrix, out[t, n] = Σ_k x[t, k] w[expert(t), k, n]
@rule(aten._grouped_mm.default, "transformers.grouped_mm_fallback.default")
def grouped_matmul(op: Op) -> Effect:
    """The matrix products of a mixture of experts: experts stay, their widths are axes."""
    x, w = (op.shape(node) for node in op.tensors()[:2])
    if len(x) != 2 or len(w) != 3 or op.has("bias"):
        raise Unsupported("this form of grouped product")
    left, right = op.tensors()[:2]
    op.freeze(w[0], "tokens are sent to experts by number")
    for node in op.tensors()[2:]:
        for dim in op.shape(node):
            op.freeze(dim, "it counts the tokens of each expert")
    op.unify(x[1], w[1])
    products = ((op.operand(left, {0: 0}), op.operand(right, {2: 1})),)
    return Effect(
        ((x[0], w[2]),),
        Affine(products, (Contraction(((left, 1), (right, 1)), x[1]),)),
        flops=lambda at: _mm_flops(at(x), at(w[1:])),
        left=(),
    )


# distances of rows: a zero adds nothing, if both sides are zero
@rule(aten.cdist.default)
def pairwise_distances(op: Op) -> Effect:
    """Distances between the rows of two matrices."""
    if not op["p"] > 0:
        raise Unsupported(f"a norm of order {op['p']}")
    a, b = op.shape("x1"), op.shape("x2")
    op.unify(a[-1], b[-1])
    lead = broadcast(op, [a[:-2], b[:-2]])
    contractions = (
        Contraction(((op["x1"], len(a) - 1),), a[-1]),
        Contraction(((op["x2"], len(b) - 1),), b[-1]),
    )
    return Effect(((*lead, a[-2], b[-2]),), Affine(((),), contractions))


# out[.., o] = Σ_ij x1[.., i] w[o, i, j] x2[.., j] + b[o]
@rule(aten.bilinear.default)
def bilinear(op: Op) -> Effect:
    """Bilinear layer."""
    x, y, w = op.shape("input1"), op.shape("input2"), op.shape("weight")
    op.unify(x[-1], w[1])
    op.unify(y[-1], w[2])
    lead = broadcast(op, [x[:-1], y[:-1]])
    last = len(lead)
    products: tuple[tuple[Operand, ...], ...] = ((op.operand("weight", {0: last}),),)
    if op.has("bias"):
        op.unify(op.shape("bias")[0], w[0])
        products += _bias(op, last)
    contractions = (
        Contraction(((op["input1"], len(x) - 1), (op["weight"], 1)), w[1]),
        Contraction(((op["input2"], len(y) - 1), (op["weight"], 2)), w[2]),
    )
    return Effect(((*lead, w[0]),), Affine(products, contractions), left=_left(op, last))
