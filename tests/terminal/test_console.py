"""What a run prints: the budget in both directions, one line per epoch in a pipe, the closing table."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from sample_report import REPORT

from atograph.passes.errors import UserError
from atograph.report import numbers
from atograph.report.run import Report
from atograph.run.job import Result
from atograph.terminal.console import BarProgress, Console
from atograph.train.progress import EpochRow

TABLE = """\

                              dense   masked     slim     ONNX   slim / dense
 ────────────────────────────────────────────────────────────────────────────
 FLOPs                       3.30 M             988 K                  30.0 %
 parameters                   175 K            51.2 K                  29.3 %
 ONNX file                   712 KB            215 KB                  30.2 %
 top-1                       0.9870   0.9815   0.9815   0.9815
 ORT ms, batch 1, 1 thread    0.214            0.0914                  42.8 %


 certificate   masked = slim   slim = ONNX   tolerance   effect of removed part
 ──────────────────────────────────────────────────────────────────────────────────────────
 batch of 2          3.1e-07       4.2e-07     1.0e-04                   52.0 %   equal
 batch of 5          3.3e-04       4.4e-07     1.0e-04                   61.0 %   NOT EQUAL

masked: the trained network with the removed part at zero
effect of removed part: how much outputs change where it is noise instead of zero

 width of                                                      dense    slim   layers
 ────────────────────────────────────────────────────────────────────────────────────
 stem.0, stem.1 → blocks.0.conv1                                  32      21
 blocks.0–2.conv1, blocks.0–2.bn1, 1 more → blocks.0–2.conv2      64   24–40   × 3


 frozen                   groups   units   where
 ──────────────────────────────────────────────────────────
 no rule for aten.foo          3      12   a, b, 1 more
 an output of the model        1      10   head.weight[0]
 an input of the model         1       1   stem.0.weight[1]


3.34 × fewer FLOPs, 2.34 × faster at batch 1 in ONNX Runtime, top-1 0.9870 → 0.9815
""".splitlines()


def printed(**options: object) -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console(out=out, err=err, **options), out, err  # type: ignore[arg-type]


NUMBERS = [
    (0, "0"),
    (0.783, "0.783"),
    (2.6099, "2.61"),
    (12.44, "12.4"),
    (99.96, "100"),
    (128.2, "128"),
    (999.6, "1000"),
    (0.0412, "0.0412"),
]


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_three_digits(value: float, text: str) -> None:
    assert numbers.three_digits(value) == text


def test_units() -> None:
    assert numbers.macs(82_600_000) == "41.3 MMACs"
    assert numbers.macs(900) == "450 MACs"
    assert numbers.count(174_970) == "175 K"
    assert numbers.size(1_070_000) == "1.07 MB"
    assert [numbers.clock(seconds) for seconds in (0, 17.4, 77, 3725)] == ["0:00", "0:17", "1:17", "1:02:05"]


BUDGETS = [
    (
        numbers.budget(0.3, 41.3e6, 0.041, unit="MACs"),
        "keep 30.0 % = 12.4 of 41.3 MMACs, remove 70.0 %; smallest reachable 4.1 %",
    ),
    (
        numbers.budget(0.015, 4.09e9, 0.01, unit="MACs"),
        "keep 1.5 % = 0.0614 of 4.09 GMACs, remove 98.5 %; smallest reachable 1.0 %",
    ),
    (
        numbers.budget(0.5, 174_970, 0.02, unit="parameters"),
        "keep 50.0 % = 87.5 of 175 K parameters, remove 50.0 %; smallest reachable 2.0 %",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BUDGETS)
def test_a_budget_in_both_directions(text: str, expected: str) -> None:
    assert text == expected


def test_one_line_per_epoch_in_a_pipe() -> None:
    console, out, _ = printed()
    console.budget("flops", 0.3, 82.6e6, 0.041)
    progress = console.progress("compress", "mIoU")
    progress.start(10, 20)
    assert console.state == "compress, epoch 1 of 10"
    progress.step(1, 1, 0.9, 1.0)
    assert console.state == "compress, epoch 1 of 10, step 1"
    progress.epoch(EpochRow(1, 0.91234, None, 1.0, 0.0, 0.0, 0.1, 2.0))
    progress.epoch(EpochRow(2, 0.5, 0.9512, 0.312, 0.841, 10.0, 0.1, 3.0))
    progress.stop()
    assert out.getvalue().splitlines() == [
        "budget: keep 30.0 % = 12.4 of 41.3 MMACs, remove 70.0 %; smallest reachable 4.1 %",
        "compress  epoch  1/10  loss 0.9123  FLOPs 100.0 %  zeroed   0.0 %  2.0 s  left 0:18",
        "compress  epoch  2/10  loss 0.5000  mIoU 0.9512  FLOPs  31.2 %  zeroed  84.1 %  3.0 s  left 0:24",
    ]


def test_time_left_of_a_run_that_goes_on() -> None:
    """By whole epochs of this process, the last ones: it began in the middle of the eighth of twenty."""
    console, out, _ = printed()
    progress = console.progress("compress")
    progress.start(20, 20)
    seconds_of = (4.0, 90.0, 40.0, 20.0, 10.0, 6.0)
    for epoch, first, seconds in zip(range(8, 14), (13, 1, 1, 1, 1, 1), seconds_of, strict=True):
        for step in range(first, 21):
            progress.step(epoch, step, 0.5, 1.0)
        progress.epoch(EpochRow(epoch, 0.5, None, 1.0, 0.0, 0.0, 0.1, seconds))
    assert [line.rpartition("left ")[2] for line in out.getvalue().splitlines()] == [
        *("-:--", "16:30", "6:40", "4:30", "3:07", "1:24")
    ]


def bar(monkeypatch: pytest.MonkeyPatch, columns: int = 160) -> tuple[BarProgress, list[float], io.StringIO]:
    """A progress on a terminal, and the time of its clock."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", str(columns))):
        monkeypatch.setenv(name, value)
    console, out, _ = printed()
    progress, now = console.progress("compress"), [0.0]
    assert isinstance(progress, BarProgress)
    progress._bars.get_time = lambda: now[0]
    return progress, now, out


def test_the_bar_tells_no_time_before_it_knows_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, which warms up, counts for nothing; in the first epoch it is said to be a guess."""
    progress, now, _out = bar(monkeypatch)
    progress.start(3, 10)
    left = []
    for step, seconds in ((1, 30.0), (2, 32.0), (3, 34.0), (5, 38.0), (10, 48.0)):
        now[0] = seconds
        progress.step(1, step, 0.5, 1.0)
        left.append(progress._bars.tasks[0].fields["left"])
    progress.epoch(EpochRow(1, 0.5, None, 1.0, 0.0, 0.0, 0.1, 50.0))
    progress.step(2, 1, 0.5, 1.0)
    left.append(progress._bars.tasks[0].fields["left"])
    progress.stop()
    assert left == ["-:--", "-:--", "-:--", "about 0:50", "about 0:40", "0:34"]


def test_the_bar_of_a_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, now, _out = bar(monkeypatch)
    progress.start(10, 10)
    for step in (2, 3, 4, 5):
        now[0] += 4.0
        progress.step(9, step, 0.5, 1.0)
    assert progress._bars.tasks[0].fields["left"] == "about 1:00"  # 4 s a step, 15 to go
    progress.stop()


def test_a_narrow_terminal_keeps_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, _now, out = bar(monkeypatch, columns=40)
    progress.start(2, 20)
    progress.step(1, 1, 0.9, 0.5)
    progress.stop()
    assert "1/40" in out.getvalue() and "left -:--" in out.getvalue() and "…" not in out.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    console, out, _ = printed()
    progress = console.progress("compress")
    assert not console.live and not isinstance(progress, BarProgress)
    console.report(REPORT)
    assert "\x1b" not in out.getvalue()


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    console, out, _ = printed()
    console.report(REPORT)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38|4[0-7]|9[0-7])[0-9;]*m", out.getvalue())


def test_a_line_within_a_long_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    console, out, err = printed()
    progress, now = console.progress("training"), [0.0]
    progress._clock = lambda: now[0]  # type: ignore[attr-defined]
    progress.start(3, 400)
    for step, seconds in ((1, 59.0), (2, 61.0), (3, 62.0), (4, 125.0)):
        now[0] = seconds
        progress.step(1, step, 0.5, 1.0)
    assert err.getvalue().splitlines() == [
        "training, epoch 1 of 3, step 2 of 400",
        "training, epoch 1 of 3, step 4 of 400",
    ]
    assert out.getvalue() == ""


@pytest.mark.parametrize("columns", [40, 60])
def test_a_table_on_a_narrow_terminal_cuts_no_figure(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", str(columns))):
        monkeypatch.setenv(name, value)
    console, out, _ = printed()
    console.report(REPORT)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    text = " ".join(line.strip() for line in lines)
    for figure in ("3.30 M", "51.2 K", "29.3 %", "0.0914", "1.0e-04", "3.3e-04", "61.0 %", "24–40", "0.9870 → 0.9815"):
        assert figure in text
    assert columns > 40 or "parameters dense 175 K, slim 51.2 K, slim / dense 29.3 %" in text


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    console, out, _ = printed()
    assert console.live
    for steps in (20, None):
        progress = console.progress("compress")
        progress.start(2, steps)
        progress.step(1, 1, 0.9, 0.5)
        progress.epoch(EpochRow(1, 0.9, 0.8, 0.5, 0.0, 0.0, 0.1, 2.0))
        progress.stop()
    text = out.getvalue()
    assert "epoch 1/2" in text and "FLOPs 50.0 %" in text and "left" in text and "1/40" in text and "0/2" in text


def test_quiet_says_warnings_only() -> None:
    console, out, err = printed(quiet=True)
    console.say("news")
    console.budget("flops", 0.3, 1e6, 0.1)
    console.progress("compress").epoch(EpochRow(1, 0.9, 0.8, 0.5, 0.0, 0.0, 0.1, 2.0))
    console.warn("[bold] is no markup")
    assert (out.getvalue(), err.getvalue()) == ("", "warning: [bold] is no markup\n")


def test_the_closing_table() -> None:
    console, out, _ = printed()
    console.report(REPORT)
    assert out.getvalue().splitlines() == TABLE


def test_a_result_prints_the_closing_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """As plain text, whatever the terminal; in a list and in a shell it is one line."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = Result(None, None, None, REPORT, [], None)  # type: ignore[arg-type]
    assert str(result).splitlines() == "\n".join(TABLE).strip("\n").splitlines()
    assert repr(result) == "<Result of digits: 30.0 % of the FLOPs and 29.3 % of the parameters, not proved>"
    equal = REPORT.model_copy(update={"certificate": REPORT.certificate[:1]})
    assert f"{equal}".endswith("parameters, masked = slim = ONNX")


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == REPORT
    assert [entry.holds for entry in REPORT.certificate] == [True, False]


@pytest.mark.parametrize("text", [None, "{", "{}", "\udcff"])
def test_what_is_no_report(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="not a report of atograph: ") as caught:
        Report.load(path)
    assert "\n" not in str(caught.value)
