"""The table of methods, by name; nothing of them is imported before it is used."""

from __future__ import annotations

from typing import Any

from atograph.passes.criteria.table import CRITERIA
from atograph.passes.registry import Registry

METHODS = Registry[Any](
    "method",
    "methods",
    group="atograph.methods",
    base="atograph.train.methods.method:Method",
    ours={
        "ato": "atograph.train.methods.ato:AutoTrainOnceMethod",
        "progressive": "atograph.train.methods.progressive:Progressive",
        "at-once": "atograph.train.methods.at_once:AtOnce",
    },
    beside=CRITERIA,  # ``--method`` takes both
)

DEFAULT_METHOD = "progressive"
"""The one of a training that names none."""
