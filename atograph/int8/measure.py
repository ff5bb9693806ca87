"""A file in int8 beside its float32 one: how far its outputs are off, and what share of the time it takes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from atograph.latency.measure import times_in_turns
from atograph.sessions.feed import Feed
from atograph.sessions.file_model import FileModel

Arrays = Sequence[NDArray[np.generic]]


@dataclass(frozen=True)
class Pace:
    """Both files in one runtime, timed in turns.

    Attributes:
        runtime: what it is called.
        whole: milliseconds of the quickest call of the float32 file.
        int8: of the int8 file.
        ratio: the median, over pairs of calls, of int8 over float32: what other work on the machine slows, it slows in
            both calls of a pair.
        threads: in each.
    """

    runtime: str
    whole: float
    int8: float
    ratio: float
    threads: int

    @property
    def slower(self) -> bool:
        """Whether int8 takes longer, by the pairs or by the quickest calls."""
        return self.ratio > 1 or self.int8 > self.whole

    def __str__(self) -> str:
        best = f"at best {self.int8:.3g} and {self.whole:.3g} ms"
        return f"{self.ratio:.2f} of the float32 file's time in {self.runtime} ({best})"


def pace(whole: FileModel, small: FileModel, feed: Feed, *, seconds: float = 2.0) -> Pace:
    """Time a file in int8 beside that in float32.

    Args:
        whole, small: the files in float32 and in int8, in the same runtime.
        feed: inputs, as they are deployed.
        seconds: time to spend, a warm-up aside.
    """
    before, after = times_in_turns([(whole, feed), (small, feed)], seconds=seconds)
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return Pace(whole.runtime.title, min(before), min(after), statistics.median(ratios), whole.threads)


def apart(references: Arrays, others: Arrays) -> float:
    """How far outputs are from their references: the root of the summed squares of the differences over that of the
    references, of the output that is furthest off; values that are no numbers or not finite (masks) have to be so in
    both. Where no output has other values, it is the share of the whole numbers (classes, places) that differ;
    infinite where there is nothing to compare.

    >>> apart([np.array([3.0, 4.0])], [np.array([3.0, 4.5])])
    0.1
    >>> apart([np.array([7, 1, 2, 5])], [np.array([7, 1, 2, 6])])
    0.25
    """
    if [each.shape for each in references] != [each.shape for each in others]:
        return inf
    pairs = list(zip(references, others, strict=True))
    values = [_apart(*pair) for pair in pairs if np.issubdtype(pair[0].dtype, np.floating)]
    found = [distance for distance in values if distance is not None]
    whole = [float(np.mean(one != two)) for one, two in pairs if not np.issubdtype(one.dtype, np.floating) and one.size]
    return max(found or ([] if values else whole), default=inf)


_MASKED = 1e9
"""From here on a value is a mask, and no scale for others."""


def _apart(reference: NDArray[np.generic], other: NDArray[np.generic]) -> float | None:
    """Of one output; None where it has no value that compares."""
    one, two = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    values = np.abs(one) < _MASKED
    if not np.array_equal(values, np.abs(two) < _MASKED) or not np.array_equal(np.isnan(one), np.isnan(two)):
        return inf
    if not values.any():
        return None
    size = float(np.linalg.norm(one[values]))
    distance = float(np.linalg.norm(one[values] - two[values]))
    return distance / size if size else (inf if distance else 0.0)
