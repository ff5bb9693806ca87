"""Op knowledge: one table of rules. Importing this package fills it; `rule` adds a row for an op of your own."""

from atograph.passes.rules import attention, index, linear, norm, pointwise, quantised, recurrent, reduce, shape
from atograph.passes.rules.table import Effect, Op, Rule, Unsupported, frozen_effect, name_of, rule, rule_for, targets

__all__ = [
    "Effect",
    "Op",
    "Rule",
    "Unsupported",
    "attention",
    "frozen_effect",
    "index",
    "linear",
    "name_of",
    "norm",
    "pointwise",
    "quantised",
    "recurrent",
    "reduce",
    "rule",
    "rule_for",
    "shape",
    "targets",
]
