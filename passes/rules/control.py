"""Ops of control flow: what goes into a region has the dims of what it is there, and so has what comes out.

A region is a part of the program, whose ops have rules of their own (`ir.regions`). So only its edges are told here: a
placeholder of it is what is taken, and what the op gives is any of the results that it may be.
"""

from __future__ import annotations

from torch import fx

from atograph.passes.axes.dims import Shape
from atograph.passes.axes.flow import Keep, Link, Operand
from atograph.passes.ir.regions.control import Given, Taken
from atograph.passes.ir.regions.regions import why_whole
from atograph.passes.rules.table import Effect, Op, frozen_effect, rule


def entered(op: Op, taken: Taken) -> Effect:
    """What a placeholder of a region is: a value of the graph around it, or what the round before gave."""
    assert isinstance(taken.source, fx.Node)
    whole, first = op.shape(taken.source), int(taken.sliced)
    shape = whole[first:]
    operands = [Operand(taken.source, tuple(Link(first + dim, dim) for dim in range(len(shape))))]
    if isinstance(taken.again, fx.Node):
        operands.append(Operand(taken.again, tuple(Link(dim, dim) for dim in range(len(shape)))))
    return Effect((shape,), Keep(tuple(operands)))


# what either branch gives, what the last round gave, what each round gave side by side
@rule("cond", "map_impl", "scan", "while_loop")
def controlled(op: Op) -> Effect:
    """An op that runs regions."""
    control = op.control
    if control is None:
        return _whole(op, why_whole(op.node))
    for taken in dict.fromkeys(each for region in control.regions for each in region.takes.values()):
        if not isinstance(taken.source, fx.Node) or not op.has_shape(taken.source):
            continue
        if taken.sliced and control.along is not None:
            op.unify(op.shape(control.along)[0], op.shape(taken.source)[0])
            op.freeze(op.shape(taken.source)[0], f"{op.name.removesuffix('_impl')} goes over it")
        if isinstance(taken.again, fx.Node):
            _unify(op, op.shape(taken.source), op.shape(taken.again))
    outs, operands = list[Shape](), list[Operand]()
    for output, given in enumerate(control.gives):
        outs.append(_given(op, given))
        shift = int(given.stacked)
        operands += [
            Operand(each, tuple(Link(d, d + shift, output=output) for d in range(len(op.shape(each)))))
            for each in given.of if isinstance(each, fx.Node) and op.has_shape(each)
        ]  # fmt: skip
    return Effect(tuple(outs), Keep(tuple(operands)))


def _given(op: Op, given: Given) -> Shape:
    shapes = [op.shape(each) for each in given.of if isinstance(each, fx.Node) and op.has_shape(each)]
    for other in shapes[1:]:
        _unify(op, shapes[0], other)
    if given.stacked:
        assert op.control is not None and op.control.along is not None
        return (op.shape(op.control.along)[0], *shapes[0])
    return shapes[0] if shapes else ()


def _unify(op: Op, one: Shape, other: Shape) -> None:
    for a, b in zip(one, other, strict=True):
        op.unify(a, b)


# queries meet keys by a function of the user's
@rule("flex_attention")
def flex_attention(op: Op) -> Effect:
    """Attention with scores that a function of the user's changes."""
    return _whole(op, "its scores are changed by a function, which is not followed")


def _whole(op: Op, why: str) -> Effect:
    return frozen_effect(op, f"{op.name.removesuffix('_impl')} is kept whole: {why}")
