"""The table of criteria, by name; nothing of them is imported before it is used."""

from __future__ import annotations

from typing import Any

from atograph.passes.registry import Registry

CRITERIA = Registry[Any](
    "criterion",
    "criteria",
    group="atograph.criteria",
    base="atograph.passes.criteria.criterion:Criterion",
    ours={
        "magnitude": "atograph.passes.criteria.magnitude:Magnitude",
        "taylor": "atograph.passes.criteria.taylor:Taylor",
        "bn-scale": "atograph.passes.criteria.bn_scale:BatchNormScale",
        "fpgm": "atograph.passes.criteria.fpgm:GeometricMedian",
        "lamp": "atograph.passes.criteria.lamp:LayerAdaptive",
        "activation": "atograph.passes.criteria.activation:Activation",
    },
    reserved=("none", "ato", "progressive", "at-once"),  # no criterion at all, and methods
)
