"""Pruning before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from atograph.train.methods.ato import AutoTrainOnceMethod


class AtOnce(AutoTrainOnceMethod):
    """Prunes the initial weights at once, by the criterion that is the ``prior``; all epochs train the slim network.

    A criterion's name is a method, too: ``method="lamp"`` is ``method="at-once", prior="lamp"``.
    """

    name = "at-once"
    help = "prunes the initial weights at once, and then fine-tunes for --epochs (0: not at all)"
    takes_plans = True
    presets: ClassVar[Mapping[str, object]] = {
        "controller": False, "controller_start": 0.0, "projection_start": 0.0, "search_end": 0.0, "zero": 0.0,
    }  # fmt: skip
