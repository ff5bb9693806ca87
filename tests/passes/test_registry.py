"""Tables of what people bring: names, classes loaded late, entry points, duplicates."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import atograph
from atograph.passes import Pipeline, RewritePass, register
from atograph.passes.base import Pass
from atograph.passes.errors import UserError
from atograph.passes.pipeline.registry import PASSES
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


NOTEBOOK = """
@dataclass(frozen=True)
class {cls}(RewritePass):
    name = "mine"
    times: int = {times}

    def rewrite(self, program):
        return program


register("mine", lambda: {cls})
"""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Pass]]:
    monkeypatch.setattr(PASSES, "_loaders", dict(PASSES._loaders))
    monkeypatch.setattr(PASSES, "_homes", dict(PASSES._homes))
    yield PASSES


def run_cell(code: str, module: str = "__main__", file: str | None = None) -> None:
    """Run code as a cell of a notebook, or as a file that is imported under a name."""
    space: dict[str, Any] = {"__name__": module, "dataclass": dataclass, "RewritePass": RewritePass}
    space["register"], sys.modules[module] = register, ModuleType(module)
    if file is not None:
        sys.modules[module].__file__ = file
    exec(code, space)


def test_a_cell_that_is_run_again_replaces_its_pass(passes: Registry[Pass], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("a_notebook", "a_spec", "a_spec_2"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for times in (1, 2):
        run_cell(NOTEBOOK.format(cls="Mine", times=times), "a_notebook")
        assert Pipeline.parse("mine").passes[0].times == times  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r"two passes are called 'mine': the name is taken by a_notebook:Mine\. Call one"
    ):
        run_cell(NOTEBOOK.format(cls="Other", times=3), "a_notebook")
    with pytest.raises(UserError, match="taken by a_notebook:Mine"):
        run_cell(NOTEBOOK.format(cls="Mine", times=4), "a_spec", "/there/net.py")
    assert Pipeline.parse("mine").passes[0].times == 2  # type: ignore[attr-defined]


def test_a_file_that_is_imported_under_another_name_is_the_same(
    passes: Registry[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("a_spec", "a_spec_2"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        run_cell(NOTEBOOK.format(cls="Mine", times=len(module)), module, "/there/net.py")
    assert Pipeline.parse("mine").passes[0].times == len("a_spec_2")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "loader", "message"),
    [
        ("slim", lambda: RewritePass, "two passes are called 'slim': the name is taken by atograph"),
        ("fixpoint", lambda: RewritePass, "a pass cannot be called 'fixpoint': 'fixpoint' means something else"),
        ("my pass", lambda: RewritePass, "a pass cannot be called 'my pass': names are letters, digits and hyphens"),
        ("", lambda: RewritePass, "a pass cannot be called ''"),
        (RewritePass, "mine", "a pass cannot be called <class"),
        ("mine", "my_module:Mine", "what is registered as the pass 'mine' is no class and gives none: 'my_mod"),
    ],
)
def test_what_cannot_be_registered_is_told(passes: Registry[Pass], name: Any, loader: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        register(name, loader)
    assert "mine" not in passes


def test_a_class_may_be_registered_itself(passes: Registry[Pass]) -> None:
    run_cell(NOTEBOOK.replace("lambda: {cls}", "{cls}").format(cls="Mine", times=1), "a_notebook")
    assert Pipeline.parse("mine{times=3}").passes[0].times == 3  # type: ignore[attr-defined]
    del sys.modules["a_notebook"]


def test_an_op_has_one_rule_which_may_be_defined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_TABLE", dict(table._TABLE))
    rules = []
    for _ in range(2):

        @table.rule("my_library.relu.default")
        def mine(op: Any) -> Any:
            raise NotImplementedError

        rules.append(mine)
    assert table.rule_for("my_library.relu.default") is rules[1] is not rules[0]
    with pytest.raises(UserError, match=r"test_registry:.*other: the op aten\.view\.default has a rule already, atogr"):

        @table.rule("my_library.gelu.default", torch.ops.aten.view.default)
        def other(op: Any) -> Any:
            raise NotImplementedError

    assert "my_library.gelu.default" not in table._TABLE
