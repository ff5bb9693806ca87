"""The verifier that runs after every pass, by two tables: what holds of a program, and what a pass may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.base import Pass
from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.changes import CHANGES, Given, broken_promises, promises_are_kept
from atograph.passes.pipeline.invariants import INVARIANTS, Invariant, axes_match_shapes, graph_is_well_formed


def verify(program: Program, after: str = "capture", culprit: str = "atograph") -> None:
    """Check every invariant of a program.

    Args:
        program: to check.
        after: the pass (or passes) that ran.
        culprit: the package that is to blame.

    Raises:
        InternalError: naming what ran and the first broken invariant.
    """
    for invariant in INVARIANTS:
        _refuse(invariant, invariant(program), after, culprit)


def verify_pass(each: Pass, given: Given, result: Program, after: str) -> None:
    """Check what a pass has made of a program.

    Args:
        each: the pass that ran last.
        given: the program as it was before.
        result: the program that it gave.
        after: all passes that ran.

    Raises:
        InternalError: as `verify`.
    """
    culprit = type(each).__module__.partition(".")[0]
    for invariant in INVARIANTS:
        if not _holds_still(invariant, given, result):
            _refuse(invariant, invariant(result), after, culprit)
    for change in CHANGES:
        _refuse(change, change(each, given, result), after, culprit)


def _holds_still(invariant: Invariant, given: Given, result: Program) -> bool:
    """Whether what held before a pass holds still: of the graph of an analysis, which `_given_is_left_alone` looks at
    node by node, and of axes that are the same as before."""
    if result is not given.program:
        return False
    if invariant is axes_match_shapes:
        return all(result.facts.get(kind) is given.facts.get(kind) for kind in (Axes, Groups))
    return invariant is graph_is_well_formed


def verify_promises(each: Pass, given: Program, result: Program, after: str) -> None:
    """Check only what a pass promises itself: of a pipeline, whose inner passes were verified one by one.

    Raises:
        InternalError: as `verify`.
    """
    culprit = type(each).__module__.partition(".")[0]
    _refuse(promises_are_kept, broken_promises(each, given, result), after, culprit)


def _refuse(invariant: Callable[..., object], broken: Iterator[str], after: str, culprit: str) -> None:
    first = next(broken, None)
    if first is not None:
        rule = (invariant.__doc__ or "").strip().rstrip(".")
        raise InternalError(f"after {after}: {first} (invariant: {rule}).", culprit)
