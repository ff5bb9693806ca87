"""Unification of dims: the one operation that axis inference consists of.

`unify(a, b)` makes two dims the same, as in type inference: equal axes are merged, a sum aligned with a finer sum cuts
an axis in two, a product aligned with a finer product factors it. Where indices stand in another order (`Permuted`),
units are matched one by one (`scatter.py`). What cannot be aligned is frozen with the reason.
"""

from __future__ import annotations

from atograph.passes.axes.dims import (
    ONE,
    Axis,
    Dim,
    Factor,
    Permuted,
    Term,
    axes_of,
    concat,
    dim_of,
    product,
    term_size,
)
from atograph.passes.axes.inference import Inference
from atograph.passes.axes.orders import labels_of, transposition
from atograph.passes.axes.scatter import merge, separate
from atograph.passes.ir.reason import Reason
from atograph.passes.ir.sizes import Undecided, common_divisor, is_dynamic


class _Misaligned(Exception):
    """Two dims have no common refinement that this algorithm finds."""


def unify(inference: Inference, a: Dim, b: Dim, reason: Reason) -> None:
    """Make ``a`` and ``b`` the same dim; where that is impossible freeze both, for ``reason``.

    Sizes must agree; a caller that finds them different has met an op that it does not understand, and freezes.
    """
    a, b = inference.resolve(a), inference.resolve(b)
    if a == b:
        return
    try:
        _unify(inference, a, b)
    except (_Misaligned, Undecided):
        inference.freeze(a, reason)
        inference.freeze(b, reason)


def cut(inference: Inference, dim: Dim, at: int, reason: Reason) -> tuple[Dim, Dim]:
    """Cut ``dim`` after ``at`` indices into two parts; where it cannot be cut, freeze it and return frozen parts."""
    dim = inference.resolve(dim)
    if at == 0:
        return Dim(()), dim
    if at == dim.size:
        return dim, Dim(())
    try:
        return _cut(inference, dim, at)
    except (_Misaligned, Undecided):
        inference.freeze(dim, reason)
        return dim_of(inference.axis(at, reason)), dim_of(inference.axis(dim.size - at, reason))


# -- sums --------------------------------------------------------------------------------------------------------------


def _unify(inference: Inference, a: Dim, b: Dim) -> None:
    while True:
        a, b = inference.resolve(a), inference.resolve(b)
        if a == b:
            return
        if a.size != b.size:
            raise _Misaligned
        if (axis := _lone_axis(a)) is not None:
            _bind(inference, axis, b)
            return
        if (axis := _lone_axis(b)) is not None:
            _bind(inference, axis, a)
            return
        a, b = _unify_permuted(inference, a, b) or _unify_first(inference, a, b)
        if not (a.terms and b.terms):
            return


def _unify_permuted(inference: Inference, a: Dim, b: Dim) -> tuple[Dim, Dim] | None:
    """Unify the beginnings of two sums unit by unit. What is left to unify; None where that is not how to do it."""
    if not (_has_permuted(a) or _has_permuted(b)):
        return None
    left, right = _blocks(a, b)
    if not _match(inference, left, right):
        return None
    return Dim(a.terms[len(left.terms) :]), Dim(b.terms[len(right.terms) :])


def _unify_first(inference: Inference, a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Unify the first terms of two sums if they are of equal size; else cut the larger one. What is left to unify."""
    size_a, size_b = term_size(a.terms[0]), term_size(b.terms[0])
    if size_a == size_b:
        _unify_terms(inference, a.terms[0], b.terms[0])
        return Dim(a.terms[1:]), Dim(b.terms[1:])
    if is_dynamic(size_a) or is_dynamic(size_b):  # shifted along the batch: one sample after the other
        raise _Misaligned
    if size_a < size_b:
        return a, concat([*_cut(inference, Dim(b.terms[:1]), size_a), Dim(b.terms[1:])])
    return concat([*_cut(inference, Dim(a.terms[:1]), size_b), Dim(a.terms[1:])]), b


def _lone_axis(dim: Dim) -> Axis | None:
    """The axis that a dim is, if it is no more than that."""
    match dim.terms:
        case ((Axis() as axis,),):
            return axis
    return None


def _has_permuted(dim: Dim) -> bool:
    return any(len(term) == 1 and isinstance(term[0], Permuted) for term in dim.terms)


def _blocks(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """The shortest beginnings of two dims of equal size that are of equal size themselves."""
    i, j, left, right = 1, 1, term_size(a.terms[0]), term_size(b.terms[0])
    while left != right:
        if left < right:
            left, i = left + term_size(a.terms[i]), i + 1
        else:
            right, j = right + term_size(b.terms[j]), j + 1
    return Dim(a.terms[:i]), Dim(b.terms[:j])


def _match(inference: Inference, a: Dim, b: Dim) -> bool:
    """Unify two dims unit by unit, where one is permuted and neither holds a product; False where that is not so."""
    if not (_has_permuted(a) or _has_permuted(b)):
        return False
    left, right = labels_of(a), labels_of(b)
    if left is None or right is None:
        return False
    merge(inference, left, right)
    return True


def _bind(inference: Inference, axis: Axis, dim: Dim) -> None:
    """Bind a free axis to what it turned out to be. Frozenness passes to the parts, and from a lone axis back."""
    inner = list(axes_of(dim))
    if axis in inner:
        _bind_to_itself(inference, axis, dim)
        return
    if len(dim.terms) == 1 and len(inner) > 1:
        for unit in dim.terms[0]:  # 1 × y is y: there is always one of it
            if isinstance(unit, Axis) and unit.size == 1:
                inference.bind(unit, ONE)
        dim = inference.resolve(dim)
    if (reason := inference.frozen(axis)) is not None:
        inference.freeze(dim, reason)
    inference.bind(axis, dim)


def _bind_to_itself(inference: Inference, axis: Axis, dim: Dim) -> None:
    """An axis is a dim of its own size that holds it: x = x × 1, or its own units in another order."""
    if _has_permuted(dim):
        if not _match(inference, dim_of(axis), dim):
            raise _Misaligned
        return
    if dim == dim_of(axis):
        return
    for other in axes_of(dim):  # the unit axes around it can never go
        if other is not axis and other.size == 1:
            inference.bind(other, ONE)
    if inference.resolve(dim) != dim_of(axis):
        raise _Misaligned


# -- products ----------------------------------------------------------------------------------------------------------


def _unify_terms(inference: Inference, a: Term, b: Term) -> None:
    """Two products of equal size, aligned from the innermost factor outwards."""
    left, right = list(a), list(b)
    match left, right:
        case [Permuted() as one], [Permuted() as other] if one.order.tobytes() == other.order.tobytes():
            left, right = [one.source], [other.source]
        case [Permuted() as one], [Permuted()]:
            left = _as_product(inference, one)
    while left and right:
        x, y = left.pop(), right.pop()
        if x.size == y.size:
            _unify(inference, dim_of(x), dim_of(y))
        else:
            step = common_divisor(x.size, y.size)
            if step == 1:
                raise _Misaligned
            for stack, factor in ((left, x), (right, y)):
                stack.extend([factor] if factor.size == step else _factor(inference, factor, step))
        left, right = _refresh(inference, left), _refresh(inference, right)
    for unit in left + right:  # only factors of size 1 are left over: a unit that is always there
        _unify(inference, dim_of(unit), ONE)


def _refresh(inference: Inference, factors: list[Factor]) -> list[Factor]:
    """The factors after bindings changed, each on its own: the normal form would undo the factoring."""
    fresh: list[Factor] = []
    for factor in factors:
        dim = inference.resolve(dim_of(factor))
        fresh.extend(dim.terms[0] if len(dim.terms) == 1 else [dim])
    return fresh


def _factor(inference: Inference, factor: Factor, inner: int) -> list[Factor]:
    """Split a factor into (rest, inner factor of size ``inner``)."""
    if isinstance(factor, Axis):
        rest, last = inference.axis(factor.size // inner), inference.axis(inner)
        _bind(inference, factor, Dim(((rest, last),)))
        return [rest, last]
    if isinstance(factor, Permuted):
        return _as_product(inference, factor)
    # (a + b) = (a' + b') × c, if every term has the same inner factor c
    last, outer = inference.axis(inner), []
    for term in factor.terms:
        size = term_size(term)
        if size % inner:
            raise _Misaligned
        rest = inference.axis(size // inner)
        outer.append(dim_of(rest))
        _unify(inference, Dim((term,)), Dim(((rest, last),)))
    return [concat([inference.resolve(dim) for dim in outer]), last]


def _as_product(inference: Inference, factor: Permuted) -> list[Factor]:
    """A permuted dim as the product that it is, if its source is one whose factors changed places and nothing else."""
    swap = transposition(factor.order)
    if swap is None:
        raise _Misaligned
    outer, inner = map(inference.axis, swap)
    _unify(inference, factor.source, Dim(((outer, inner),)))
    return [inner, outer]


# -- cuts --------------------------------------------------------------------------------------------------------------


def _cut(inference: Inference, dim: Dim, at: int) -> tuple[Dim, Dim]:
    """Cut a resolved dim; ``0 < at < dim.size``.

    A sum is cut in the term that the cut runs through, by cutting its outermost factor. Six rows of four are cut after
    eight indices by cutting the rows after two. After ten, the cut runs through the third row: that row always stays,
    and the four are cut after two.

        >>> inference = Inference()
        >>> rows, columns = inference.axis(6), inference.axis(4)
        >>> _cut(inference, Dim(((rows, columns),)), 8)
        (Dim(terms=((Axis(2), Axis(4)),)), Dim(terms=((Axis(4), Axis(4)),)))
        >>> rows = inference.axis(6)
        >>> _cut(inference, Dim(((rows, columns),)), 10)[0]
        Dim(terms=((Axis(2), Dim(terms=((Axis(2),), (Axis(2),)))), (Axis(2),)))
    """
    number, offset = 0, 0  # of the term that the cut runs through, or that it is in front of
    while offset + term_size(dim.terms[number]) <= at:
        offset += term_size(dim.terms[number])
        number += 1
    before, term, after = dim.terms[:number], dim.terms[number], dim.terms[number + 1 :]
    if offset == at:
        return Dim(before), Dim(dim.terms[number:])
    low, high = _cut_term(inference, term, at - offset)
    return Dim((*before, *low.terms)), Dim((*high.terms, *after))


def _cut_term(inference: Inference, term: Term, at: int) -> tuple[Dim, Dim]:
    """Cut a product; ``0 < at < its size``."""
    head, *rest = term
    inner = term_size(rest)
    whole, part = divmod(at, inner)
    if isinstance(head, Dim):
        return _cut(inference, product([head, *map(dim_of, rest)]), at)
    if isinstance(head, Permuted):
        labels = labels_of(head.source)
        if part or labels is None:
            factors = [*_as_product(inference, head), *rest]
            return _cut(inference, inference.resolve(product([dim_of(factor) for factor in factors])), at)
        separate(inference, labels, head.order[:whole])
    elif part == 0:
        _bind(inference, head, Dim(((inference.axis(whole),), (inference.axis(head.size - whole),))))
    else:  # the cut goes through one unit of the outer axis: that unit stays, and the inner product is cut
        _bind(inference, head, concat([_units(inference, whole), ONE, _units(inference, head.size - whole - 1)]))
        _cut(inference, inference.resolve(product([dim_of(factor) for factor in rest])), part)
    return _cut(inference, inference.resolve(Dim((term,))), at)


def _units(inference: Inference, size: int) -> Dim:
    """A dim of so many units of an axis of its own, of which there may be none."""
    return dim_of(inference.axis(size)) if size else Dim(())
