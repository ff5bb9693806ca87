"""What the page of a run says, without a browser; and that the code on it runs."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

import page_gallery
import pytest
import torch
from fakes import TwoConvs
from sample_report import REPORT
from torch import nn

import atograph
from atograph.inspection import overview
from atograph.inspection.inputs import InputView
from atograph.inspection.of_run.curves import courses, epochs_of
from atograph.inspection.of_run.layers import layers, width_text
from atograph.inspection.of_run.loading import snippets
from atograph.inspection.of_run.tables import tables
from atograph.inspection.page import page
from atograph.inspection.pages.axis import texts, whole_ticks
from atograph.inspection.pages.lines import Course, Line, drawn
from atograph.inspection.pages.table import Verdict


class Branch(nn.Module):
    """A residual branch that may go, between layers that cannot: their other sides are the input and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(6, 16), nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.down(torch.relu(self.up(x))))


def text_of(page: str) -> str:
    """What a person reads."""
    return re.sub(
        r"\s+", " ", html.unescape(re.sub(r"<(?:script|style)[^>]*>.*?</\w+>|<[^>]*>", " ", page, flags=re.S))
    )


@pytest.mark.parametrize("model", [TwoConvs(), Branch()], ids=lambda model: type(model).__name__)
def test_what_is_left_of_modules_is_that_of_the_slim_network(model: nn.Module) -> None:
    inputs = torch.randn(2, 1, 8, 8) if isinstance(model, TwoConvs) else torch.randn(2, 6)
    graph = atograph.trace(model.eval(), inputs)
    plan = graph.plan(kept={group.name: range(group.size // 4) for group in graph.prunable})
    shown, slim = overview(graph, plan), atograph.slim(graph, plan)
    assert (shown.kept_flops, shown.kept_params) == (slim.flops, slim.params)
    assert (shown.flops, shown.params) == (graph.flops, graph.params)
    assert slim.module is not None
    own = dict(slim.module.named_parameters())
    assert {each.name: each.kept for each in shown.parameters} == {name: tuple(own[name].shape) for name in own}
    assert sum(each.kept_flops or 0 for each in shown.modules if each.name.count(".") == 0 and each.name) == slim.flops
    assert all(each.kept_flops is None for each in overview(graph).modules)


def test_a_branch_that_goes_leaves_nothing() -> None:
    graph = atograph.trace(Branch().eval(), torch.randn(2, 6))
    (group,) = graph.prunable
    plan = graph.plan(kept={group.name: range(0)})
    shown, slim = overview(graph, plan), atograph.slim(graph, plan)
    assert (shown.kept_flops, shown.kept_params) == (slim.flops, slim.params)
    up = next(each for each in layers(shown) if each.name == "up")
    assert up.width == "16 × 6 → gone" and up.params.share == up.flops.share == 0


def test_what_stops_is_what_stays_whole() -> None:
    """A layer that shrinks by its other side is none: only the bias of the head, and what lies between frozen sides."""
    graph = atograph.trace(Branch().eval(), torch.randn(2, 6))
    stops = {each.text: each for each in overview(graph).stops}
    (group,) = graph.prunable
    assert group.size == 16
    frozen = stops["model input"]
    assert frozen.whole.params == 6 + 6 * 3 and frozen.whole.flops == 2 * 6 * 3, "down.bias and head.weight"
    assert frozen.hanging.params == 6 * 16 + 16 * 6 + 6 + 6 * 3
    assert stops["model output"].whole.params == 3 + 6 * 3
    assert next(iter(stops)) in ("model input", "model output")


def test_before_and_after_stand_in_the_header_and_in_each_layer() -> None:
    text = text_of(page_gallery.run())
    shown = page_gallery.planned("residual")
    assert "FLOPs 89.2 K → 29.2 K" in text and f"parameters 785 → {shown.kept_params}" in text
    widths = {each.name: width_text(each) for each in shown.parameters}
    assert widths["stem.0.weight"] == "8 × 3 → 4 × 3" and "stem.0 Conv2d 8 × 3 → 4 × 3" in text
    assert "3.34 × fewer FLOPs, 2.34 × faster at batch 1 in ONNX Runtime, top-1 0.9870 → 0.9815." in text
    assert "✓ Proved: masked = slim = ONNX on real inputs, to rounding." in text
    assert "0.214 (0.209–0.221)" in text and "±" not in text
    assert "stem.0, stem.1 → blocks.0.conv1 32 → 21" in text and "weighs" not in text


def test_what_does_not_hold_is_said() -> None:
    certificate = next(table for table in tables(REPORT) if table.title.startswith("Certificate"))
    assert [row[-1] for row in certificate.rows] == [Verdict("✓ equal", True), Verdict("✗ NOT EQUAL", False)]
    shown = page_gallery.planned("residual")
    assert "✗ masked = slim = ONNX: 1 of 2 comparisons do not hold." in text_of(page(shown, REPORT))
    failed = text_of(page_gallery.PAGES["not proved"]())
    assert "✗ Not proved: the disk was full" in failed and "Load the result" not in failed


@pytest.mark.parametrize(
    ("name", "there", "not_there"),
    [
        ("one-shot", ["top-1 0.7100.", "not known of the dense one"], ["epoch by epoch", "All epochs"]),
        ("language model", ["perplexity 23.4512 → 25.1000", "Units kept, by family", "tokens"], ["top-1"]),
        ("nan", ["Not finite in 8 of 12 epochs: gaps in the line.", "not finite"], ["nan", "NaN"]),
        ("no onnx", ["3.34 × fewer FLOPs, top-1"], ["slim.onnx", "ONNX file", "Latency", "in ONNX Runtime"]),
        ("one layer", ["1 layer", "3 × 4"], ["What stayed, frozen", "Widths that shrank"]),
    ],
)
def test_runs_that_are_unlike_most(name: str, there: list[str], not_there: list[str]) -> None:
    text = text_of(page_gallery.PAGES[name]())
    assert [each for each in there if each not in text] == []
    assert [each for each in not_there if each in text] == []


def test_charts_have_gaps_a_dense_line_and_what_nobody_foresaw() -> None:
    curves = page_gallery.epochs(4, surprise=2.0)
    curves[1]["loss"] = math.inf
    report = page_gallery.changed(curves=curves)
    made = {each.title: each for each in courses(report)}
    assert [line.name for line in made["top-1"].lines] == ["while it is pruned", "dense"]
    assert made["top-1"].lines[1].reference and set(made["top-1"].lines[1].values) == {0.987}
    assert [line.name for line in made["FLOPs kept"].lines] == ["by the mask", "by the controller", "asked"]
    same = page_gallery.changed(curves=[each | {"soft_flops": each["flops"]} for each in page_gallery.epochs(4)])
    assert [line.name for line in {each.title: each for each in courses(same)}["FLOPs kept"].lines] == [
        "by the mask", "asked",
    ]  # fmt: skip
    assert "surprise" in made and made["Loss"].note == "Not finite in 1 of 4 epochs: gaps in the line."
    chart = drawn(made["Loss"], epochs_of(report))
    assert chart is not None
    (line,) = chart.lines
    assert line.path.count("M") == 1 and len(line.dots) == 1, "the first epoch stands alone, the others are joined"
    assert [spot.text for spot in chart.spots][1] == "epoch 2: training not finite"


def test_many_lines_are_one_colour_and_many_epochs_are_thinned() -> None:
    many = [Line(f"f{place}", [1.0, 2.0 + place]) for place in range(20)]
    chart = drawn(Course("Units", many), [1, 2])
    assert chart is not None and not chart.named and {line.kind for line in chart.lines} == {"many"}
    assert len(chart.spots) == 0
    long = drawn(Course("Loss", [Line("loss", [1.0 / (n + 1) for n in range(5000)])]), range(1, 5001))
    assert long is not None and 100 < len(long.spots) <= 201
    assert drawn(Course("Loss", [Line("loss", [None, None])]), [1, 2]) is None
    assert drawn(Course("Loss", [Line("loss", [0.0])]), [1]) is not None


def test_numbers_at_axes() -> None:
    assert whole_ticks(1, 1) == [1] and whole_ticks(1, 3) == [1, 2, 3] and whole_ticks(1, 30) == [10, 20, 30]
    assert texts([0.0, 1e-6, 2e-6]) == ["0", "1e-06", "2e-06"]
    assert texts([0.0, 5e6, 1e7]) == ["0", "5.00 M", "10.0 M"]


def test_the_code_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    atograph.compress(
        TwoConvs(),
        example_inputs=torch.randn(2, 1, 8, 8),
        flops=0.5,
        method="magnitude",
        epochs=0,
        out=tmp_path / "run",
    )
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    codes = [html.unescape(code) for code in re.findall(r"<code>(import .*?)</code>", text, re.S)]
    assert len(codes) == 2 and len(text) < 200_000
    monkeypatch.chdir(tmp_path / "run")
    outputs = []
    for code in codes:
        names: dict[str, object] = {}
        exec(compile(code, "the page", "exec"), names)
        outputs.append(names["outputs"])
    by_torch, (by_onnx,) = outputs  # type: ignore[misc]
    torch.testing.assert_close(by_torch, torch.from_numpy(by_onnx), rtol=1e-4, atol=1e-5)
    assert re.search(r"\d\.?\d* \(\d\S*–\d\S*\)", text_of(text)), "quartiles were measured"


def test_code_for_inputs_that_are_not_plain() -> None:
    ids = InputView(name="input_ids", keyword="input_ids", sizes=(2, 7), dtype="int64")
    torch_code, onnx_code = (each.code for each in snippets(REPORT, [ids]))
    assert "model(input_ids=torch.zeros((2, 7), dtype=torch.int64))" in torch_code
    assert "{'input_ids': np.zeros((2, 7), np.int64)}" in onnx_code
    half = ids.model_copy(update={"dtype": "bfloat16"})
    for inputs in ([], [half]):
        compile(snippets(REPORT, inputs)[1].code, "the page", "exec")
        assert "session.get_inputs()" in snippets(REPORT, inputs)[1].code
    titles = [each.title for each in snippets(REPORT.model_copy(update={"targets": ["openvino"]}), [ids])]
    assert titles == ["PyTorch", "OpenVINO"]
