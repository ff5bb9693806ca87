"""``slim.pt2``: a slim program as torch.export writes it, with the digest of the plan that it was made by."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal
from zipfile import is_zipfile

import torch
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from torch import fx
from torch.export import ExportedProgram

from atograph.files.pickled import NotPlain
from atograph.files.reading import Unreadable, check_regular, first_of, refusal
from atograph.passes.errors import UserError
from atograph.passes.ir.about import About
from atograph.passes.ir.exported.edits import with_plain_outputs
from atograph.passes.ir.exported.notes import (
    SizeNames,
    about_of,
    names_in_files,
    size_names,
    ways_of,
    with_about,
    with_file_names,
    with_size_names,
    with_ways,
)
from atograph.passes.ir.interface import OPPOSITE, SIGNS, Condition, Formula, Ways
from atograph.process.quiet import quiet
from atograph.program.check import load_program_file
from atograph.program.ops import UnknownOp

NAME = "slim.pt2"

_PLAN = "atograph.plan"
_SIZES = "atograph.sizes"
_FILE_NAMES = "atograph.names"
_WAYS = "atograph.ways"
_ABOUT = "atograph.about"
_TEXTS = (_PLAN, _SIZES, _FILE_NAMES, _WAYS, _ABOUT)

_ORIGIN = ("stack_trace", "from_node", "source_fn_stack", "custom")
"""What nodes carry of where they came from."""

_LONGEST = 160

_NO_PROGRAM = "not a program that torch.export can load"

_OWN_CLASSES = "Where it is your own, and the classes are, allow them: torch.serialization.add_safe_globals([Class])."

_UNKNOWN_OPS = (
    "Where the file is your own, let the op through, in Python or in the SPEC: "
    'atograph.allow_ops("library.op.overload"); an op rule does the same.'
)

_OWN_OPS = (
    "If the model has ops of its own, what defines them has to be imported before: --spec, or an import in Python. "
    "Otherwise the file is damaged."
)


_SizeName = Annotated[str, Field(pattern=r"^(\d{1,9}\*)?[A-Za-z_]\w{0,60}$")]


class _Names(RootModel[dict[str, dict[Annotated[int, Field(ge=0, lt=64)], _SizeName]]]):
    """What sizes are called, as the file holds it."""


def _size_names(text: str) -> SizeNames:
    try:
        return _Names.model_validate_json(text).root if text else {}
    except ValidationError as error:
        raise Unreadable(f"{_SIZES}: {first_of(error)}") from error


_FileName = Annotated[str, Field(min_length=1, max_length=4096)]
"""Whatever an ONNX file may call a value."""


class _FileNames(RootModel[dict[str, _FileName]]):
    """What files call inputs and outputs, as the file holds it."""


def _file_names(text: str) -> dict[str, str]:
    try:
        return _FileNames.model_validate_json(text).root if text else {}
    except ValidationError as error:
        raise Unreadable(f"{_FILE_NAMES}: {first_of(error)}") from error


class _About(BaseModel):
    """What the file that a program comes from says of itself, as this one holds it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    doc: str = ""
    domain: str = ""
    version: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    graph: str = ""
    graph_doc: str = ""
    properties: dict[str, str] = {}
    values: dict[str, str] = {}


def _about(text: str) -> About:
    try:
        return About(**_About.model_validate_json(text).model_dump()) if text else About()
    except ValidationError as error:
        raise Unreadable(f"{_ABOUT}: {first_of(error)}") from error


_Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,60}$")]
_Sign = Literal["+", "-", "*", "//", "%", "&", "|", "^", ">>", "<<", "==", "!=", "<", "<=", ">", ">="]
_DEEPEST = 16


class _Condition(BaseModel):
    """A condition of sizes as the file holds it; its formula in a row: sign, left, right, each a formula or a leaf."""

    model_config = ConfigDict(extra="forbid", strict=True)

    formula: Annotated[list[_Sign | _Name | Annotated[int, Field(ge=-(2**40), le=2**40)]], Field(max_length=200)]
    outcome: bool
    source: Annotated[str, Field(max_length=300)] = ""

    def condition(self) -> Condition:
        """The same as a condition.

        Raises:
            Unreadable: it is none.
        """
        parts = iter(self.formula)
        formula = _read_formula(parts, _DEEPEST)
        if next(parts, None) is not None or not isinstance(formula, tuple) or formula[0] not in OPPOSITE:
            raise Unreadable(f"{_WAYS}: it holds what is no comparison of sizes")
        return Condition(formula, self.outcome, self.source)


class _Ways(RootModel[Annotated[list[list[_Condition]], Field(max_length=64)]]):
    """What has to hold of sizes, as the file holds it."""


def _read_formula(parts: Iterator[int | str], depth: int) -> Formula:
    part = next(parts, None)
    if part is None or depth == 0:
        raise Unreadable(f"{_WAYS}: it holds a formula that is cut off, or too deep")
    if part in SIGNS:
        return str(part), _read_formula(parts, depth - 1), _read_formula(parts, depth - 1)
    return part


def _flat(formula: Formula) -> list[int | str]:
    return [formula[0], *_flat(formula[1]), *_flat(formula[2])] if isinstance(formula, tuple) else [formula]


def _ways(text: str) -> Ways:
    try:
        rows = _Ways.model_validate_json(text).root if text else []
    except ValidationError as error:
        raise Unreadable(f"{_WAYS}: {first_of(error)}") from error
    return tuple(tuple(each.condition() for each in row) for row in rows)


def _written_ways(ways: Ways) -> str:
    rows = [
        [{"formula": _flat(each.formula), "outcome": each.outcome, "source": each.source[:300]} for each in way]
        for way in ways
    ]
    return json.dumps(rows)


def program_bytes(program: ExportedProgram, plan: str) -> memoryview:
    """What the file holds, the same for the same program: no path of this machine, no address in its memory.

    In memory first: where the disk is full, torch takes the whole process down.

    Args:
        program: what to write.
        plan: the digest of the plan that it was made by.
    """
    buffer = io.BytesIO()
    with _without_origin(program):
        extra = {_PLAN: plan}
        if names := size_names(program):
            extra[_SIZES] = _Names({name: dict(dims) for name, dims in names.items()}).model_dump_json()
        if called := names_in_files(program):
            extra[_FILE_NAMES] = _FileNames(dict(called)).model_dump_json()
        if ways := ways_of(program):
            extra[_WAYS] = _written_ways(ways)
        if (about := about_of(program)) != About():
            extra[_ABOUT] = _About(**asdict(about)).model_dump_json()
        torch.export.save(with_plain_outputs(program), buffer, extra_files=extra)
    return buffer.getbuffer()


@contextmanager
def _without_origin(program: ExportedProgram) -> Iterator[None]:
    """Within it, no node knows the files and graphs that it came from."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes]
    origins = [{name: node.meta.pop(name) for name in _ORIGIN if name in node.meta} for node in nodes]
    try:
        yield
    finally:
        for node, origin in zip(nodes, origins, strict=True):
            node.meta.update(origin)


def read_program(path: Path, *, flat: bool = False, writes: bool = False) -> tuple[ExportedProgram, str]:
    """The program, and the digest of its plan; an empty one where the file does not say.

    Args:
        path: the file.
        flat: the program takes and returns values in a row, and has no example inputs.
        writes: whether it may write in place; of a file that atograph has not made.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with quiet():
            check_regular(path)
            program, texts = load_program_file(path, _TEXTS, flat=flat, writes=writes)
            program = with_about(with_file_names(program, _file_names(texts[_FILE_NAMES])), _about(texts[_ABOUT]))
            program = with_ways(with_size_names(program, _size_names(texts[_SIZES])), _ways(texts[_WAYS]))
            return program, texts[_PLAN]
    except NotPlain as error:
        raise refusal(error, path, _NO_PROGRAM, _OWN_CLASSES) from error
    except UnknownOp as error:
        raise refusal(error, path, _NO_PROGRAM, _UNKNOWN_OPS) from error
    except Unreadable as error:
        raise refusal(error, path, _NO_PROGRAM, "It was not made by atograph, or is damaged.") from error
    except Exception as error:
        lines = [line.strip() for line in str(_origin(error)).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} ..."
        raise UserError(
            f"{_NO_PROGRAM}: {reason}.",
            where=str(path),
            hint=_OWN_OPS if is_zipfile(path) else "It is cut off or damaged; copy it again, or make it again.",
        ) from error


def _origin(error: BaseException) -> BaseException:
    """Where it began: torch wraps what happens at a node into the text of the whole node."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
