"""Tables of what people bring: names, classes loaded late, entry points, duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from atograph.passes.errors import UserError
from atograph.passes.registry import Registry


class Shape:
    """For these tests: the base class."""

    name = ""


class Circle(Shape):
    name = "circle"


class Square(Shape):
    name = "square"


class Misnamed(Shape):
    name = "another"


HERE = __name__
POINTS = [
    EntryPoint("square", f"{HERE}:Square", "shapes"),
    EntryPoint("gone", "no_such_package.shapes:Gone", "shapes"),
    EntryPoint("misnamed", f"{HERE}:Misnamed", "shapes"),
    EntryPoint("number", f"{HERE}:HERE", "shapes"),
]


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Shape]]:
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [each for each in POINTS if each.group == group]
    )
    yield Registry("shape", "shapes", group="shapes", base=f"{HERE}:Shape", ours={"circle": f"{HERE}:Circle"})


def test_ours_come_first_and_entry_points_after(shapes: Registry[Shape]) -> None:
    assert list(shapes) == ["circle", "square", "gone", "misnamed", "number"]
    assert shapes.get("circle") is Circle and shapes.get("square") is Square
    assert "circle" in shapes and "oval" not in shapes


def test_the_decorator_adds_a_class(shapes: Registry[Shape]) -> None:
    @shapes.register
    class Oval(Shape):
        name = "oval"

    assert shapes.get("oval") is Oval
    with pytest.raises(UserError, match="two shapes are called 'oval'"):
        shapes.register(type("Oval", (Shape,), {"name": "oval", "__module__": "elsewhere"}))
    assert shapes.register(Oval) is Oval  # a module that is run again


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("circel", "there is no shape 'circel'. Perhaps circle"),
        ("x", "there is no shape 'x'. Known shapes: circle, square"),
        ("gone", "entry points shapes: the shape .gone. cannot be loaded .ModuleNotFoundError: No module named"),
        ("misnamed", "'misnamed' is no subclass of Shape of that name"),
        ("number", "'number' is no subclass of Shape of that name"),
    ],
)
def test_what_is_no_row_is_refused(shapes: Registry[Shape], name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shapes.get(name)


def test_a_package_cannot_take_a_name_of_ours(shapes: Registry[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [EntryPoint("circle", f"{HERE}:Square", "shapes")]
    )
    assert list(shapes) == ["circle"]  # other rows are of use all the same
    with pytest.raises(UserError, match=r"two shapes are called 'circle'.* asks for it, too"):
        shapes.get("circle")


@pytest.mark.parametrize("row", [type("Nameless", (), {}), type("Nameless", (Shape,), {"name": ""}), "circle"])
def test_what_is_registered_is_a_class_of_the_base_with_a_name(shapes: Registry[Shape], row: Any) -> None:
    with pytest.raises(UserError, match="no subclass of Shape"):
        shapes.register(row)
