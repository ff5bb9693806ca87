"""Passes that a plan remembers: a program went through them before its groups were found, and goes through them again
wherever the plan is used."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from atograph.passes.errors import UserError
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.plan import Plan


def read_remembered(text: str) -> Pipeline:
    """The passes of a text; of an empty one, none.

    A plan is a file that anyone may have written, so it may not say where a pass reads or writes.

    Raises:
        UserError: as `Pipeline.parse`; or an option is a path.
    """
    return Pipeline.parse(text, {Path: _no_path, Plan: _no_path}) if text.strip() else Pipeline(())


def passes_of_plan(text: str) -> Pipeline:
    """The passes of a plan, found again.

    Raises:
        UserError: one of them is not here, or takes other options now.
    """
    try:
        return read_remembered(text)
    except UserError as error:
        raise UserError(
            f"the plan is for a program that went through the passes {text!r}, and they cannot be run here: "
            f"{error.message}",
            hint="Install the package that has the pass, or let the SPEC register it (atograph.passes.register).",
        ) from error


def _no_path(text: str) -> NoReturn:
    raise UserError(
        f"a plan remembers the passes, and paths are not remembered ({text!r}).",
        hint="Let the pass run by itself: atograph opt SPEC --passes PASSES --out FILE.pt2.",
    )
