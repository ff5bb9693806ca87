"""Worker processes of a DataLoader that die: torch says so from a signal handler, in the middle of whatever runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from atograph.passes.errors import UserError


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Tell the death of a worker as what it is, and not as an error of the code that happened to run.

    Raises:
        UserError: a worker died within the block.
    """
    try:
        yield
    except Exception as error:
        told = _death(error)
        if told is None:
            raise
        named = UserError(
            f"a process that reads the data died: {told}.",
            where="the data",
            hint="Often the memory is full (fewer workers need less), or it crashed: without workers (num_workers=0) "
            "one sees where.",
        )
        for note in getattr(error, "__notes__", ()):
            named.add_note(note)
        raise named from error


def _death(error: BaseException | None) -> str | None:
    """What torch says of a dead worker, in an error or in one that it came from."""
    seen = set[int]()
    while error is not None and id(error) not in seen:  # an error that is raised twice may come from itself
        seen.add(id(error))
        text = str(error)
        if isinstance(error, RuntimeError) and text.startswith("DataLoader worker (pid"):
            return text.partition("\n")[0].strip().rstrip(".")
        error = error.__cause__ or error.__context__
    return None
