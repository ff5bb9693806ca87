"""Whether the files in a folder are of one run: each says by which plan it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.spec.example_inputs import Inputs, check_accepts

HINT = "Copy the whole folder of one run."


def check_same_plan(folder: Path, plan: Plan, made_by: Mapping[str, str | None]) -> None:
    """Make sure that files were made by the plan beside them.

    Args:
        folder: where they are.
        plan: in ``plan.json``.
        made_by: file → the digest of the plan that it was made by; None or an empty one where it does not say.

    Raises:
        UserError: naming the first that was made by another.
    """
    for file, digest in made_by.items():
        if digest and digest != plan.digest:
            raise UserError(
                f"the files of this run do not belong together: {file} is of the plan {digest}, and plan.json is "
                f"{plan.digest}.",
                where=str(folder),
                hint=HINT,
            )


def check_takes(model: nn.Module, inputs: Inputs, folder: Path) -> None:
    """Make sure that a dense model takes what the slim program in a folder was traced with.

    Raises:
        UserError: it does not.
    """
    try:
        check_accepts(model, inputs, where=str(folder / "slim.pt2"))
    except UserError as error:
        raise UserError(
            f"the example inputs in it are not for this model: {error.message}",
            where=error.where,
            hint=f"{HINT} If that is done, --spec names another model than the run was made from.",
        ) from error
