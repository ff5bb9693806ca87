"""Which groups are heads of attention, and how wide these are: read off the ops, whatever the layers are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from atograph.passes.analysis.couplings import fixed_values
from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Axis, Dim, Permuted, axes_of
from atograph.passes.axes.flow import Affine
from atograph.passes.ir.program import Program

Part: TypeAlias = Literal["heads", "kv_heads", "head_dim", "values"]
"""Of attention: the heads (of queries, for each head of keys, where these are fewer), the heads of keys and values
there, the width of queries and keys, and that of values."""


def attention_parts(program: Program, groups: Groups) -> dict[str, Part]:
    """Name of a group → what it is in attention; groups that are nothing there are missing.

    The width of heads is what two computed tensors are summed over (queries with keys). What multiplies it from the
    left in a parameter's dimension counts heads. Where two do, with grouped queries, one does so in fewer dimensions:
    those of the queries. What else heads multiply is the width of values.
    """
    by_axis = groups.by_axis()
    pairs = list(_products(program, groups))
    widths = {axis for axis in _summed_between(program, groups) if axis in by_axis}
    found = dict[str, Part]()
    for width in widths:
        found[by_axis[width].name] = "head_dim"
    heads = dict[Axis, None]()
    for width in widths:
        around = dict[Axis, set[_Site]]()
        for member, outer, inner in pairs:
            if inner is width and outer in by_axis and outer not in widths:
                around.setdefault(outer, set()).add(member)
        for outer, members in around.items():
            of_keys_too = any(other < members for other in around.values())
            found.setdefault(by_axis[outer].name, "kv_heads" if of_keys_too else "heads")
            heads[outer] = None
    for _member, outer, inner in pairs:
        if outer in heads and inner in by_axis and inner not in heads:
            found.setdefault(by_axis[inner].name, "values")
    return found


def _summed_between(program: Program, groups: Groups) -> Iterator[Axis]:
    """The axes that two tensors which both depend on the inputs are summed over."""
    axes = groups.axes
    fixed = fixed_values(program, axes).nodes
    for effect in axes.effects.values():
        for contraction in effect.flow.contractions if isinstance(effect.flow, Affine) else ():
            computed = [node for node, _dim in contraction.sites if node not in fixed]
            if len(computed) > 1:
                yield from axes_of(axes.resolve(contraction.over))


_Site: TypeAlias = tuple[str, int]
"""A parameter or buffer, and a dimension of it."""


def _products(program: Program, groups: Groups) -> Iterator[tuple[_Site, Axis, Axis]]:
    """Where one axis multiplies another from the left along a dimension of a parameter: heads × their width."""
    for node, name in program.state_nodes():
        for index, dim in enumerate(groups.axes.shape(node)):
            for outer, inner in _nested(dim):
                yield (name, index), outer, inner


def _nested(dim: Dim) -> Iterator[tuple[Axis, Axis]]:
    """Pairs of axes of which the first stands left of the second in a product.

    >>> heads, width = Axis(4), Axis(8)
    >>> list(_nested(Dim(((heads, width),)))) == [(heads, width)]
    True
    """
    for term in dim.terms:
        left = list[Axis]()
        for factor in term:
            source = factor.source if isinstance(factor, Permuted) else factor
            if isinstance(source, Dim):
                yield from _nested(source)
            inner = [source] if isinstance(source, Axis) else list(axes_of(source))
            yield from ((outer, axis) for outer in left for axis in inner)
            left += inner
