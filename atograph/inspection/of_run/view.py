"""All that a page tells of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atograph.inspection.of_run.curves import courses, epochs_of, epochs_table
from atograph.inspection.of_run.figures import Figure, figures
from atograph.inspection.of_run.layers import Layer, layers
from atograph.inspection.of_run.loading import Snippet, snippets
from atograph.inspection.of_run.tables import about, tables
from atograph.inspection.overview import Overview
from atograph.inspection.pages.lines import Drawn, drawn
from atograph.inspection.pages.table import Table, Verdict
from atograph.report.run import Report
from atograph.report.summary import summary


@dataclass(frozen=True)
class RunView:
    """A run, ready to be written out.

    Attributes:
        summary: the run in one sentence.
        proof: whether it was proved, and how.
        figures: before and after.
        snippets: how to load the result.
        tables: what was measured and proved.
        about: where it comes from.
        layers: before and after.
        charts: the course of the training; none without any.
        epochs: the same as a table.
    """

    summary: str
    proof: Verdict
    figures: Sequence[Figure]
    snippets: Sequence[Snippet]
    tables: Sequence[Table]
    about: Table
    layers: Sequence[Layer]
    charts: Sequence[Drawn]
    epochs: Table


def run_view(report: Report, shown: Overview) -> RunView:
    """What a report tells, with the layers of its network.

    Args:
        report: of the run.
        shown: its network, with its plan.
    """
    found = courses(report)
    epochs = epochs_of(report)
    charts = [chart for course in found if (chart := drawn(course, epochs)) is not None] if epochs else []
    return RunView(
        summary=summary(report),
        proof=_proof(report),
        figures=figures(report),
        snippets=snippets(report, shown.inputs),
        tables=tables(report),
        about=about(report),
        layers=layers(shown),
        charts=charts,
        epochs=epochs_table(report, found),
    )


def _proof(report: Report) -> Verdict:
    if report.not_proved:
        return Verdict(f"✗ Not proved: {report.not_proved}", good=False)
    if not report.certificate:
        return Verdict("✗ No certificate.", good=False)
    forms = " = ".join(report.forms)
    broken = sum(not entry.holds for entry in report.certificate)
    if broken:
        return Verdict(f"✗ {forms}: {broken} of {len(report.certificate)} comparisons do not hold.", good=False)
    return Verdict(f"✓ Proved: {forms} on real inputs, to rounding.", good=True)
