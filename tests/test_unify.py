"""Unification of dims: what the grammar's laws say, and property tests over random expressions."""

from __future__ import annotations

import numpy as np
import pytest
from atograph.passes.dims import (
    ONE,
    Axis,
    Dim,
    axes_of,
    concat,
    dim_of,
    evaluate,
    kept_indices,
    product,
    resolve,
)
from atograph.passes.placements import placements
from atograph.passes.reason import Reason
from atograph.passes.unify import cut, freeze, unify
from hypothesis import given, settings
from hypothesis import strategies as st

WHY = Reason("cannot be aligned")


def axis(size: int) -> Dim:
    return dim_of(Axis(size))


def sizes(dim: Dim) -> list[list[int]]:
    return [[factor.size for factor in term] for term in resolve(dim).terms]


def frozen(dim: Dim) -> list[bool]:
    return [a.frozen is not None for a in axes_of(resolve(dim))]


def test_equal_axes_merge() -> None:
    a, b = axis(8), axis(8)
    unify(a, b, WHY)
    assert resolve(a) == resolve(b)
    assert not any(frozen(a))


def test_a_sum_cuts_an_axis() -> None:
    a, b, c = axis(8), axis(3), axis(5)
    unify(a, concat([b, c]), WHY)
    assert resolve(a) == resolve(concat([b, c]))
    assert sizes(a) == [[3], [5]]


def test_two_sums_meet_in_their_common_refinement() -> None:
    left, right = [axis(3), axis(5)], [axis(4), axis(4)]
    unify(concat(left), concat(right), WHY)
    assert sizes(concat(left)) == sizes(concat(right)) == [[3], [1], [4]]


def test_a_product_factors_an_axis() -> None:
    a, outer, inner = axis(12), axis(3), axis(4)
    unify(a, product([outer, inner]), WHY)
    assert sizes(a) == [[3, 4]]


def test_products_align_from_the_inside() -> None:
    left, right = [axis(2), axis(6)], [axis(6), axis(2)]
    unify(product(left), product(right), WHY)
    assert sizes(product(left)) == sizes(product(right)) == [[2, 3, 2]]


def test_a_sum_over_a_product_distributes() -> None:
    a, b, two, c = axis(6), axis(6), axis(2), axis(6)
    unify(concat([a, b]), product([two, c]), WHY)  # a + b = 2 × c makes both of them c
    assert resolve(a) == resolve(b) == resolve(c)


def test_what_has_no_common_factor_is_frozen() -> None:
    left, right = [axis(2), axis(3)], [axis(3), axis(2)]
    unify(product(left), product(right), WHY)
    assert all(frozen(product([*left, *right])))


def test_frozen_spreads_to_what_it_is_unified_with() -> None:
    a, b, c = axis(8), axis(3), axis(5)
    freeze(b, WHY)
    unify(a, concat([b, c]), WHY)
    assert frozen(a) == [True, False]


def test_an_axis_cannot_be_part_of_itself() -> None:
    a, unit = axis(4), axis(1)
    unify(a, product([unit, a]), WHY)
    assert sizes(a) == [[4]] and resolve(unit) == ONE


@pytest.mark.parametrize("at", range(13))
def test_cut_anywhere(at: int) -> None:
    dim = concat([product([axis(3), axis(2)]), axis(6)])
    low, high = cut(dim, at, WHY)
    assert (low.size, high.size) == (at, 12 - at)
    assert resolve(concat([low, high])) == resolve(dim)


dims = st.recursive(
    st.integers(1, 6).map(axis),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(concat), st.lists(inner, min_size=1, max_size=3).map(product)
    ),
    max_leaves=5,
)


def all_axes(*dims: Dim) -> list[Axis]:
    return list(dict.fromkeys(axis for dim in dims for axis in axes_of(resolve(dim))))


@settings(max_examples=400, deadline=None)
@given(dims, st.data())
def test_unified_dims_keep_the_same_indices(dim: Dim, data: st.DataObject) -> None:
    """After unify(a, b), either both are frozen or any choice of units keeps the same indices of both."""
    size = dim.size
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    outer = data.draw(st.sampled_from(divisors))
    other = product([axis(outer), axis(size // outer)]) if data.draw(st.booleans()) else axis(size)
    unify(dim, other, WHY)
    a, b = resolve(dim), resolve(other)
    assert a.size == b.size == size
    if a != b:
        assert all(x.frozen for x in all_axes(a, b))
        return
    units = {x: np.array(sorted(data.draw(st.sets(st.integers(0, x.size - 1), min_size=1)))) for x in all_axes(a)}
    kept = kept_indices(a, units.__getitem__)
    assert list(kept) == sorted(set(kept)) and kept[-1] < size
    assert len(kept) == evaluate(a, lambda x: len(units[x]))


@settings(max_examples=200, deadline=None)
@given(dims)
def test_placements_tell_what_a_unit_holds(dim: Dim) -> None:
    """Dropping one unit drops exactly the indices that its placements name, for axes that stand once in a product."""
    dim = resolve(dim)
    for target in all_axes(dim):
        for unit in range(target.size):
            without = np.delete(np.arange(target.size), unit)
            if not len(without):
                continue

            def units(x: Axis, target: Axis = target, without: np.ndarray = without) -> np.ndarray:
                return without if x is target else np.arange(x.size)

            kept = set(kept_indices(dim, units).tolist())
            named = {
                p.offset + o * p.stride + unit * p.inner + i
                for p in placements(dim, target)
                for o in range(p.outer)
                for i in range(p.inner)
            }
            assert named == set(range(dim.size)) - kept
