"""``slim.pt2``: a slim program as torch.export writes it, with the digest of the plan that it was made by."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from zipfile import is_zipfile

import torch
from torch.export import ExportedProgram

from atograph.passes.errors import UserError
from atograph.passes.exported import with_plain_outputs
from atograph.passes.plan import Plan
from atograph.pickled import NotPlain
from atograph.program_check import check_program
from atograph.quiet import quiet
from atograph.reading import Unreadable, check_regular, refusal

NAME = "slim.pt2"

_PLAN = "atograph.plan"

_LONGEST = 160

_NO_PROGRAM = "not a program that torch.export can load"

_OWN_CLASSES = "Where it is your own, and the classes are, allow them: torch.serialization.add_safe_globals([Class])."

_OWN_OPS = (
    "If the model has ops of its own, what defines them has to be imported before: --spec, or an import in Python. "
    "Otherwise the file is damaged."
)


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
    said, logger, first = {_PLAN: ""}, logging.getLogger("torch.export"), _First()
    logger.addFilter(first)
    try:
        with quiet():
            check_regular(path)
            check_program(path)
            program = torch.export.load(path, extra_files=said)
    except NotPlain as error:
        raise refusal(error, path, _NO_PROGRAM, _OWN_CLASSES) from error
    except Unreadable as error:
        raise refusal(error, path, _NO_PROGRAM, "It was not made by atograph, or is damaged.") from error
    except Exception as error:
        lines = [line.strip() for line in str(first.error or error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} ..."
        raise UserError(
            f"{_NO_PROGRAM}: {reason}.",
            where=str(path),
            hint=_OWN_OPS if is_zipfile(path) else "It is cut off or damaged; copy it again, or make it again.",
        ) from error
    finally:
        logger.removeFilter(first)
    return program, str(said[_PLAN])


class _First(logging.Filter):
    """Keeps what torch logs where it fails: the error that it raises then says less."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Nothing is shown."""
        if record.exc_info and self.error is None:
            self.error = record.exc_info[1]
        return False
