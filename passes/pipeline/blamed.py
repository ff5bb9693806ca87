"""What a pass raises is told with its name, its line, and the package that it is from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb

from atograph.passes.authors import package_of
from atograph.passes.base import Pass
from atograph.passes.errors import AtographError, InternalError, UserError, says_out_of_memory


@contextmanager
def blamed(each: Pass, what: str = "") -> Iterator[None]:
    """Let code of a pass raise nothing but our own errors; `SystemExit` is none, and an interrupt goes through.

    Args:
        each: the pass.
        what: of it runs: ``"broken() of "``; empty: the pass itself.

    Raises:
        UserError: there was not enough memory for it.
        InternalError: it raised something else.
    """
    try:
        yield
    except AtographError:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        if says_out_of_memory(said):
            raise UserError(
                f"there is not enough memory for {what}the pass '{each.name}' ({said}).",
                hint="Look at the sizes of the program, or run it on a larger machine.",
            ) from error
        said += f" ({_place_of(error, each)})"
        raise InternalError(f"{what}the pass '{each.name}' raised {said}.", package_of(type(each))) from error


def _place_of(error: BaseException, each: Pass) -> str:
    """The line of a pass's own file that an exception came from, or else the one that raised it."""
    frames = extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(type(each).__module__), "__file__", None)
    found = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{Path(found.filename).name}:{found.lineno}"
