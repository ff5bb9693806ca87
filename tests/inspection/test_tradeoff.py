"""Curves of a metric over FLOPs and over latency: which networks are the best, in a terminal and on a page."""

from __future__ import annotations

import math
import re
from pathlib import Path
from textwrap import dedent

import pytest

from atograph.inspection.pages.axis import texts, ticks
from atograph.inspection.tradeoff.figure import figure, labels
from atograph.inspection.tradeoff.ladder import ladder_page
from atograph.report.chart import charts
from atograph.report.ladder import LadderReport, LadderRung
from atograph.report.tradeoff import Better, Point, pareto
from atograph.terminal.console import as_text
from atograph.terminal.tradeoff import ladder_table


@pytest.mark.parametrize(
    ("points", "better", "front"),
    [
        ([(0.7, 0.9), (0.5, 0.92), (0.3, 0.8), (0.2, None)], "max", [False, True, True, False]),
        ([(0.7, 0.9), (0.5, 0.92), (0.3, 0.8), (0.2, None)], "min", [False, False, True, False]),
        ([(0.7, 0.9), (0.5, 0.92)], None, [False, False]),
        ([(0.5, 0.9), (0.5, 0.9), (0.5, 0.8)], "max", [True, True, False]),
        ([(0.5, 0.9), (0.3, 0.9)], "max", [False, True]),
        ([(0.5, 0.9), (0.498, 0.8)], "max", [True, False]),  # as much, within 1 %
        ([(0.5, 0.9), (0.498, 0.9)], "max", [False, True]),
        ([(0.5, 0.9), (0.49, 0.8)], "max", [True, True]),
        ([(None, 0.9), (0.5, 0.8)], "max", [False, True]),
        ([(0.5, math.nan), (0.7, 0.8)], "max", [False, True]),
        ([], "max", []),
    ],
)
def test_the_front(points: list[tuple[float | None, float | None]], better: Better | None, front: list[bool]) -> None:
    assert pareto(points, better) == front


def rung(asked: float, metric: float | None, ms: float | None, training: float | None = None) -> LadderRung:
    return LadderRung(
        folder=f"flops-{asked:g}", asked=asked, flops=asked - 0.002, params=asked / 2, metric=metric, ms=ms,
        spread=None if ms is None else 0.01, latency=None if ms is None else ms / 0.2, training=training,
    )  # fmt: skip


LADDER = LadderReport(
    name="<i>digits", budget="flops", metric="top-1", better="max", batch=1, threads=1,
    dense=Point(flops=1.0, params=1.0, metric=0.981, ms=0.2, spread=0.01, quartiles=(0.195, 0.205)),
    rungs=[rung(0.7, 0.985, 0.21, 0.8), rung(0.5, 0.978, 0.14, 0.55), rung(0.3, 0.978, 0.11, 0.3)],
).marked()  # fmt: skip


def test_a_ladder_in_the_terminal() -> None:
    """The dense network is faster than the slim one at 0.7, so it is on one front and not on the other."""
    curves = as_text(ladder_table(LADDER))
    table = curves.partition("\n\n")[0]
    assert [line.split(maxsplit=1) for line in table.splitlines()[2:]] == [
        ["dense", "100.0 %      100.0 %          -   0.9810             0.200    100.0 %   ms"],
        ["0.7", "69.8 %       35.0 %     80.0 %   0.9850             0.210    105.0 %   FLOPs, ms"],
        ["0.5", "49.8 %       25.0 %     55.0 %   0.9780             0.140     70.0 %   -"],
        ["0.3", "29.8 %       15.0 %     30.0 %   0.9780             0.110     55.0 %   FLOPs, ms"],
    ]
    wanted = """
        top-1 over FLOPs                                    top-1 over latency
        0.9850 │                           ●                0.9850 │                                       ●
               │                                                   │
               │                                                   │
               │                                                   │
               │                                       ◇           │                                     ◆
               │                                                   │
               │                                                   │
        0.9780 │            ●      ○                        0.9780 │                    ●     ○
               └────────────────────────────────────────           └────────────────────────────────────────
                0    share of the dense FLOPs    100.0 %            0   ms in ONNX Runtime, batch 1    0.210
        ● slim, ◆ dense: on the Pareto front: no other network is as good for less; ○ and ◇: the others.
    """
    assert curves.endswith(dedent(wanted).strip())


def test_what_is_not_known_is_not_shown() -> None:
    """Without a metric no curves, without latencies neither their columns nor their curve."""
    rungs = [rung(0.7, None, None), rung(0.5, None, None)]
    bare = LADDER.model_copy(update={"better": None, "dense": Point(flops=1, params=1, metric=None), "rungs": rungs})
    told = as_text(ladder_table(bare.marked()))
    assert "│" not in told and "ms" not in told and "Pareto" not in told
    page = ladder_page(bare)
    assert "<svg" not in page and "Of the dense network top-1 is not known." in page
    assert "whether more or less top-1 is better, metric_mode says (max or min)." in page
    unmarked = LADDER.model_copy(update={"better": None}).marked()
    told = as_text(ladder_table(unmarked))
    assert "●" not in told and "◆" not in told and "○ slim, ◇ dense. No network is marked as the best: whether" in told
    assert "[b]acc" in as_text(ladder_table(LADDER.model_copy(update={"metric": "[b]acc"}))).splitlines()[0]
    untimed = LADDER.model_copy(update={"dense": LADDER.dense.model_copy(update={"ms": None})})
    assert [each.title for each in charts(untimed.dense, {}, "top-1", 1)] == []


def test_the_page_of_a_ladder(tmp_path: Path) -> None:
    page = ladder_page(LADDER)
    assert page.count('role="img" aria-label="top-1 over ') == 2 and "<script" not in page and "<i>" not in page
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page) == [
        f"flops-{share}/report.html" for share in ("0.7", "0.5", "0.3")
    ]
    over_flops, over_ms = page.split("<section", 3)[1:3]
    marks = [
        re.findall(r'class="mark (\S+?)(?: (front))?" d="[^"]*"><title>([^<]*)', each) for each in (over_flops, over_ms)
    ]
    assert sorted(marks[0]) == [
        ("dense", "", "dense: top-1 0.9810, 100.0 %"),
        ("s0", "", "slim, with its budget at 0.5: top-1 0.9780, 49.8 %"),
        ("s0", "front", "slim, with its budget at 0.3: top-1 0.9780, 29.8 %, on the Pareto front"),
        ("s0", "front", "slim, with its budget at 0.7: top-1 0.9850, 69.8 %, on the Pareto front"),
    ]
    assert [text for _kind, front, text in sorted(marks[1]) if not front] == [
        "slim, with its budget at 0.5: top-1 0.9780, 0.140 ms"
    ]
    for each in (over_flops, over_ms):
        (front,) = re.findall(r'class="front-line" points="([^"]*)"', each)
        places = [float(place.split(",")[0]) for place in front.split()]
        assert len(places) == each.count(' front" d=') and places == sorted(places)
    assert "0.200 (0.195–0.205)" in page and "(batch 1, 1 thread)" in page


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [
        (0.0, 0.214, ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25"]),
        (0.93, 0.985, ["0.92", "0.94", "0.96", "0.98", "1.00"]),
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (9800.0, 12_000.0, ["9,500", "10,000", "10,500", "11,000", "11,500", "12,000"]),
        (-0.3, 0.1, ["-0.3", "-0.2", "-0.1", "0.0", "0.1"]),
    ],
)
def test_numbers_at_an_axis_are_round_and_hold_all_values(low: float, high: float, numbers: list[str]) -> None:
    assert texts(ticks(low, high)) == numbers


def test_names_stand_beside_each_other() -> None:
    marks = [(100.0, 100.0, "0.3"), (104.0, 101.0, "0.5"), (110.0, 100.0, ""), (102.0, 104.0, "dense")]
    placed = labels(marks)
    assert [each.text for each in placed] == ["0.3", "0.5", "dense"] and placed[0].y == 90.0
    for place, one in enumerate(placed):
        for other in placed[:place]:
            wide = 6.5 * (len(one.text) + len(other.text)) / 2
            assert abs(one.x - other.x) >= wide or abs(one.y - other.y) >= 12


def test_one_value_of_the_metric_has_an_axis_as_well() -> None:
    dense = Point(flops=1.0, params=1.0, metric=0.5)
    (chart,) = charts(dense, {"a": [("0.5", dense.model_copy(update={"flops": 0.5}))]}, "iou", None)
    drawn = figure(chart, ["a"], labelled=False)
    assert [tick.text for tick in drawn.y_ticks] == ["0.5"] and [each.text for each in drawn.labels] == ["dense"]
