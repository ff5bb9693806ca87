"""The compiler layer: programs, passes over them, and the op knowledge that they share.

Names are imported when they are first used; what stands in ``__all__`` is public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.passes.analysis.groups import Group, Groups
    from atograph.passes.analysis.infer_axes import Axes
    from atograph.passes.axes.flow import Affine, Constant, Contraction, Keep, Map, Term, Terms, Unknown
    from atograph.passes.base import AnalysisPass, Pass, RewritePass
    from atograph.passes.budgets.budget import Budget, budget
    from atograph.passes.cost.cost import CostModel
    from atograph.passes.criteria.criterion import Criterion, criterion
    from atograph.passes.criteria.ranking import log_scores
    from atograph.passes.criteria.units import Units
    from atograph.passes.errors import AtographError, InternalError, UserError
    from atograph.passes.ir.program import Program, copy_graph
    from atograph.passes.ir.reason import Reason, module_of
    from atograph.passes.ir.run import ProgramModule
    from atograph.passes.ir.sizes import at
    from atograph.passes.patterns.replace import PatternPass, Replacement
    from atograph.passes.pipeline.pipeline import Fixpoint, Pipeline
    from atograph.passes.pipeline.registry import register
    from atograph.passes.pipeline.running import Instrument
    from atograph.passes.plan.choose import group_norms
    from atograph.passes.plan.plan import Plan
    from atograph.passes.rules import Effect, Op, Unsupported, rule
    from atograph.passes.text.parser import parse_program
    from atograph.passes.text.printer import format_program

_HOMES = {
    # programs
    "Program": "ir.program",
    "ProgramModule": "ir.run",
    "Reason": "ir.reason",
    "module_of": "ir.reason",
    "at": "ir.sizes",
    "copy_graph": "ir.program",
    "format_program": "text.printer",
    "parse_program": "text.parser",
    # passes
    "Pass": "base",
    "AnalysisPass": "base",
    "RewritePass": "base",
    "PatternPass": "patterns.replace",
    "Replacement": "patterns.replace",
    "Pipeline": "pipeline.pipeline",
    "Fixpoint": "pipeline.pipeline",
    "Instrument": "pipeline.running",
    "register": "pipeline.registry",
    # facts
    "Axes": "analysis.infer_axes",
    "Groups": "analysis.groups",
    "Group": "analysis.groups",
    "CostModel": "cost.cost",
    # op rules
    "rule": "rules",
    "Op": "rules",
    "Effect": "rules",
    "Affine": "axes.flow",
    "Constant": "axes.flow",
    "Contraction": "axes.flow",
    "Keep": "axes.flow",
    "Map": "axes.flow",
    "Term": "axes.flow",
    "Terms": "axes.flow",
    "Unknown": "axes.flow",
    "Unsupported": "rules",
    # plans
    "Plan": "plan.plan",
    "group_norms": "plan.choose",
    # criteria
    "criterion": "criteria.criterion",
    "Criterion": "criteria.criterion",
    "Units": "criteria.units",
    "log_scores": "criteria.ranking",
    # budgets
    "budget": "budgets.budget",
    "Budget": "budgets.budget",
    # errors
    "AtographError": "errors",
    "UserError": "errors",
    "InternalError": "errors",
}

__all__ = [  # noqa: RUF022  # in groups, as the reference shows them
    # programs
    "Program",
    "ProgramModule",
    "Reason",
    "module_of",
    "at",
    "copy_graph",
    "format_program",
    "parse_program",
    # passes
    "Pass",
    "AnalysisPass",
    "RewritePass",
    "PatternPass",
    "Replacement",
    "Pipeline",
    "Fixpoint",
    "Instrument",
    "register",
    # facts
    "Axes",
    "Groups",
    "Group",
    "CostModel",
    # op rules
    "rule",
    "Op",
    "Effect",
    "Affine",
    "Constant",
    "Contraction",
    "Keep",
    "Map",
    "Term",
    "Terms",
    "Unknown",
    "Unsupported",
    # plans
    "Plan",
    "group_norms",
    # criteria
    "criterion",
    "Criterion",
    "Units",
    "log_scores",
    # budgets
    "budget",
    "Budget",
    # errors
    "AtographError",
    "UserError",
    "InternalError",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
