"""``slim.pt2``: a slim program as torch.export writes it, with the digest of the plan that it was made by."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch.export import ExportedProgram

from atograph.passes.errors import UserError
from atograph.passes.exported import with_plain_outputs
from atograph.passes.plan import Plan
from atograph.quiet import quiet

NAME = "slim.pt2"

_PLAN = "atograph.plan"


def program_bytes(program: ExportedProgram, plan: Plan) -> memoryview:
    """What the file holds. In memory first: where the disk is full, torch takes the whole process down."""
    buffer = io.BytesIO()
    torch.export.save(with_plain_outputs(program), buffer, extra_files={_PLAN: plan.digest})
    return buffer.getbuffer()


def read_program(path: Path) -> tuple[ExportedProgram, str]:
    """The program, and the digest of its plan; an empty one where the file does not say.

    Raises:
        UserError: the file cannot be read.
    """
    said = {_PLAN: ""}
    try:
        with quiet("torch.export"):
            program = torch.export.load(path, extra_files=said)
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise UserError(
            f"not a program that torch.export can load: {reason}.",
            where=str(path),
            hint="It is cut off or damaged; copy it again, or make it again.",
        ) from error
    return program, str(said[_PLAN])
