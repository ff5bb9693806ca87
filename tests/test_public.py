"""Public names: what they say of themselves, and that Python's own ways of looking at them still work."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pickle
import subprocess
import sys
import typing
from importlib import import_module
from typing import Any

import pytest
from torch import nn

import atograph
import atograph.passes
from atograph.passes.public import public

PACKAGES = (atograph, atograph.passes)
NAMES = [(package.__name__, name) for package in PACKAGES for name in package.__all__ if name != "__version__"]


def look_up(package: str, name: str) -> Any:
    return getattr(import_module(package), name)


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_says_where_it_is_imported_from(package: str, name: str) -> None:
    thing = look_up(package, name)
    home = "atograph" if name in atograph.__all__ else package  # of two places it says the shorter one
    assert (thing.__module__, thing.__qualname__) == (home, name) and look_up(home, name) is thing
    assert f"{home}.{name}" in repr(thing) or inspect.isfunction(thing)
    assert f"{home}\n{name}".encode() in pickle.dumps(thing, protocol=0)
    assert pickle.loads(pickle.dumps(thing)) is thing


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_python_still_sees_its_code(package: str, name: str) -> None:
    thing = look_up(package, name)
    code = ast.parse(inspect.getsource(thing)).body[0]
    assert isinstance(code, ast.ClassDef | ast.FunctionDef) and code.name == name
    if isinstance(thing, type):
        assert signature_of(thing) == signature_of(thing, follow_wrapped=False)
        hints = typing.get_type_hints(thing, include_extras=True)
        assert vars(thing).get("__annotations__", {}).keys() <= hints.keys()
        assert not any(isinstance(hint, str | typing.ForwardRef) for hint in hints.values())
        assert {field.name for field in fields_of(thing)} <= hints.keys()


def signature_of(thing: Any, **options: bool) -> str:
    try:
        return str(inspect.signature(thing, **options))
    except ValueError:  # an exception that has no __init__ of its own
        assert issubclass(thing, Exception) and "__init__" not in vars(thing)
        return ""


def fields_of(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_nothing_else_is_to_be_seen(package: Any) -> None:
    assert len(set(package.__all__)) == len(package.__all__)
    seen = {name for name in dir(package) if not (name.startswith("__") and name.endswith("__"))}
    assert seen == set(package.__all__) - {"__version__"}
    namespace: dict[str, Any] = {}
    exec(f"from {package.__name__} import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(package.__all__)


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_docstring_begins_with_a_sentence(package: str, name: str) -> None:
    first = (inspect.getdoc(look_up(package, name)) or "").partition("\n\n")[0]
    assert first.endswith((".", ":")) and len(first) < 160


class Doubled(atograph.passes.AnalysisPass):
    """A pass of somebody else's."""

    name = "doubled"

    def analyse(self, program: atograph.passes.Program) -> int:
        """Nothing."""
        return 2


class Wider(atograph.passes.ProgramModule):
    """A module of somebody else's."""


@pytest.mark.parametrize("kind", [Doubled, Wider])
def test_classes_made_of_them_say_their_own_place(kind: type) -> None:
    assert kind.__module__ == __name__ and pickle.loads(pickle.dumps(kind)) is kind
    assert inspect.getsource(kind).startswith(f"class {kind.__name__}(")
    assert not hasattr(kind, "__wrapped__") and str(inspect.signature(kind)) == str(inspect.signature(kind.__base__))


def test_an_instance_has_nothing_of_it() -> None:
    @public("somewhere")
    class Layer(nn.Linear):
        """Hides nothing of what nn.Module looks up."""

    layer = Layer(2, 3)
    assert not hasattr(layer, "__wrapped__") and Layer.__module__ == "somewhere"
    assert str(inspect.signature(Layer)) == str(inspect.signature(nn.Linear))


def test_a_process_that_has_imported_nothing_yet() -> None:
    """It reads pickles by the public path, ends with it in its traceback, and `import atograph` waits for no torch."""
    thing = atograph.Reason("why", node="n")
    code = (
        "import pickle, sys\n"
        "import atograph; assert 'torch' not in sys.modules and 'UserError' in dir(atograph)\n"
        f"reason, plan = pickle.loads({pickle.dumps((thing, atograph.Plan))!r})\n"
        "print(reason, plan)\n"
        "from atograph.passes.errors import UserError\n"
        "raise UserError('no.', hint='Try.')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{thing} <class 'atograph.Plan'>\n"
    assert done.stderr.splitlines()[-1] == "atograph.UserError: no. Try."
