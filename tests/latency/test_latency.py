"""Budgets of latency and ``round_to="auto"``: tables, plans that are measured and corrected, what is kept of it.

Nothing here depends on a clock but one run at the end, which only asserts that everything is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import atograph
from atograph.latency import target_runtime
from atograph.latency.layer_models import Conv, MatMul, layers_of
from atograph.latency.table import LatencyRecord, LayerGrid, Rounded
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.cost.cost import CostModel
from atograph.passes.cost.interpolated import Interpolated, Table, rising
from atograph.passes.cost.widths import Widths
from atograph.passes.errors import UserError
from atograph.passes.ir.polynomial import Polynomial
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan
from atograph.process.stages import Stage
from atograph.run import latency_budget
from atograph.targets.base import Target
from atograph.targets.table import targets_of
from atograph.train.settings import TrainSettings

A, B = Polynomial({("a",): 1}), Polynomial({("b",): 1})
SIZES = {"a": 8, "b": 8}
GRID = Interpolated(
    [
        Table((A, B), ((0, 4, 8), (0, 8)), np.array([[0.0, 1], [2, 3], [3, 9]])),
        Table((A * 2,), ((0, 16),), np.array([0.0, 5])),
    ],
    SIZES,
)


@pytest.mark.parametrize(
    ("kept", "cost"),
    [({}, 14.0), ({"a": 4}, 5.5), ({"a": 6, "b": 4}, 8.0), ({"a": 0, "b": 0}, 0.0), ({"a": 9}, 14.0)],
)
def test_a_table_is_linear_between_its_points(kept: dict[str, int], cost: float) -> None:
    assert GRID(kept) == pytest.approx(cost)
    soft = {name: torch.tensor(float(count), requires_grad=True) for name, count in {**SIZES, **kept}.items()}
    found = GRID(soft)
    assert found.item() == pytest.approx(cost)
    found.backward()
    if kept == {"a": 6, "b": 4}:
        assert soft["a"].grad == pytest.approx((1 + 6) / 2 / 4 + 5 / 8)


def test_what_was_measured_is_made_to_rise() -> None:
    noisy = np.random.default_rng(0).normal(size=(5, 6)) + np.add.outer(np.arange(5.0), np.arange(6.0))
    made = rising(noisy)
    assert (np.diff(made, axis=0) >= 0).all() and (np.diff(made, axis=1) >= 0).all()
    np.testing.assert_array_equal(rising(np.array([1.0, 3, 2, 4])), [1, 2.5, 2.5, 4])
    np.testing.assert_array_equal(rising(np.array([[1.0, 2], [3, 4]])), [[1, 2], [3, 4]])


class Attention(nn.Module):
    """Heads × head dim behind a layer of few units."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 3 * 4 * 16), nn.Linear(64, 32)
        self.few = nn.Sequential(nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(-1, 5, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.few(self.out(y.transpose(1, 2).flatten(2)))


def test_rounding_leaves_outer_factors_and_small_groups_a_choice() -> None:
    graph = atograph.trace(Attention(), torch.randn(2, 5, 32))
    steps = {group.size: [group.step(n) for n in (1, 4, 8, 16, 32)] for group in graph.prunable}
    assert steps == {4: [1, 1, 1, 1, 1], 16: [1, 4, 8, 16, 8], 32: [1, 4, 8, 16, 32], 6: [1, 4, 2, 2, 2]}


def test_the_layers_of_a_program_are_all_that_has_flops() -> None:
    graph = atograph.trace(Attention(), torch.randn(2, 5, 32))
    axes, widths = graph.program.fact(Axes), Widths(graph.groups)
    layers = [
        layer
        for node, effect in axes.effects.items()
        if effect.flops is not None
        for layer in layers_of(node, graph.program, axes, widths) or ()
    ]
    assert all(isinstance(layer.kind, MatMul) for layer in layers)
    total = Polynomial({})
    for layer in layers:
        work = Polynomial({(): 2})
        for width in layer.widths:
            work = work * width
        total = total + work
    kept = graph.plan(random=0).counts
    assert sum(n * prod(kept[name] for name in names) for names, n in total.terms.items()) == graph.cost.flops(kept)


@pytest.mark.parametrize(
    ("module", "widths"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), [{("g0",): 1}, 1, 1]),
        (nn.Conv2d(8, 16, 3, groups=4, stride=2, padding=1), [{("g0",): 1}, {("g1",): 1}, {("g4",): 1}]),
        (nn.ConvTranspose2d(8, 16, 2, stride=2), [1, {("g0",): 1}, {("g3",): 1}]),
        (nn.Conv2d(8, 16, 3, padding="same"), [1, {("g0",): 1}, {("g3",): 1}]),
    ],
)
def test_convolutions_keep_their_form(module: nn.Module, widths: list[Any]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), module, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.randn(2, 3, 6, 6)
    net(x)
    graph = atograph.trace(net, x)
    grid = LayerGrid(graph.program, 3)
    layer = grid._parts[1].layer
    assert isinstance(layer.kind, Conv) and layer.kind.batch == 3 and layer.kind.image == (6, 6)
    varying = [width for width in layer.widths if not isinstance(width, int)]
    assert len(varying) == sum(isinstance(width, dict) for width in widths)
    assert [w for w in layer.widths if isinstance(w, int)] == [w for w in widths if isinstance(w, int)]
    seen: list[str] = []

    def times(model: bytes, feed: Mapping[str, Any]) -> dict[tuple[str, str], list[float]]:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        session.run(None, dict(feed))  # each of them is a model that runs
        seen.append("")
        return {(node.name, node.op_type): [1.0] for node in onnx.load_from_string(model).graph.node}

    layers = grid.measure(times, Stage("measuring"))
    assert seen and all(value == 1.0 for values in layers.values() for value in values)


class FakeRuntime:
    """A machine whose small models take what their FLOPs say, and whose slim models take more than that."""

    asked: ClassVar[list[str]] = []
    version = "1"

    def __init__(self, program: Program, target: Target, *, batch: int, threads: int) -> None:
        self.cost, self.title = program.fact(CostModel), target.title

    @property
    def times(self) -> Any:
        def run(model: bytes, feed: Mapping[str, Any]) -> dict[tuple[str, str], Sequence[float]]:
            graph = onnx.load_from_string(model).graph
            shapes = {name: value.shape for name, value in feed.items()}
            shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
            return {
                (node.name, node.op_type): [1e-6 * prod(shapes[node.input[0]]) * shapes[node.input[1]][-1]] * 5
                for node in graph.node
            }

        return run

    def dense(self) -> tuple[float, float, float]:
        self.asked.append("dense")
        return 10.0, 9.0, 1.0

    def ratios(self, plans: Sequence[Plan]) -> list[float]:
        self.asked.append("plan")
        return [self.ratio(plan) for plan in plans]

    def ratio(self, plan: Plan) -> float:
        odd = sum(count % 4 > 0 for count in plan.counts.values())
        return float((self.cost.flops(plan.counts) / self.cost.flops()) ** 0.8 * (1 + 0.3 * odd))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(target_runtime, "TargetRuntime", FakeRuntime)
    FakeRuntime.asked.clear()
    yield FakeRuntime.asked


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4))


def test_a_plan_meets_a_budget_of_latency_as_measured(fake: list[str]) -> None:
    graph = atograph.trace(net(), torch.randn(2, 16))
    plan = graph.plan(latency=0.45)
    assert graph.latency is not None and graph.latency.chosen == 4
    assert 0.43 < graph.latency.ratio(plan) <= 0.45 < graph.latency.predicted(plan)  # the table is wrong here
    assert fake.count("dense") == 1
    both = graph.plan(latency=0.45, flops=0.2)
    assert graph.cost.flops(both.counts) <= 0.2 * graph.flops and graph.latency.ratio(both) <= 0.45
    assert graph.budgets(latency=1.0).dense["latency"] == pytest.approx(10.0)


def test_auto_takes_the_multiple_of_the_least_time_for_its_flops(fake: list[str]) -> None:
    graph = atograph.trace(net(), torch.randn(2, 16))
    plan = graph.plan(flops=0.5, round_to="auto")
    assert graph.latency is not None
    assert graph.latency.chosen == 4 and set(graph.latency.tried) == {1, 2, 4, 8, 16, 32}
    assert all(count % 4 == 0 for count in plan.counts.values())
    assert plan == graph.plan(flops=0.5, round_to=4)
    assert "dense" not in fake  # no table was asked for


def test_nothing_that_a_record_holds_is_measured_again(fake: list[str], tmp_path: Path) -> None:
    graph = atograph.trace(net(), torch.randn(2, 16))
    graph.measure_latency(batch=4).keep_in(tmp_path / "latency.json")
    plan = graph.plan(latency=0.5)
    fake.clear()
    again = atograph.trace(net(), torch.randn(2, 16))
    again.measure_latency(batch=4, record=tmp_path / "latency.json", alone=False)
    assert again.plan(latency=0.5) == plan and not fake
    with pytest.raises(UserError, match="one of several processes"):
        again.plan(latency=0.6)  # other plans by magnitude, for the multiple
    others = [
        ({"batch": 2}, "a batch of 4 with 1 thread"),
        ({"batch": 4, "threads": 2}, "and 4 with 2"),
        ({"batch": 4, "target": "openvino"}, "in the target 'onnx', and 'openvino' is asked for"),
    ]
    for options, why in others:
        with pytest.raises(UserError, match=why):
            again.measure_latency(**options, record=tmp_path / "latency.json")
    other = atograph.trace(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 16))
    with pytest.raises(UserError, match="for another model"):
        other.measure_latency(batch=4, record=tmp_path / "latency.json")
    (tmp_path / "latency.json").write_text("{}")
    with pytest.raises(UserError, match="not a latency table"):
        other.measure_latency(record=tmp_path / "latency.json")


@pytest.mark.parametrize(
    ("budget", "why"),
    [({"latency": 0.001}, "out of reach"), ({"latency": 1.5}, "above 0 and at most 1")],
)
def test_budgets_that_cannot_be(fake: list[str], budget: dict[str, float], why: str) -> None:
    graph = atograph.trace(net(), torch.randn(2, 16))
    with pytest.raises(UserError, match=why):
        graph.plan(**budget, floor=0.5)


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 16, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(12)]


@pytest.mark.long
def test_a_run_with_a_table_gives_the_same_plan_and_one_that_goes_on_measures_no_layer(
    fake: list[str], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"latency": 0.45, "epochs": 3, "latency_batch": 4, "example_inputs": torch.randn(2, 16)}
    table = str(tmp_path / "table.json")
    first = atograph.compress(net(), data(), out=tmp_path / "first", latency_table=table, **asked)
    assert LatencyRecord.load(tmp_path / "first" / "latency.json") == LatencyRecord.load(Path(table))
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    (budget,) = report["budgets"]
    assert budget["kind"] == "latency" and budget["predicted"] > 0 and report["round_to"] == 4
    fake.clear()
    assert atograph.compress(net(), data(), latency_table=table, **asked).plan == first.plan
    assert not fake

    steps = iter(range(1000))

    def interrupted(model: nn.Module, batch: Any) -> torch.Tensor:
        if next(steps) == 20:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    options: dict[str, Any] = {"out": tmp_path / "second", "checkpoint_seconds": 0.0, **asked}
    with pytest.raises(KeyboardInterrupt):
        atograph.compress(net(), data(), loss=interrupted, **options)
    fake.clear()
    went_on = atograph.compress(net(), data(), loss=interrupted, resume=True, **options)
    assert "dense" not in fake and went_on.plan.counts == first.plan.counts


def test_a_loop_of_ones_own_has_the_table_of_its_file(fake: list[str], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"steps": 10, "latency": 0.45, "latency_table": str(tmp_path / "table.json")}
    ato = atograph.AutoTrainOnce(net(), torch.randn(2, 16), **asked)
    assert ato.settings.round_to == 4
    fake.clear()
    assert atograph.AutoTrainOnce(net(), torch.randn(2, 16), **asked).settings == ato.settings
    assert not fake


def test_no_multiple_is_slower_than_no_rounding_and_than_dense_where_one_is_not() -> None:
    graph = atograph.trace(net(), torch.randn(2, 16))
    latency = graph.measure_latency()

    def chosen(**latencies: float) -> int:
        tried = {int(name[1:]): Rounded(latency=each, flops=0.5) for name, each in latencies.items()}
        latency.record.rounding["asked"] = tried
        return latency.rounding("asked", lambda _multiple: pytest.fail("all of it is known"))

    assert chosen(n1=0.6, n8=0.5, n16=0.7) == 8
    assert chosen(n1=0.6, n8=0.9) == 1
    assert chosen(n1=1.3, n8=1.1, n16=0.9) == 16
    assert chosen(n1=1.2, n8=1.4, n16=1.1) == 16  # all are slower than dense: the fastest


def test_latency_is_measured_in_the_first_target_that_is_timed(fake: list[str]) -> None:
    settings = TrainSettings(budgets={"latency": 0.45})
    for names, asked, where in (
        (["pt2", "openvino", "onnx"], None, "openvino"),
        (["onnx", "openvino"], None, "onnx"),
        (["onnx", "openvino"], "openvino", "openvino"),
        (["pt2"], None, "onnx"),
    ):
        graph = atograph.trace(net(), torch.randn(2, 16))
        own = settings.model_copy(update={"latency_target": asked})
        latency_budget.prepare(graph, own, earlier=None, alone=True, targets=targets_of(names))
        assert graph.latency is not None and graph.latency.record.target == where
    own = settings.model_copy(update={"latency_target": "openvino"})
    with pytest.raises(UserError, match="'openvino', which is none of this run's"):
        latency_budget.prepare(graph, own, earlier=None, alone=True, targets=targets_of(["onnx"]))
    with pytest.raises(UserError, match="neither latency nor round_to=auto asks for it"):
        latency_budget.prepare(graph, TrainSettings(latency_target="onnx"), earlier=None, alone=True)
    for name, why in (("pt2", "not timed"), ("openvno", "Perhaps openvino")):
        with pytest.raises(UserError, match=why):
            graph.measure_latency(target=name)


def test_a_run_ends_with_the_latency_of_its_own_target(fake: list[str], tmp_path: Path) -> None:
    result = atograph.compress(
        net(), None, example_inputs=torch.randn(2, 16), method="magnitude", epochs=0, latency=0.45,
        targets=["openvino"], out=tmp_path / "run",
    )  # fmt: skip
    report = result.report
    assert {each.runtime for each in report.latency_ms} == {"OpenVINO"}
    (budget,) = report.budgets
    (first, *_) = report.latency_ms
    assert budget.reached == first.slim / first.dense and report.round_to == 4
    assert "OpenVINO ms, batch 1" in str(result)
    assert LatencyRecord.load(tmp_path / "run" / "latency.json").target == "openvino"


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_latency_in_a_runtime(tmp_path: Path, target: str) -> None:
    """With the real clock: everything is measured and told, whatever it is."""
    graph = atograph.trace(Attention().eval(), torch.randn(2, 5, 32))
    latency = graph.measure_latency(target=target, batch=4)
    latency.keep_in(tmp_path / "latency.json")
    plan = graph.plan(random=0)
    assert latency.ratio(plan) > 0
    assert graph.budgets(latency=0.5).kept()["latency"] == 1
    assert 0 < latency.predicted(plan) < 1
    record = LatencyRecord.load(tmp_path / "latency.json")
    assert record == latency.record and record.dense > 0 and list(record.plans) == [plan.digest]
    assert graph.budgets(latency=1.0).dense["latency"] == pytest.approx(record.dense)
    assert record.runtime and record.products > 0 and record.rest >= 0
    assert all(ms >= 0 for layer in record.layers.values() for ms in layer)
    assert any(ms > 0 for layer in record.layers.values() for ms in layer)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_every_small_model_is_found_in_the_profile(target: str) -> None:
    """Each kind of layer, as the runtime's profiler calls it: none is taken for free."""
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(4),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 16, 16)
    net(x)
    graph = atograph.trace(net, x)
    graph.measure_latency(target=target).table()
    assert graph.latency is not None and len(graph.latency.record.layers) == 4
    assert all(max(layer) > 0 for layer in graph.latency.record.layers.values())
