"""Tables of what people bring: names, classes loaded late, entry points, duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.passes.registry import Registry
from atograph.passes.rules import table


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
    with pytest.warns(match=rf"the shape 'circle' of {HERE}:Square is skipped: atograph has that name"):
        assert list(shapes) == ["circle"]
    assert shapes.get("circle") is Circle


def test_of_two_packages_the_first_has_the_name(shapes: Registry[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("square", f"{HERE}:{name}", "shapes") for name in ("Square", "Misnamed")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    with pytest.warns(match=rf"of {HERE}:Misnamed is skipped: {HERE}:Square has that name"):
        assert shapes.get("square") is Square


def test_rules_that_cannot_be_loaded_disable_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("broken", "no_such_package.rules", "atograph.rules")
    monkeypatch.setattr(table, "entry_points", lambda group: [point])
    table._load_entry_points.cache_clear()
    try:
        with pytest.warns(match=r"the entry point 'broken' of op rules, no_such_package\.rules, is skipped: ModuleNot"):
            graph = atograph.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))
    finally:
        table._load_entry_points.cache_clear()
    assert len(graph.prunable) == 1


@pytest.mark.parametrize("row", [type("Nameless", (), {}), type("Nameless", (Shape,), {"name": ""}), "circle"])
def test_what_is_registered_is_a_class_of_the_base_with_a_name(shapes: Registry[Shape], row: Any) -> None:
    with pytest.raises(UserError, match="no subclass of Shape"):
        shapes.register(row)
