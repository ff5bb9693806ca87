"""The public API, as a user calls it."""

from __future__ import annotations

import copy
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import networkx as nx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.values.difference import relative_difference


def traced(name: str = "residual") -> tuple[nn.Module, torch.Tensor, atograph.Graph]:
    model, inputs = build(name)
    return model, inputs, atograph.trace(model, (inputs,))


def test_trace_leaves_the_model_as_it_is() -> None:
    model, inputs = build("residual")
    model.train()
    model.body.eval()
    modes = [m.training for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    atograph.trace(model, inputs)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_example_batch_gives_a_dynamic_program(batch: int) -> None:
    model, inputs = build("plain")
    graph = atograph.trace(model, inputs[:1].repeat(batch, 1, 1, 1))
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    masked = atograph.mask(model, slim.plan)
    for size in (1, 3, 8):
        x = torch.randn(size, 3, 8, 8)
        assert relative_difference(masked(x), slim(x)) < 1e-5


def test_groups_have_names_members_and_reasons() -> None:
    _model, _inputs, graph = traced()
    group = graph.groups["g0"]
    assert (group.name, group.size, group.frozen) == ("g0", 8, None)
    assert ("stem.0.weight", 0) in group.members and ("head.weight", 1) in group.members
    frozen = graph.groups["g3"].frozen
    assert frozen is not None and str(frozen) == "model output (head)"
    with pytest.raises(atograph.UserError, match="no group 'g99'"):
        graph.groups["g99"]


def test_str_of_a_graph() -> None:
    model, _inputs, graph = traced()
    head, *groups = str(graph).splitlines()
    params = sum(parameter.numel() for parameter in model.parameters())
    assert head == f"4 groups, 2 of them prunable with 14 units; {graph.flops:,} FLOPs, {params:,} parameters"
    assert len(groups) == 4


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8, 1.0])
def test_a_flops_budget_is_met_from_below(share: float) -> None:
    _model, _inputs, graph = traced("plain")
    plan = graph.plan(flops=share, floor=0.0)
    slim = atograph.slim(graph, plan)
    assert slim.flops <= share * graph.flops
    # no unit fits any more
    for name, count in plan.counts.items():
        if count < plan.sizes[name]:
            assert graph.cost.flops(plan.counts | {name: count + 1}) > share * graph.flops


@given(
    widths=st.lists(st.integers(2, 24), min_size=2, max_size=4),
    flops=st.floats(0.15, 0.9),
    floor=st.sampled_from([0.0, 0.05, 0.3]),
    round_to=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_any_plan_is_within_its_limits(widths: list[int], flops: float, floor: float, round_to: int, seed: int) -> None:
    sizes = [3, *widths]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    graph = atograph.trace(nn.Sequential(*layers, nn.Linear(sizes[-1], 2)), torch.randn(2, 3))
    generator = torch.Generator().manual_seed(seed)
    scores = {group.name: torch.randn(group.size, generator=generator) for group in graph.prunable}
    try:
        plan = graph.plan_from_scores(scores, flops=flops, floor=floor, round_to=round_to)
    except UserError as error:
        assert "out of reach" in str(error)
        return
    assert graph.cost.flops(plan.counts) <= flops * graph.flops
    for group in graph.prunable:
        kept = plan.kept[group.name]
        assert len(kept) >= min(group.size, max(1, floor * group.size))
        step = group.step(round_to)
        assert len(kept) % step == 0 or len(kept) == group.size
        best = scores[group.name].argsort(descending=True, stable=True)[: len(kept)]
        assert set(kept) == set(best.tolist())
        if len(kept) < group.size:  # no block fits any more
            more = min(group.size, len(kept) + step)
            assert graph.cost.flops(plan.counts | {group.name: more}) > flops * graph.flops


def test_a_plan_of_few_groups_comes_close_to_its_budget() -> None:
    graph = atograph.trace(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)),
                           torch.randn(2, 8))  # fmt: skip
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        plan = graph.plan(flops=share, floor=0.0)
        kept = graph.cost.flops(plan.counts) / graph.flops
        for less, more in permutations(plan.counts, 2):  # no unit of one for units of the other comes closer
            for count in range(plan.counts[more] + 1, plan.sizes[more] + 1):
                tried = plan.counts | {less: max(plan.counts[less] - 1, 1), more: count}
                assert not kept < graph.cost.flops(tried) / graph.flops <= share or share - kept <= 0.005


@pytest.mark.parametrize(
    "shares",
    [{"flops": 0.5, "params": 0.3}, {"flops": 0.3, "params": 0.5}, {"params": 0.4, "bytes": 0.6}, {"bytes": 0.6}],
)
def test_budgets_hold_at_once(shares: dict[str, float]) -> None:
    _model, _inputs, graph = traced("plain")
    plan = graph.plan(**shares, floor=0.0)
    budgets = graph.budgets(**shares)
    assert all(kept <= shares[what] for what, kept in budgets.kept(plan.counts).items())
    for name, count in plan.counts.items():  # no unit fits any more
        if count < plan.sizes[name]:
            assert budgets.used(plan.counts | {name: count + 1}) > 1
    slim = atograph.slim(graph, plan)
    assert {what: getattr(slim, what) / getattr(graph, what) for what in shares} == budgets.kept(plan.counts)


def test_a_params_budget_rounding_and_floor() -> None:
    _model, _inputs, graph = traced("plain")
    plan = graph.plan(params=0.5, round_to=4)
    assert atograph.slim(graph, plan).params <= 0.5 * graph.params
    assert all(count % 4 == 0 for count in plan.counts.values())
    tight = graph.plan(flops=graph.smallest(floor=0.5) / graph.flops, floor=0.5)
    assert tight.counts == {"g0": 4, "g2": 6}


def test_explicit_units_and_random_plans() -> None:
    _model, _inputs, graph = traced("plain")
    assert graph.plan(kept={"g0": [5, 1]}).kept == {"g0": (1, 5), "g2": tuple(range(12))}
    assert graph.plan(random=3) == graph.plan(random=3) != graph.plan(random=4)
    assert graph.plan(random=0, keep=0.25).counts == {"g0": 2, "g2": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either budgets"),
        ({"flops": 0.5, "random": 0}, "either budgets"),
        ({"flops": 0.0}, "flops 0 is out of range: it is the share to keep, above 0 and at most 1"),
        ({"flops": 1.5}, "flops 1.5 is out of range: it is the share to keep, above 0 and at most 1"),
        ({"flops": float("nan")}, "flops nan is out of range: it is the share to keep, above 0 and at most 1"),
        ({"flops": 0.001}, r"out of reach: the smallest reachable is \d"),
        ({"random": 0, "keep": 0.0}, "keep must be above 0"),
        ({"kept": {"g9": [0]}}, "no group 'g9'"),
        ({"kept": {"g0": []}}, "at least one has to stay"),
        ({"kept": {"g0": [8]}}, "units 0 to 7"),
        ({"kept": {"g1": [0]}}, "cannot be pruned: model input"),
    ],
)
def test_plans_that_are_refused(arguments: dict[str, object], message: str) -> None:
    _model, _inputs, graph = traced("plain")
    with pytest.raises(atograph.UserError, match=message):
        graph.plan(**arguments)


def test_the_cost_model_is_differentiable() -> None:
    _model, _inputs, graph = traced()
    kept = {group.name: torch.tensor(float(group.size), requires_grad=True) for group in graph.prunable}
    flops = graph.cost.flops(kept)
    flops.backward()
    assert float(flops.detach()) == graph.flops
    for name, count in kept.items():
        size = int(count)
        numeric = graph.cost.flops({name: size}) - graph.cost.flops({name: size - 1})
        assert float(count.grad) >= numeric > 0  # FLOPs are convex in a width


def test_networkx_graph_can_be_queried_and_written(tmp_path: Path) -> None:
    _model, _inputs, graph = traced()
    net = graph.to_networkx()
    assert set(net.successors("g2")) == {"body.3.weight"}
    assert "g0" in net.predecessors("head.weight")
    assert net.nodes["g3"]["reason"] == "model output (head)"
    nx.write_graphml(net, tmp_path / "groups.graphml")
    assert nx.read_graphml(tmp_path / "groups.graphml").number_of_edges() == net.number_of_edges()


def test_slim_gives_program_module_and_files(tmp_path: Path) -> None:
    model, inputs, graph = traced()
    slim = atograph.slim(graph, graph.plan(flops=0.4))
    assert isinstance(slim.program, torch.export.ExportedProgram)
    module = slim.module
    assert module is not None and type(module) is type(model) and slim.why_no_module == ""
    assert module.stem[0].out_channels == module.body[0].in_channels == len(slim.plan.kept["g0"])
    assert sum(p.numel() for p in module.parameters()) == slim.params
    assert relative_difference(slim(inputs), module(inputs)) < 1e-6

    slim.save(tmp_path)
    files = ["plan.json", "report.json", "slim.pt2", "slim.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    loaded = torch.export.load(tmp_path / "slim.pt2").module()
    assert torch.equal(loaded(inputs), slim(inputs))
    assert atograph.Plan.from_json((tmp_path / "plan.json").read_text()) == slim.plan


def test_onnx_takes_any_batch_and_says_so(tmp_path: Path) -> None:
    _model, _inputs, graph = traced()
    slim = atograph.slim(graph, graph.plan(flops=0.4))
    path = slim.to_onnx(tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 8, 8]
    for batch in (1, 4):
        x = torch.randn(batch, 3, 8, 8)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert relative_difference(slim(x), torch.from_numpy(found)) < 1e-5


def test_slim_reads_the_weights_as_they_are_now() -> None:
    model, inputs, graph = traced()
    with torch.no_grad():
        model.head.bias.add_(1.0)
        model.stem[1].running_mean = torch.full((8,), 0.25)
    slim = atograph.slim(graph, graph.plan(random=0))
    assert relative_difference(atograph.mask(model, slim.plan)(inputs), slim(inputs)) < 1e-6


def test_a_plan_for_another_model_is_refused() -> None:
    _model, _inputs, graph = traced("plain")
    other, _x, residual = traced("residual")
    plan = graph.plan(random=0)
    with pytest.raises(atograph.UserError, match="the plan is for another model"):
        atograph.slim(residual, plan)
    with pytest.raises(atograph.UserError, match=r"no parameter conv1\.weight"):
        atograph.mask(other, plan)


def test_a_frozen_only_model_says_why() -> None:
    graph = atograph.trace(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4))
    with pytest.raises(atograph.UserError, match=r"g0: model output \(0\); g1: model input \(input\)"):
        graph.plan(flops=0.5)


def test_dict_inputs_dict_outputs_and_several_batches_dims() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, *, left: torch.Tensor, right: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
            hidden = torch.relu(self.a(left) + self.b(right[0]) * right[1])
            return {"logits": self.c(hidden), "left": left}

    model = Two().eval()
    kwargs = {"left": torch.randn(2, 4), "right": (torch.randn(2, 5), torch.randn(2, 1))}
    graph = atograph.trace(model, kwargs=kwargs)
    slim = atograph.slim(graph, graph.plan(random=0))
    masked = atograph.mask(model, slim.plan)(**kwargs)
    assert slim(**kwargs).keys() == masked.keys()
    assert relative_difference(masked["logits"], slim(**kwargs)["logits"]) < 1e-6


def test_an_output_whose_node_is_rewritten() -> None:
    """A mean over pruned channels gets a correction, which is then what the program returns."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.conv(x)
            return y.mean(1), nn.functional.layer_norm(y.mean((2, 3)), (8,)).sum(1)

    model, x = Mean().eval(), torch.randn(2, 3, 6, 6)
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(random=0))
    for a, b in zip(atograph.mask(model, slim.plan)(x), slim(x), strict=True):
        assert a.shape == b.shape and relative_difference(a, b) < 1e-5


def test_a_model_that_export_refuses_is_one_paragraph_with_the_line() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.from_numpy(x.detach().numpy()))

    with pytest.raises(atograph.UserError) as refused:
        atograph.trace(Branching(), torch.randn(2, 3))
    text = str(refused.value)
    assert text.startswith("torch.export cannot capture this model: ")
    assert "test_api.py:" in text and "\n" not in text


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_flops_of_an_lstm_are_counted_on_the_kernel_that_the_cpu_uses(options: dict[str, Any]) -> None:
    from atograph.proof.flop_count import count_flops

    model = nn.LSTM(8, 16, batch_first=True, **options).eval()
    graph, x = atograph.trace(model, torch.randn(2, 5, 8)), torch.randn(1, 5, 8)
    assert count_flops(model, x) == graph.flops > 0
    with torch.backends.mkldnn.flags(enabled=False):
        assert count_flops(model, x) == graph.flops


def test_a_recurrent_layer_is_proved_in_float64() -> None:
    """Its program makes a first state of the type that it was captured with."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.hidden, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 12), nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.hidden(self.cell(x)[0][:, -1])))

    torch.manual_seed(0)
    batches = [(torch.randn(8, 5, 6), torch.randint(0, 4, (8,))) for _ in range(3)]
    report = atograph.compress(Recurrent(), batches, flops=0.6, epochs=1).report
    assert report.float64 is not None and report.float64 <= 1e-9
