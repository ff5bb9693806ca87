"""Public names: what they say of themselves, and that Python's own ways of looking at them still work."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import pickle
import subprocess
import sys
import typing
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

import atograph
import atograph.passes

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
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(thing, protocol)
        assert pickle.loads(data) is thing and pickle.loads(pickle._dumps(thing, protocol)) is thing
        assert thing.__module__ == home or b"atograph." not in data


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_python_still_sees_its_code(package: str, name: str) -> None:
    thing = look_up(package, name)
    code = ast.parse(inspect.getsource(thing)).body[0]
    assert isinstance(code, ast.ClassDef | ast.FunctionDef) and code.name == name
    if isinstance(thing, type):
        assert inspect.getmodule(thing).__name__.startswith("atograph.")  # that of its code
        hints = typing.get_type_hints(thing, include_extras=True)
        assert vars(thing).get("__annotations__", {}).keys() <= hints.keys()
        assert not any(isinstance(hint, str | typing.ForwardRef) for hint in hints.values())
        assert {field.name for field in fields_of(thing)} <= hints.keys()


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
    assert str(inspect.signature(kind)) == str(inspect.signature(kind.__base__))


def test_a_path_is_looked_up_as_the_module_of_its_code() -> None:
    path = atograph.Plan.__module__
    assert str(path) == f"{path}" == "atograph" and json.dumps(path) == '"atograph"' and type(str(path)) is str
    assert path == "atograph" == path and path == "atograph.passes.plan.plan" == path
    assert path != "atograph.passes" and path not in ("os", None, 1) and (path != "atograph") is False
    assert sys.modules[path] is inspect.getmodule(atograph.Plan) and vars(sys.modules[path])["Plan"] is atograph.Plan
    assert path == atograph.passes.Plan.__module__ and path != atograph.UserError.__module__ + "s"
    assert type(pickle.loads(pickle.dumps(path))) is str


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


class Mine(atograph.Plan):
    """A pydantic model of somebody else's."""

    note: str = ""


class Holder(BaseModel):
    """One that holds ours."""

    plan: atograph.Plan
    mine: Mine | None = None


@dataclasses.dataclass(frozen=True)
class Because(atograph.Reason):
    """A dataclass of somebody else's."""

    more: str = ""


def test_pydantic_and_dataclasses_read_their_fields() -> None:
    plan = atograph.Plan(kept={"g0": (0,)}, sizes={"g0": 2}, zeroing={"g0": ()}, fingerprint="f")
    held = Holder.model_validate_json(Holder(plan=plan, mine=Mine(**plan.model_dump(), note="n")).model_dump_json())
    assert held.plan == plan and held.mine is not None and held.mine.note == "n"
    assert Mine.model_fields.keys() == {*atograph.Plan.model_fields, "note"}
    assert TypeAdapter(list[Mine]).json_schema() and Holder.model_json_schema()
    reason = dataclasses.replace(Because("text", more="m"), node="n")
    assert (reason.more, reason.node) == ("m", "n")
    assert typing.get_type_hints(Because) == {**typing.get_type_hints(atograph.Reason), "more": str}


@pytest.mark.parametrize(("name", "module"), [("Plan", "plan.plan"), ("UserError", "errors"), ("rule", "rules.table")])
def test_where_the_code_stands_it_is_found_as_well(name: str, module: str) -> None:
    """Files and imports of before name it there."""
    assert pickle.loads(f"catograph.passes.{module}\n{name}\n.".encode()) is getattr(atograph.passes, name)
