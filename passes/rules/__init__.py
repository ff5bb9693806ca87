"""Op knowledge: one table of rules. Importing this package fills it; `rule` adds a row for an op of your own."""

from atograph.passes.rules import (
    attention,
    fill,
    index,
    join,
    linear,
    norm,
    pointwise,
    quantised,
    recurrent,
    reduce,
    reorder,
    shape,
    spatial,
)
from atograph.passes.rules.table import Effect, Op, Rule, Unsupported, frozen_effect, name_of, rule, rule_for, targets

__all__ = [
    "Effect",
    "Op",
    "Rule",
    "Unsupported",
    "attention",
    "fill",
    "frozen_effect",
    "index",
    "join",
    "linear",
    "name_of",
    "norm",
    "pointwise",
    "quantised",
    "recurrent",
    "reduce",
    "reorder",
    "rule",
    "rule_for",
    "shape",
    "spatial",
    "targets",
]
