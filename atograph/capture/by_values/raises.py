"""Where code looks at a value only to raise: ``assert``, ``if bad: raise``; and what stands there, in its own words."""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from atograph.values.user_code import OURS

_CAPTURE = str(Path(__file__).parents[1])
_MACHINERY = ("_compile.py", "_dynamo/", "_library/", "_ops.py", "fx/", "overrides.py", "utils/")
"""What of torch stands between code and whoever records its ops."""

_ON_VALUES = {getattr(builtins, name).__name__ for name in ("bool", "int", "float", "abs", "all", "any", "len")}
_CHECKS = ("torch._check", "torch._assert")
_LONGEST = 60


class Span(NamedTuple):
    """Where an expression stands in a file."""

    line: int
    column: int
    last_line: int
    last_column: int


class Reading(NamedTuple):
    """A place where code looks at a value.

    Attributes:
        text: the expression; empty where there is no source.
        source: ``file:line in function``, outside torch; empty where unknown.
        only_raises: whether all that the value decides is whether an error is raised.
    """

    text: str
    source: str
    only_raises: bool


_CALLED: ContextVar[Reading | None] = ContextVar("_CALLED", default=None)


@contextmanager
def read_by(text: str, source: str = "") -> Iterator[None]:
    """Within it, what looks at a value is no code of the user's: a node of a file, which has another place."""
    token = _CALLED.set(Reading(text, source, False))
    try:
        yield
    finally:
        _CALLED.reset(token)


def reading() -> Reading:
    """The place at which the code that runs looks at a value now."""
    called = _CALLED.get()
    if called is not None:
        return called
    frames = list(_frames_of_model())
    users = next((frame for frame in frames if "/torch/" not in _name(frame)), None)
    if users is None:
        return Reading("", "", False)
    source = f"{Path(users.f_code.co_filename).name}:{users.f_lineno} in {users.f_code.co_name}"
    return Reading(_text(users), source, _only_raises(frames))


def _frames_of_model() -> Iterator[FrameType]:
    """The frames of the model's code, the innermost first, those of libraries included."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_CAPTURE) and Path(name).stem == "tracing":
            return
        if not name.startswith(OURS) and not _name(frame).rpartition("/torch/")[2].startswith(_MACHINERY):
            yield frame
        frame = frame.f_back


def _name(frame: FrameType) -> str:
    """The file that a frame's code stands in."""
    return frame.f_code.co_filename.replace("\\", "/")


def _only_raises(frames: list[FrameType]) -> bool:
    path = _path(frames[0])
    statement = next((node for node in reversed(path) if isinstance(node, ast.stmt)), None)
    if statement is None or not _raises_or_goes_on(statement):
        return False
    test = _test(statement)
    within = path[path.index(statement) + 1 :]
    if test is None or (within and test not in within):  # not within: the statement itself, where it jumps
        return False
    below = within[within.index(test) :] if within else []
    return all(map(_passes_on, below[:-1])) and not any(map(_catches, map(_path, frames)))


def _raises_or_goes_on(statement: ast.stmt) -> bool:
    """Whether one way out of a statement is an error."""
    if isinstance(statement, ast.If):
        return _ends_in_raise(statement.body) or _ends_in_raise(statement.orelse)
    return isinstance(statement, ast.Assert) or _test(statement) is not None


def _test(statement: ast.stmt) -> ast.expr | None:
    """What decides the way out of a statement: the test of an ``if``, what ``torch._check`` gets first."""
    if isinstance(statement, (ast.Assert, ast.If)):
        return statement.test
    call = statement.value if isinstance(statement, ast.Expr) else None
    is_check = isinstance(call, ast.Call) and call.args and ast.unparse(call.func).startswith(_CHECKS)
    return call.args[0] if is_check else None  # type: ignore[union-attr]


def _passes_on(node: ast.AST) -> bool:
    """Whether an expression in a test makes nothing of a value but the outcome of the test."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _ON_VALUES
    return isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp))


def _ends_in_raise(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _catches(path: list[ast.AST]) -> bool:
    """Whether an error that is raised at a place is caught in the same function, and not raised again."""
    for node, below in pairwise(path):
        tried = node if isinstance(node, (ast.Try, ast.TryStar)) and below in node.body else None
        if tried is not None and not all(_ends_in_raise(handler.body) for handler in tried.handlers):
            return True
        if isinstance(node, ast.With) and any("suppress" in ast.dump(item.context_expr) for item in node.items):
            return True
    return False


def _text(frame: FrameType) -> str:
    """The expression that a frame is at; of a statement or a choice that tests one, the test."""
    path = _path(frame)
    node: ast.AST | None = getattr(path[-1], "test", path[-1]) if path else None
    if node is None or isinstance(node, ast.stmt):
        return ""
    source = "".join(linecache.getlines(frame.f_code.co_filename))
    text = " ".join((ast.get_source_segment(source, node) or "").split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _span(frame: FrameType) -> Span | None:
    positions = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    line, last_line, column, last_column = positions
    if line is None or last_line is None or column is None or last_column is None:
        return None
    return Span(line, column, last_line, last_column)


def _path(frame: FrameType) -> list[ast.AST]:
    """The nodes around the expression that a frame is at, the module first; none where there is no source."""
    span, tree = _span(frame), _tree(frame.f_code.co_filename)
    if span is None or tree is None:
        return []
    path: list[ast.AST] = []
    node: ast.AST | None = tree
    while node is not None:
        path.append(node)
        node = next((child for child in _children(node) if _holds(child, span)), None)
    return path


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if hasattr(child, "lineno"):
            yield child
        else:  # arguments, items of a with statement, and so on
            yield from _children(child)


def _holds(node: ast.AST, span: Span) -> bool:
    first = (node.lineno, node.col_offset) <= (span.line, span.column)  # type: ignore[attr-defined]
    last = (node.end_lineno, node.end_col_offset) >= (span.last_line, span.last_column)  # type: ignore[attr-defined]
    return first and last


@lru_cache(maxsize=64)
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None
