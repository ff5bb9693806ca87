"""Unification of dims: the one operation that axis inference consists of.

`unify(a, b)` makes two dims the same, as in type inference: equal axes are merged, a sum aligned with a finer sum cuts
an axis in two, a product aligned with a finer product factors it. Where indices stand in another order (`Permuted`),
units are matched one by one (`scatter.py`). What cannot be aligned is frozen with the reason.
"""

from __future__ import annotations

from math import gcd

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
    labels_of,
    product,
    resolve,
    term_size,
    transposition,
)
from atograph.passes.axes.scatter import merge, separate
from atograph.passes.ir.reason import Reason
from atograph.passes.ir.sizes import is_dynamic


class _Misaligned(Exception):
    """Two dims have no common refinement that this algorithm finds."""


def freeze(dim: Dim, reason: Reason) -> None:
    """Freeze every axis of ``dim``; one that is frozen already keeps its first reason, unless that is structural."""
    for axis in axes_of(resolve(dim)):
        if axis.frozen is None or (axis.frozen.structural and not reason.structural):
            axis.frozen = reason


def unify(a: Dim, b: Dim, reason: Reason) -> None:
    """Make ``a`` and ``b`` the same dim; where that is impossible freeze both, for ``reason``.

    Sizes must agree; a caller that finds them different has met an op that it does not understand, and freezes.
    """
    a, b = resolve(a), resolve(b)
    if a == b:
        return
    try:
        _unify(a, b)
    except _Misaligned:
        freeze(a, reason)
        freeze(b, reason)


def cut(dim: Dim, at: int, reason: Reason) -> tuple[Dim, Dim]:
    """Cut ``dim`` after ``at`` indices into two parts; where it cannot be cut, freeze it and return frozen parts."""
    dim = resolve(dim)
    if at == 0 or at == dim.size:
        empty = Dim(())
        return (empty, dim) if at == 0 else (dim, empty)
    try:
        return _cut(dim, at)
    except _Misaligned:
        freeze(dim, reason)
        return dim_of(Axis(at, reason)), dim_of(Axis(dim.size - at, reason))


def _unify(a: Dim, b: Dim) -> None:
    while True:
        a, b = resolve(a), resolve(b)
        if a == b:
            return None
        if a.size != b.size:
            raise _Misaligned
        first_a, first_b = a.terms[0], b.terms[0]
        if a.terms == (first_a,) and _is_axis(first_a):
            return _bind(first_a[0], b)
        if b.terms == (first_b,) and _is_axis(first_b):
            return _bind(first_b[0], a)
        if any(_is_permuted(term) for term in a.terms + b.terms):
            blocks = _blocks(a, b)
            if _match(*blocks):
                a, b = (Dim(dim.terms[len(block.terms) :]) for dim, block in zip((a, b), blocks, strict=True))
                if not a.terms:
                    return None
                continue
        size_a, size_b = term_size(first_a), term_size(first_b)
        if size_a == size_b:
            _unify_terms(first_a, first_b)
            a, b = Dim(a.terms[1:]), Dim(b.terms[1:])
            if not a.terms and not b.terms:
                return None
        elif is_dynamic(size_a) or is_dynamic(size_b):  # shifted along the batch: one sample after the other
            raise _Misaligned
        elif size_a < size_b:
            b = concat([*_cut(Dim((first_b,)), size_a), Dim(b.terms[1:])])
        else:
            a = concat([*_cut(Dim((first_a,)), size_b), Dim(a.terms[1:])])


def _is_axis(term: Term) -> bool:
    return len(term) == 1 and isinstance(term[0], Axis)


def _is_permuted(term: Term) -> bool:
    return len(term) == 1 and isinstance(term[0], Permuted)


def _blocks(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """The shortest beginnings of two dims of equal size that are of equal size themselves."""
    i, j, left, right = 1, 1, term_size(a.terms[0]), term_size(b.terms[0])
    while left != right:
        if left < right:
            left, i = left + term_size(a.terms[i]), i + 1
        else:
            right, j = right + term_size(b.terms[j]), j + 1
    return Dim(a.terms[:i]), Dim(b.terms[:j])


def _match(a: Dim, b: Dim) -> bool:
    """Unify two dims unit by unit, where one is permuted and neither holds a product."""
    if not any(_is_permuted(term) for term in a.terms + b.terms):
        return False
    left, right = labels_of(a), labels_of(b)
    if left is None or right is None:
        return False
    merge(left, right)
    return True


def _bind(axis: Factor, dim: Dim) -> None:
    """Bind a free axis to what it turned out to be. Frozenness passes to the parts, and from a lone axis back."""
    assert isinstance(axis, Axis)
    inner = list(axes_of(dim))
    if axis in inner and any(_is_permuted(term) for term in dim.terms):
        if not _match(dim_of(axis), dim):
            raise _Misaligned
        return
    if axis in inner:  # x = x × 1: the unit axes around it can never go
        if dim.terms == ((axis,),):
            return
        for other in inner:
            if other is not axis and other.size == 1:
                other.bind(ONE)
        if resolve(dim) != dim_of(axis):
            raise _Misaligned
        return
    if len(dim.terms) == 1 and len(inner) > 1:
        for unit in dim.terms[0]:  # 1 × y is y: there is always one of it
            if isinstance(unit, Axis) and unit.size == 1:
                unit.bind(ONE)
        dim = resolve(dim)
    if axis.frozen:
        freeze(dim, axis.frozen)
    axis.bind(dim)


def _unify_terms(a: Term, b: Term) -> None:
    """Two products of equal size, aligned from the innermost factor outwards."""
    left, right = list(a), list(b)
    match left, right:
        case [Permuted() as one], [Permuted() as other] if one.order.tobytes() == other.order.tobytes():
            left, right = [one.source], [other.source]
        case [Permuted() as one], [Permuted()]:
            left = _as_product(one)
    while left and right:
        x, y = left.pop(), right.pop()
        if x.size == y.size:
            _unify(_as_dim(x), _as_dim(y))
        else:
            step = min(x.size, y.size) if max(x.size, y.size) % min(x.size, y.size) == 0 else gcd(x.size, y.size)
            if step == 1:
                raise _Misaligned
            for stack, factor in ((left, x), (right, y)):
                stack.extend([factor] if factor.size == step else _factor(factor, step))
        left, right = _refresh(left), _refresh(right)
    for unit in left + right:  # only factors of size 1 are left over: a unit that is always there
        _unify(_as_dim(unit), ONE)


def _refresh(factors: list[Factor]) -> list[Factor]:
    """The factors after bindings changed, each on its own: the normal form would undo the factoring."""
    fresh: list[Factor] = []
    for factor in factors:
        dim = resolve(_as_dim(factor))
        fresh.extend(dim.terms[0] if len(dim.terms) == 1 else [dim])
    return fresh


def _as_dim(factor: Factor) -> Dim:
    return factor if isinstance(factor, Dim) else Dim(((factor,),))


def _factor(factor: Factor, inner: int) -> list[Factor]:
    """Split a factor into (rest, inner factor of size ``inner``)."""
    if isinstance(factor, Axis):
        rest, last = Axis(factor.size // inner), Axis(inner)
        _bind(factor, Dim(((rest, last),)))
        return [rest, last]
    if isinstance(factor, Permuted):
        return _as_product(factor)
    # (a + b) = (a' + b') × c, if every term has the same inner factor c
    last, outer = Axis(inner), []
    for term in factor.terms:
        size = term_size(term)
        if size % inner:
            raise _Misaligned
        rest = Axis(size // inner)
        outer.append(dim_of(rest))
        _unify(Dim((term,)), Dim(((rest, last),)))
    return [Dim(tuple(term for dim in outer for term in resolve(dim).terms)), last]


def _as_product(factor: Permuted) -> list[Factor]:
    """A permuted dim as the product that it is, if its source is one whose factors changed places and nothing else."""
    swap = transposition(factor.order)
    if swap is None:
        raise _Misaligned
    outer, inner = Axis(swap[0]), Axis(swap[1])
    _unify(factor.source, Dim(((outer, inner),)))
    return [inner, outer]


def _cut(dim: Dim, at: int) -> tuple[Dim, Dim]:
    """Cut a resolved dim; ``0 < at < dim.size``."""
    before: list[Term] = []
    terms = list(dim.terms)
    while terms and at >= term_size(terms[0]):
        at -= term_size(terms[0])
        before.append(terms.pop(0))
    if at == 0:
        return Dim(tuple(before)), Dim(tuple(terms))
    head, *rest = terms[0]
    if isinstance(head, Dim):
        low, high = _cut(product([head, *map(_as_dim, rest)]), at)
    elif isinstance(head, Permuted):
        whole, part = divmod(at, term_size(rest))
        labels = labels_of(head.source)
        if part or labels is None:
            low, high = _cut(resolve(product(list(map(_as_dim, [*_as_product(head), *rest])))), at)
            return Dim((*before, *low.terms)), Dim((*high.terms, *terms[1:]))
        separate(labels, head.order[:whole])
        return _cut(resolve(Dim((*before, *terms))), sum(map(term_size, before)) + at)
    else:
        inner = term_size(rest)
        whole, part = divmod(at, inner)
        if part == 0:
            first, second = Axis(whole), Axis(head.size - whole)
            _bind(head, Dim(((first,), (second,))))
        else:  # the cut goes through one unit of the outer axis: that unit stays, and the inner product is cut
            pieces = [Axis(n) for n in (whole, 1, head.size - whole - 1) if n]
            _bind(head, Dim(tuple((piece,) for piece in pieces)))
            _unify(dim_of(pieces[1 if whole else 0]), ONE)
            _cut(resolve(product([_as_dim(f) for f in rest])), part)
        return _cut(resolve(Dim((*before, *terms))), sum(map(term_size, before)) + at)
    return Dim((*before, *low.terms)), Dim((*high.terms, *terms[1:]))
