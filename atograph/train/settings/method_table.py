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
"""The one of a training that names none, and no setting that only another one has."""

METHOD_OF_LOOPS = "ato"
"""The same in a loop of one's own: the module changes once there, and not in steps that the loop has to follow."""

OF_ATO = (
    "search_end", "zero", "controller", "controller_start", "controller_interval", "controller_min_steps",
    "controller_lr", "controller_weight_decay", "controller_norms", "controller_drop", "controller_search",
    "controller_spread", "controller_masked", "temperature", "offset", "gamma", "prior_scale", "projection_start",
    "lambda_start", "lambda_search_end", "lambda_end", "paced",
)  # fmt: skip
"""Settings that only Auto-Train-Once has, or sets by itself: who gives one of them and no method means it."""
