"""Unification of dims: what the grammar's laws say, and property tests over random expressions."""

from __future__ import annotations

import doctest
from functools import partial
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atograph.passes.axes import inference, orders, scatter
from atograph.passes.axes import unify as unification
from atograph.passes.axes.dims import (
    ONE,
    Axis,
    Dim,
    axes_of,
    concat,
    dim_of,
    evaluate,
    kept_indices,
    product,
)
from atograph.passes.axes.inference import Inference
from atograph.passes.axes.orders import from_labels, labels_of, permuted
from atograph.passes.axes.placements import placements
from atograph.passes.errors import InternalError
from atograph.passes.ir.reason import Reason

WHY = Reason("cannot be aligned")

INFERENCE = Inference()  # one for all of these tests: each has axes of its own
resolve, freeze = INFERENCE.resolve, INFERENCE.freeze
unify, cut = partial(unification.unify, INFERENCE), partial(unification.cut, INFERENCE)


def axis(size: int) -> Dim:
    return dim_of(INFERENCE.axis(size))


def sizes(dim: Dim) -> list[list[int]]:
    return [[factor.size for factor in term] for term in resolve(dim).terms]


def frozen(dim: Dim) -> list[bool]:
    return [INFERENCE.frozen(a) is not None for a in axes_of(resolve(dim))]


def test_equal_axes_merge() -> None:
    a, b = axis(8), axis(8)
    unify(a, b, WHY)
    assert resolve(a) == resolve(b)
    assert not any(frozen(a))


def test_a_chain_as_long_as_the_deepest_network_resolves() -> None:
    axes = [axis(8) for _ in range(20_000)]
    for later, earlier in zip(axes[1:], axes, strict=False):
        unify(earlier, later, WHY)
    assert resolve(axes[0]) == axes[-1]


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


@st.composite
def reordered(draw: st.DrawFn, inner: st.SearchStrategy[Dim]) -> Dim:
    """A dim with its indices in any order, or with its factors swapped."""
    dim = resolve(draw(inner))
    if draw(st.booleans()):
        outer = draw(st.sampled_from([d for d in range(1, dim.size + 1) if dim.size % d == 0]))
        return permuted(dim, np.arange(dim.size).reshape(outer, -1).T.reshape(-1))
    return permuted(dim, np.array(draw(st.permutations(range(dim.size)))))


plain = st.recursive(
    st.integers(1, 6).map(axis),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(concat), st.lists(inner, min_size=1, max_size=3).map(product)
    ),
    max_leaves=5,
)
dims = st.one_of(
    plain,
    st.recursive(
        st.integers(1, 6).map(axis),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(concat),
            st.lists(inner, min_size=1, max_size=2).map(product).filter(lambda dim: dim.size < 200),
            reordered(inner),
        ),
        max_leaves=5,
    ),
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
    if a != b and all(INFERENCE.frozen(x) for x in all_axes(a, b)):
        return
    units = {x: np.array(sorted(data.draw(st.sets(st.integers(0, x.size - 1), min_size=1)))) for x in all_axes(a, b)}
    kept = kept_indices(a, units.__getitem__)
    assert list(kept) == list(kept_indices(b, units.__getitem__))  # a permuted sum of products has several forms
    assert list(kept) == sorted(set(kept)) and kept[-1] < size
    assert len(kept) == evaluate(a, lambda x: len(units[x]))


@settings(max_examples=300, deadline=None)
@given(dims, dims, st.data())
def test_any_two_dims_are_aligned_or_frozen(left: Dim, right: Dim, data: st.DataObject) -> None:
    """Filled up to the same size, cut somewhere, and made the same: the same indices stay, or everything does."""
    size = max(left.size, right.size)
    pair = [concat([dim, axis(size - dim.size)]) if dim.size < size else dim for dim in (left, right)]
    low, high = cut(pair[0], data.draw(st.integers(0, size)), WHY)
    unify(pair[0], pair[1], WHY)
    a, b, parts = resolve(pair[0]), resolve(pair[1]), resolve(concat([low, high]))
    assert a.size == b.size == size
    if all(INFERENCE.frozen(x) for x in all_axes(a, b)):
        return
    units = {x: np.array(sorted(data.draw(st.sets(st.integers(0, x.size - 1), min_size=1)))) for x in all_axes(a, b)}
    assert set(all_axes(parts)) <= set(units) | {x for x in all_axes(parts) if INFERENCE.frozen(x)}
    kept = list(kept_indices(a, units.__getitem__))
    assert kept == list(kept_indices(b, units.__getitem__))
    if set(all_axes(parts)) <= set(units):
        assert kept == list(kept_indices(parts, units.__getitem__))


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
                p.offset + o * p.stride + (p.positions[unit] if p.positions else unit) * p.inner + i
                for p in placements(dim)[target]
                for o in range(p.outer)
                for i in range(p.inner)
            }
            assert named == set(range(dim.size)) - kept


@settings(max_examples=200, deadline=None)
@given(dims, st.data())
def test_a_permuted_dim_keeps_what_its_source_keeps(dim: Dim, data: st.DataObject) -> None:
    dim = resolve(dim)
    orders = [np.array(data.draw(st.permutations(range(dim.size)))) for _ in range(2)]
    once = permuted(dim, orders[0])
    twice = permuted(once, orders[1])
    units = {x: np.array(sorted(data.draw(st.sets(st.integers(0, x.size - 1), min_size=1)))) for x in all_axes(dim)}
    kept = set(kept_indices(dim, units.__getitem__).tolist())
    for found, order in ((once, orders[0]), (twice, orders[0][orders[1]])):
        assert found.size == dim.size and set(all_axes(found)) == set(all_axes(dim))
        assert kept_indices(found, units.__getitem__).tolist() == [i for i, at in enumerate(order) if at in kept]
        assert evaluate(found, lambda x: len(units[x])) == len(kept)
    back = permuted(once, np.argsort(orders[0]))
    assert set(kept_indices(back, units.__getitem__).tolist()) == kept
    assert labels_of(dim) is None or back == permuted(dim, np.arange(dim.size))


def known(dims: list[Dim]) -> list[tuple[object, int]]:
    """The label of every index of every dim."""
    found: list[tuple[object, int]] = []
    for dim in dims:
        labels = labels_of(resolve(dim))
        assert labels is not None
        found += [(labels.axes[k] if k >= 0 else None, u) for k, u in zip(labels.owner, labels.unit, strict=True)]
    return found


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_units_that_meet_become_one_and_no_others(data: st.DataObject) -> None:
    """Sums, permutations and repetitions of some axes, made the same: the brute-force equivalence of units."""
    shared = [axis(data.draw(st.integers(1, 5))) for _ in range(3)]
    size = 8

    def draw() -> Dim:
        parts: list[Dim] = []
        while (left := size - concat(parts).size) > 0:
            fitting = [a for a in shared if a.size <= left]
            parts.append(data.draw(st.sampled_from(fitting)) if fitting and data.draw(st.booleans()) else axis(left))
        return permuted(concat(parts), np.array(data.draw(st.permutations(range(size)))))

    every = [draw() for _ in range(4)]
    before = known(every)
    unify(every[0], every[1], WHY)
    unify(every[2], every[1], WHY)
    same = {label: {label} for label in before}
    for one, other in [(0, 1), (2, 1)]:
        for i in range(size):
            merged = same[before[one * size + i]] | same[before[other * size + i]]
            same.update(dict.fromkeys(merged, merged))
    after = known(every)
    for i, left in enumerate(before):
        for j, right in enumerate(before):
            assert (after[i] == after[j]) == (right in same[left])
    assert not any(INFERENCE.frozen(x) for x in all_axes(*every))
    assert len(all_axes(*every)) <= len(set(after))
    for dim in every:  # the normal form depends on nothing but the labels
        labels = labels_of(resolve(dim))
        assert labels is not None and from_labels(labels) == resolve(dim)
    assert resolve(every[0]) == resolve(every[1]) == resolve(every[2])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_a_cut_separates_units(widths: list[int], data: st.DataObject) -> None:
    axes = [axis(width) for width in widths]
    dim = permuted(concat(axes), np.array(data.draw(st.permutations(range(sum(widths))))))
    before = known([dim, *axes])
    at = data.draw(st.integers(0, dim.size))
    low, high = cut(dim, at, WHY)
    assert (low.size, high.size) == (at, dim.size - at)
    assert resolve(concat([low, high])) == resolve(dim)
    assert not any(frozen(dim)) and not set(all_axes(low)) & set(all_axes(high))
    after = known([dim, *axes])
    assert all((before[i] == before[j]) == (after[i] == after[j]) for i in range(len(after)) for j in range(len(after)))


def shuffled(dim: Dim, groups: int) -> Dim:
    return permuted(resolve(dim), np.arange(dim.size).reshape(groups, -1).T.reshape(-1))


def test_a_shuffle_couples_nothing() -> None:
    a, b, c = axis(6), axis(6), axis(12)
    mixed = shuffled(concat([a, b]), 2)
    unify(c, mixed, WHY)
    assert resolve(c) == mixed and sizes(a) == sizes(b) == [[6]]


def test_the_halves_of_a_shuffle_are_halves_of_its_parts() -> None:
    a, b = axis(6), axis(6)
    low, high = cut(shuffled(concat([a, b]), 2), 6, WHY)
    assert sizes(a) == sizes(b) == [[3], [3]]
    (a_low, a_high), (b_low, b_high) = (list(axes_of(resolve(dim))) for dim in (a, b))
    assert list(axes_of(low)) == [a_low, b_low] and list(axes_of(high)) == [a_high, b_high]


def test_a_shuffle_of_aligned_factors_is_a_product() -> None:
    outer, inner = axis(3), axis(4)
    assert shuffled(product([outer, inner]), 3) == product([inner, outer])


def test_a_shuffle_that_meets_a_product_is_one() -> None:
    a, outer, inner = axis(12), axis(2), axis(6)
    mixed = shuffled(a, 3)
    unify(mixed, product([outer, inner]), WHY)
    assert sizes(a) == [[3, 2, 2]] and sizes(mixed) == sizes(product([outer, inner])) == [[2, 2, 3]]
    assert not any(frozen(a))


def test_another_order_that_meets_a_product_is_frozen() -> None:
    a, outer, inner = axis(6), axis(2), axis(3)
    unify(permuted(a, np.array([1, 0, 2, 3, 4, 5])), product([outer, inner]), WHY)
    assert all(frozen(a)) and all(frozen(product([outer, inner])))


def test_a_dim_that_meets_its_own_shuffle_falls_into_circles() -> None:
    a = axis(8)
    unify(a, shuffled(a, 2), WHY)  # 0 | 1 4 2 | 3 5 6 | 7
    assert sizes(a) == [[8]] and sorted(x.size for x in set(axes_of(resolve(a)))) == [2, 2]
    assert not any(frozen(a))


def test_a_unit_that_meets_one_that_always_stays_stays() -> None:
    a = axis(3)
    whole = concat([a, ONE])
    unify(permuted(whole, np.array([3, 1, 2, 0])), whole, WHY)
    assert sizes(a) == [[], [2]] and not any(frozen(a))


# -- what knows all this -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [inference, orders, scatter, unification], ids=lambda module: module.__name__)
def test_the_examples_are_right(module: ModuleType) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed


def test_inferences_over_the_same_axes_do_not_disturb_each_other() -> None:
    first = Inference()
    a, b, c = (dim_of(first.axis(size)) for size in (8, 3, 5))
    second = first.fork()
    unification.unify(first, a, concat([b, c]), WHY)
    unification.unify(second, a, product([dim_of(second.axis(2)), dim_of(second.axis(4))]), WHY)
    second.freeze(a, WHY)
    for _ in range(2):  # neither takes a note of the other's for its own
        assert first.resolve(a) == concat([b, c])
        assert [[factor.size for factor in term] for term in second.resolve(a).terms] == [[2, 4]]
    assert not any(first.frozen(x) for dim in (a, b, c) for x in axes_of(first.resolve(dim)))


def test_an_inference_that_is_sealed_stays_as_it_is() -> None:
    sealed = Inference()
    a, b = sealed.axis(4), sealed.axis(4)
    sealed.seal()
    for change in (lambda: sealed.bind(a, dim_of(b)), lambda: sealed.freeze(dim_of(a), WHY)):
        with pytest.raises(InternalError, match="work on a fork of it"):
            change()
    later = sealed.fork()
    unification.unify(later, dim_of(a), dim_of(b), WHY)
    later.freeze(dim_of(a), WHY)
    assert later.frozen(b) == WHY and later.resolve(dim_of(a)) == dim_of(b)
    assert sealed.frozen(b) is None and sealed.resolve(dim_of(a)) == dim_of(a)
