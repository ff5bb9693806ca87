"""Other packages narrate what they do; here they keep silent, and what matters is said in one paragraph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Let loggers tell errors only in this block, and show no Python warnings.

    Args:
        loggers: their names; none: all there are, those that have a level of their own (torch's) as well.
    """
    chosen = [logging.getLogger(name) for name in loggers]
    levels, disabled = [each.level for each in chosen], logging.root.manager.disable
    for each in chosen:
        each.setLevel(logging.ERROR)
    if not loggers:
        logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for each, level in zip(chosen, levels, strict=True):
            each.setLevel(level)
