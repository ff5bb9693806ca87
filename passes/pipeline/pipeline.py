"""Pipelines: passes in a row, ``"infer-axes,find-groups,slim{plan=plan.json}"``, with the verifier between them."""

from __future__ import annotations

import dataclasses
import gc
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from atograph.passes.base import Pass
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.registry import PASSES
from atograph.passes.pipeline.reproducer import reproducible
from atograph.passes.pipeline.verify import Given, verify_pass
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public

Readers: TypeAlias = Mapping[type, Callable[[str], Any]]
"""How to read options that are not numbers, booleans or strings (a plan from the file that the text names)."""

ANALYSE = "gather-shuffles,infer-axes,find-groups,estimate-cost"
"""What `atograph.trace` runs."""

_PASS = re.compile(r"\s*(?P<name>[A-Za-z][\w-]*)\s*(?:\{(?P<options>[^}]*)\})?\s*")


@public("atograph.passes")
@dataclass(frozen=True)
class Pipeline:
    """Passes in order. ``str(pipeline)`` is text that `Pipeline.parse` reads back, where options are plain values."""

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str, readers: Readers | None = None) -> Pipeline:
        """Read a pipeline.

        Raises:
            UserError: the text is no pipeline, a pass or an option does not exist, or a value does not fit its type.
        """
        passes, at = [], 0
        while True:
            match = _PASS.match(text, at)
            if match is None:
                raise UserError(
                    f"cannot read the pipeline at '{text[at : at + 20]}'.",
                    hint='Write it like "infer-axes,find-groups,slim{plan=plan.json}".',
                )
            passes.append(_make(match["name"], match["options"] or "", readers or {}))
            at = match.end()
            if at == len(text):
                return cls(tuple(passes))
            if text[at] != ",":
                raise UserError(f"expected ',' in the pipeline before '{text[at : at + 20]}'.")
            at += 1

    def __str__(self) -> str:
        return ",".join(_print(each) for each in self.passes)

    def run(self, program: Program, after: Callable[[Pass, Program], None] | None = None) -> Program:
        """Run the passes; ``after`` is called with each pass and the program that it left.

        Raises:
            UserError: what a pass refuses.
            InternalError: an invariant is broken; the text names the passes that ran.
        """
        with _without_collection():
            return self._run(program, after)

    def _run(self, program: Program, after: Callable[[Pass, Program], None] | None) -> Program:
        ran: list[str] = []
        for each in self.passes:
            ran.append(each.name)
            program = _checked(each, program, ran)
            if after is not None:
                after(each, program)
        return program


def _checked(each: Pass, program: Program, ran: Sequence[str]) -> Program:
    """What a pass gives, verified."""
    text, given = " → ".join(ran), Given.of(program)
    with reproducible(program, _plan_of(each, program)) as shown:
        try:
            outcome = each(program)
        except InternalError as error:
            error.add_note(f"passes: {text}")
            raise
        result = getattr(outcome, "graph_module", None)
        if not isinstance(result, Program):
            culprit = type(each).__module__.partition(".")[0]
            raise InternalError(f"the pass '{each.name}' gave a {type(result).__name__}, not a Program.", culprit)
        shown[f"what {each.name} made of it"] = result
        verify_pass(each, given, result, after=text)
    return result


def _plan_of(each: Pass, program: Program) -> Plan | None:
    """The plan that a pass works with, if it does."""
    own = getattr(each, "plan", None)
    return own if isinstance(own, Plan) else program.facts.get(Plan)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Analyses make a great many small objects that stay: a garbage collector would go through them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _make(name: str, options: str, readers: Readers) -> Pass:
    kind = PASSES.get(name)
    types_of = typing.get_type_hints(kind)
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(kind)}
    values = {}
    for item in re.split(r"[,\s]+", options.strip()) if options.strip() else []:
        key, equals, text = item.partition("=")
        field = fields.get(key.replace("_", "-"))
        if field is None or not equals:
            known = ", ".join(fields) or "none"
            raise UserError(f"the pass '{name}' has no option '{item}'.", hint=f"Its options: {known}.")
        values[field.name] = _read(f"{name}{{{key}}}", text, types_of[field.name], readers)
    missing = [
        key for key, field in fields.items()
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise UserError(f"the pass '{name}' needs the option '{missing[0]}'.")
    return kind(**values)


def _read(where: str, text: str, wanted: Any, readers: Readers) -> Any:
    options = [t for t in typing.get_args(wanted) if t is not types.NoneType] if _is_optional(wanted) else [wanted]
    for kind in options:
        if kind is bool and text in ("true", "false"):
            return text == "true"
        if kind in readers:
            return readers[kind](text)
        if kind in (int, float, str):
            try:
                return kind(text)
            except ValueError:
                continue
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in options)
    raise UserError(f"{where} takes a value of type {names}, not '{text}'.")


def _is_optional(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _print(each: Pass) -> str:
    options = []
    for field in dataclasses.fields(each):
        value = getattr(each, field.name)
        if value != field.default:
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            options.append(f"{field.name.replace('_', '-')}={shown}")
    return each.name + (f"{{{','.join(options)}}}" if options else "")
