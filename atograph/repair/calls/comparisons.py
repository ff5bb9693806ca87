"""Comparisons of widths in a module's own code: ``if x.shape[-1] != self.dim: raise``.

An attribute may be read nowhere else. Where the dense model found a width equal to it, and the slim one meets another
width there, the attribute is to have that.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from types import FrameType

from atograph.capture.recording.origins import issues_calls
from atograph.repair.calls.boundaries import Boundaries
from atograph.repair.observe.traced_ints import Remembered, Wish, watching_comparisons

Key = tuple[str, int, int]
"""Where a comparison stands: file, first line of the function, offset of the instruction."""


class Comparisons:
    """The comparisons of remembered integers with plain ones that a model makes, in the order of the run.

    Attributes:
        wishes: terms that are to have another value.
        possible: whether the model runs with remembered integers.
        caches: the functions with a cache that it calls.
        boundaries: what its modules give.
    """

    def __init__(self) -> None:
        self.possible = True
        self.caches: Sequence[_lru_cache_wrapper[object]] = ()
        self.boundaries = Boundaries()
        self.wishes: list[Wish] = []
        self._dense: dict[tuple[Key, int], tuple[int, bool]] = {}

    @contextmanager
    def of_dense(self) -> Iterator[None]:
        """Within it, the dense model runs."""
        seen: Counter[Key] = Counter()

        def note(_term: Remembered, other: int, equal: bool) -> bool:
            key = _place()
            self._dense[key, seen[key]] = other, equal
            seen[key] += 1
            return equal

        self._dense.clear()
        with watching_comparisons(note):
            yield

    @contextmanager
    def of_slim(self) -> Iterator[None]:
        """Within it, the slim model runs; what was equal stays so, and is wished for."""
        seen: Counter[Key] = Counter()

        def follow(term: Remembered, other: int, equal: bool) -> bool:
            key = _place()
            before, was_equal = self._dense.get((key, seen[key]), (other, False))
            seen[key] += 1
            if equal or not was_equal or other == before:
                return equal
            self.wishes.append((term, other))
            return True

        self.wishes = []
        with watching_comparisons(follow):
            yield


def _place() -> Key:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not issues_calls(frame.f_code.co_filename):
        frame = frame.f_back
    return ("", 0, 0) if frame is None else (frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti)
