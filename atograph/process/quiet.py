"""Other packages narrate what they do; here they keep silent, and what matters is said in one paragraph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(logger: str | None = None) -> Iterator[None]:
    """Let a logger (None: that of all) tell errors only in this block, and show no Python warnings."""
    chosen = logging.getLogger(logger)
    level = chosen.level
    chosen.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chosen.setLevel(level)
