"""All passes in words: what each does, its options with types and defaults, and the package that brings it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from atograph.passes.authors import package_of
from atograph.passes.base import AnalysisPass, Pass
from atograph.passes.errors import UserError
from atograph.passes.pipeline.option_values import written
from atograph.passes.pipeline.options import default_of, hints_of, type_text
from atograph.passes.pipeline.registry import PASSES

_OPTION = re.compile(r"^(\w+): (.*(?:\n\s{2,}.*)*)", re.MULTILINE)


def listed() -> str:
    """Each pass, ours first; one that cannot be loaded says why."""
    return "\n".join(_described(name) for name in PASSES)


def _described(name: str) -> str:
    try:
        kind = PASSES.get(name)
        hints = hints_of(kind)
    except UserError as error:
        return f"{name}\n  {error}\n"
    package = package_of(kind)
    kinds = "analysis" if issubclass(kind, AnalysisPass) else "rewrite"
    home = "" if package == "atograph" else f", of {package}"
    text = inspect.getdoc(kind) or ""
    summary, _, rest = text.partition("Options:")
    lines = [f"{name} ({kinds}{home})", *(f"  {line}".rstrip() for line in summary.strip().splitlines())]
    told = {option: " ".join(words.split()) for option, words in _OPTION.findall(inspect.cleandoc(rest))}
    return "\n".join([*lines, *_options(kind, hints, told)]) + "\n"


def _options(kind: type[Pass], hints: dict[str, Any], told: dict[str, str]) -> list[str]:
    lines = []
    for field in dataclasses.fields(kind):
        default = default_of(field)
        needed = "required" if default is dataclasses.MISSING else f"default {written(default)}"
        words = told.get(field.name, "")
        lines.append(f"    {field.name.replace('_', '-')}: {type_text(hints[field.name])}, {needed}. {words}".rstrip())
    return lines
