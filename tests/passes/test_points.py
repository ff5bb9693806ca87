"""Sizes at several points: computed with like integers, and expressed by those that a program holds."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atograph.passes.ir.express import build, express, follows, text_of
from atograph.passes.ir.sizes import BATCH, Size, Undecided, common_divisor, is_dynamic, values_of

HEIGHT, WIDTH = Size([32, 31, 33, 51, 22]), Size([32, 33, 34, 55, 21])
ROWS, COLUMNS = 32 * HEIGHT, 32 * WIDTH
NAMES = {HEIGHT: "height", WIDTH: "width", BATCH: "s0"}

numbers = st.integers(1, 60)
vectors = st.lists(numbers, min_size=3, max_size=3)


@pytest.mark.parametrize("of", [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod])
@given(a=vectors, b=vectors, n=numbers)
def test_arithmetic_is_taken_point_by_point(of: Callable[[int, int], int], a: list[int], b: list[int], n: int) -> None:
    assert values_of(of(Size(a), Size(b)), 3) == tuple(map(of, a, b))
    assert values_of(of(Size(a), n), 3) == tuple(of(each, n) for each in a)
    assert values_of(of(n, Size(a)), 3) == tuple(of(n, each) for each in a)


def test_what_is_the_same_everywhere_is_a_plain_integer() -> None:
    assert type(HEIGHT - HEIGHT) is int
    assert type(Size.of([4, 4])) is int
    assert type(HEIGHT * 4 // HEIGHT) is int


def test_equal_only_if_equal_everywhere() -> None:
    assert HEIGHT != WIDTH
    assert HEIGHT != 32
    assert HEIGHT + 0 == HEIGHT
    assert len({HEIGHT, Size(HEIGHT.values)}) == 1


def test_an_order_that_changes_is_undecided() -> None:
    assert 21 < HEIGHT <= 51
    for comparison in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(Undecided):
            comparison(HEIGHT, 40)
    with pytest.raises(Undecided):
        bool(HEIGHT % 2)


def test_divisors_at_each_point() -> None:
    assert common_divisor(6 * HEIGHT, 4) == Size.of([4, 2, 2, 2, 4])
    assert common_divisor(12, 18) == 6


def test_is_dynamic() -> None:
    assert is_dynamic(HEIGHT) and is_dynamic(3 * BATCH) and not is_dynamic(HEIGHT // HEIGHT)


EXPRESSIONS = [
    (HEIGHT, "height"),
    (32, "32"),
    (2 * HEIGHT - 1, "2*height - 1"),
    ((HEIGHT - 1) // 2 + 1, "(height + 1)//2"),
    (HEIGHT * WIDTH, "height*width"),
    (HEIGHT + WIDTH, "height + width"),
    (3 * BATCH * HEIGHT, "s0*3*height"),
    (BATCH * (HEIGHT + 1), "s0*(height + 1)"),
    (4 * BATCH + 1, "4*s0 + 1"),
]


@pytest.mark.parametrize(("size", "text"), EXPRESSIONS, ids=[text for _size, text in EXPRESSIONS])
def test_expressions(size: int, text: str) -> None:
    part = express(size, NAMES)
    assert part is not None
    assert text_of(part, NAMES.__getitem__) == text
    assert build(part, lambda known: known) == size


def test_a_product_of_parts_of_what_comes_in_multiples() -> None:
    names = {ROWS: "rows", COLUMNS: "columns"}
    for a, b in ((32, 32), (16, 8), (8, 32), (1, 4)):
        size = ROWS // a * (COLUMNS // b)
        assert follows(size, names)
        assert build(express(size, names), lambda known: known) == size  # type: ignore[arg-type]


@given(a=st.integers(1, 9), b=st.integers(-9, 9), c=st.integers(1, 9))
def test_products_and_sums_are_found(a: int, b: int, c: int) -> None:
    for size in (a * HEIGHT + b, a * c * HEIGHT * WIDTH, a * HEIGHT * HEIGHT, HEIGHT + c * WIDTH):
        assert follows(size, NAMES)
        assert build(express(size, NAMES), lambda known: known) == size  # type: ignore[arg-type]


def test_what_follows_no_law_is_not_guessed() -> None:
    assert express(HEIGHT % 5, NAMES) is None
    assert express((HEIGHT + 3) // 7 * WIDTH, {HEIGHT: "height"}) is None
    assert not follows((HEIGHT - 1) // 2 + 1, NAMES)
