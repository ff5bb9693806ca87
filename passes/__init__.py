"""The compiler layer: programs, passes over them, and the op knowledge that they share.

Names are imported when they are first used; what stands in ``__all__`` is public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.passes.analysis.groups import Group, Groups
    from atograph.passes.analysis.infer_axes import Axes
    from atograph.passes.axes.flow import Affine, Constant, Contraction, Keep, Map, Unknown
    from atograph.passes.base import AnalysisPass, Pass, RewritePass
    from atograph.passes.cost.cost import CostModel
    from atograph.passes.errors import AtographError, InternalError, UserError
    from atograph.passes.ir.program import Program, copy_graph
    from atograph.passes.ir.reason import Reason, module_of
    from atograph.passes.ir.run import ProgramModule
    from atograph.passes.ir.sizes import at
    from atograph.passes.pipeline.pipeline import Pipeline
    from atograph.passes.pipeline.registry import register
    from atograph.passes.pipeline.text import format_program
    from atograph.passes.plan.choose import group_norms
    from atograph.passes.plan.plan import Plan
    from atograph.passes.rules import Effect, Op, rule

_HOMES = {
    # programs
    "Program": "ir.program",
    "ProgramModule": "ir.run",
    "Reason": "ir.reason",
    "at": "ir.sizes",
    "copy_graph": "ir.program",
    "format_program": "pipeline.text",
    "module_of": "ir.reason",
    # passes
    "AnalysisPass": "base",
    "Pass": "base",
    "Pipeline": "pipeline.pipeline",
    "RewritePass": "base",
    "register": "pipeline.registry",
    # facts
    "Axes": "analysis.infer_axes",
    "CostModel": "cost.cost",
    "Group": "analysis.groups",
    "Groups": "analysis.groups",
    # op rules
    "Affine": "axes.flow",
    "Constant": "axes.flow",
    "Contraction": "axes.flow",
    "Effect": "rules",
    "Keep": "axes.flow",
    "Map": "axes.flow",
    "Op": "rules",
    "Unknown": "axes.flow",
    "rule": "rules",
    # plans
    "Plan": "plan.plan",
    "group_norms": "plan.choose",
    # errors
    "AtographError": "errors",
    "InternalError": "errors",
    "UserError": "errors",
}

__all__ = [
    "Affine",
    "AnalysisPass",
    "AtographError",
    "Axes",
    "Constant",
    "Contraction",
    "CostModel",
    "Effect",
    "Group",
    "Groups",
    "InternalError",
    "Keep",
    "Map",
    "Op",
    "Pass",
    "Pipeline",
    "Plan",
    "Program",
    "ProgramModule",
    "Reason",
    "RewritePass",
    "Unknown",
    "UserError",
    "at",
    "copy_graph",
    "format_program",
    "group_norms",
    "module_of",
    "register",
    "rule",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
