"""The plan in a file, or in the folder of a run."""

from __future__ import annotations

from pathlib import Path

from atograph.files.reading import PLAN, Unreadable, parse_json, read_bytes, refusal
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import HINT, Plan


def read_plan(name: str | Path) -> Plan:
    """The plan in a file, or in the folder of a run.

    Raises:
        UserError: it cannot be read or is no plan.
    """
    path = Path(name)
    path = path / "plan.json" if path.is_dir() else path
    try:
        content = read_bytes(path, most=PLAN.bytes)
    except Unreadable as error:
        raise refusal(error, path, "cannot read the plan") from error
    try:
        parse_json(content, most=PLAN.elements)
        return Plan.from_json(content)
    except Unreadable as error:
        raise refusal(error, path, "this is not a valid plan", HINT) from error
    except UserError as error:
        raise UserError(error.message, where=str(path), hint=error.hint) from None
