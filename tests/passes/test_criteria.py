"""Criteria: each formula against one written out, plans by each, what they need and what is unknown to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn

import atograph
from atograph.passes.criteria.criterion import Criterion, RunningMean, criterion
from atograph.passes.criteria.ranking import log_scores
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.criteria.units import Units
from atograph.passes.errors import UserError

EXAMPLE = torch.randn(2, 1, 8, 8)
CPU = torch.device("cpu")
BY_WEIGHTS = ("magnitude", "bn-scale", "fpgm", "lamp")
BY_DATA = ("taylor", "activation")


def fresh() -> TwoConvs:
    torch.manual_seed(0)
    model = TwoConvs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    return model.eval()


def importance(name: str, model: nn.Module, graph: atograph.Graph) -> dict[str, Tensor]:
    units = Units(graph.prunable, dict(model.named_parameters()), CPU)
    return units.split(CRITERIA.get(name)(units, graph.program).importance().float())


def unit_rows(model: TwoConvs, conv: str, norm: str) -> Tensor:
    """[units, n]: all that belongs to a unit, written out."""
    weight, scale = model.get_submodule(conv).weight, model.get_submodule(norm)
    return torch.cat([weight.flatten(1), scale.weight[:, None], scale.bias[:, None]], dim=1).detach()


PAIRS = {"g0": ("conv1", "bn1"), "g1": ("conv2", "bn2")}


def named(graph: atograph.Graph) -> Iterator[tuple[str, str, str]]:
    """Each prunable group with its convolution and its norm."""
    for group in graph.prunable:
        conv, norm = next(pair for pair in PAIRS.values() if (f"{pair[0]}.weight", 0) in group.makers)
        yield group.name, conv, norm


def written_out(name: str, model: TwoConvs, conv: str, norm: str) -> Tensor:
    rows = unit_rows(model, conv, norm)
    norms = rows.norm(dim=1)
    match name:
        case "magnitude":
            return norms / norms.mean()
        case "bn-scale":
            return model.get_submodule(norm).weight.detach().abs()
        case "fpgm":
            distances = torch.tensor([sum(float((a - b).norm()) for b in rows) for a in rows])
            return distances / distances.mean()
        case "lamp":
            squares = norms.square()
            return torch.stack([s / squares[squares >= s].sum() for s in squares])
    raise AssertionError(name)


@pytest.mark.parametrize("name", BY_WEIGHTS)
def test_formulas(name: str) -> None:
    model = fresh()
    graph = atograph.trace(model, EXAMPLE)
    values = importance(name, model, graph)
    for group, conv, norm in named(graph):
        torch.testing.assert_close(values[group], written_out(name, model, conv, norm), rtol=1e-4, atol=1e-5)


def test_activations_are_those_that_the_next_layer_reads() -> None:
    model, data = fresh(), blobs(3)
    graph = atograph.trace(model, EXAMPLE)
    read: dict[str, list[Tensor]] = {"conv2": [], "head": []}
    for name, seen in read.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, seen=seen: seen.append(args[0].detach().movedim(1, 0).flatten(1))
        )
    with torch.no_grad():
        for x, _y in data:
            model(x)
    expected = {}
    for (_group, conv, _norm), name in zip(named(graph), ("conv2", "head"), strict=True):
        size = torch.stack([batch.square().mean(1) for batch in read[name]]).mean(0).sqrt()
        expected[conv] = size / size.mean()
    scores = graph.scores("activation", data=data)
    for group, conv, _norm in named(graph):
        torch.testing.assert_close(scores[group].float(), expected[conv], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*BY_WEIGHTS, *BY_DATA])
def test_plans_by_each_are_exact(name: str) -> None:
    model = fresh()
    graph = atograph.trace(model, EXAMPLE)
    data = blobs(2) if name in BY_DATA else None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan = graph.plan(flops=0.4, by=name, data=data)
    assert float(graph.cost.flops(plan.counts)) <= 0.4 * graph.flops
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    slim = atograph.slim(graph, plan)
    with torch.no_grad():
        torch.testing.assert_close(slim(EXAMPLE), atograph.mask(model, plan)(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_batches_that_can_be_read_once_are_enough() -> None:
    graph = atograph.trace(fresh(), EXAMPLE)
    assert graph.plan(flops=0.4, by="taylor", data=iter(blobs(2))) == graph.plan(flops=0.4, by="taylor", data=blobs(2))


def test_gradients_that_were_there_stay() -> None:
    model = fresh()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    atograph.trace(model, EXAMPLE).plan(flops=0.4, by="taylor", data=blobs(1))
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight)) and model.conv1.weight.grad is None


@pytest.mark.parametrize("name", ["lamp", "activation"])
def test_a_run_by_each(name: str) -> None:
    result = atograph.compress(fresh(), blobs(4), flops=0.5, method=name, epochs=1, device="cpu")
    assert result.report.float64 is not None and result.report.float64 < 1e-9
    assert result.report.settings["prior"] == name and result.report.settings["method"] == "at-once"


@pytest.mark.parametrize("name", ["bn-scale", "activation"])
def test_the_controller_starts_from_each(name: str) -> None:
    result = atograph.compress(fresh(), blobs(4), flops=0.5, prior=name, epochs=4, device="cpu")
    assert result.report.float64 is not None and result.report.float64 < 1e-9


def test_what_is_unknown_is_ranked_by_magnitude() -> None:
    """Two layers, one of them without a norm: its units are neither the first nor the last to go, as a whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(1.0, 9))
        model[3].weight.mul_(torch.arange(1.0, 9)[:, None])
    graph = atograph.trace(model.eval(), torch.randn(2, 4))
    first, second = graph.scores("bn-scale").values()
    assert first.argsort().tolist() == list(range(8)) and second.isfinite().all()
    assert second.max() > first.min() and first.max() > second.min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "lampp"}, "no criterion 'lampp'. Perhaps lamp"),
        ({"by": "taylor"}, "criterion 'taylor' looks at gradients, for which it needs data"),
        ({"by": "activation"}, "criterion 'activation' looks at activations, for which it needs data"),
        ({"by": "taylor", "data": []}, "data: the criterion 'taylor' has seen no gradients: there are no batches"),
        ({"by": 3}, "by= takes the name of a criterion, or its class"),
        ({"by": "taylor", "data": [torch.zeros(2, 3)]}, "data: the model or the loss rejects batch 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    graph = atograph.trace(fresh(), EXAMPLE)
    with pytest.raises(UserError, match=message):
        graph.plan(flops=0.5, **options)


def test_weights_that_are_not_there() -> None:
    with torch.device("meta"):
        model = TwoConvs().eval()
    graph = atograph.trace(model, EXAMPLE)
    with pytest.raises(UserError, match="a plan by fpgm needs the values of the weights"):
        graph.plan(flops=0.5, by="fpgm")


def test_one_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_loaders", dict(CRITERIA._loaders))

    @criterion
    class LastFirst(Criterion):
        name = "last-first"

        def importance(self) -> Tensor:
            return torch.cat([torch.arange(float(size), 0, -1) for size in self.units.sizes])

    graph = atograph.trace(fresh(), EXAMPLE)
    plan = graph.plan(flops=0.5, by="last-first")
    assert all(units == tuple(range(len(units))) for units in plan.kept.values())
    assert graph.plan(flops=0.5, by=LastFirst).kept == plan.kept
    with pytest.raises(UserError, match="two criteria are called 'last-first'"):
        criterion(type("LastFirst", (LastFirst,), {"__module__": "elsewhere"}))


def test_means_of_all_and_of_the_last() -> None:
    mean, known = RunningMean(), torch.tensor([True, False])
    for value in (1.0, 2.0, 6.0):
        mean.add(torch.tensor([value, 9.0]), known)
    assert mean.mean is not None and float(mean.mean[0]) == pytest.approx(3.0) and bool(mean.mean[1].isnan())
    mean.add(torch.tensor([torch.inf, 0.0]), known)
    assert mean.counts is not None and mean.counts.tolist() == [3.0, 0.0]
    mean.memory = 2
    mean.add(torch.tensor([5.0, 1.0]), torch.tensor([True, True]))
    assert mean.mean.tolist() == pytest.approx([4.0, 1.0])
    again = RunningMean()
    again.load(mean.state())
    assert again.mean is mean.mean and again.counts is mean.counts


def test_rows_are_of_whole_units() -> None:
    """Heads in a view: a unit is several indices of a parameter, one row for all of them."""
    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = Heads().eval()
    graph = atograph.trace(model, torch.randn(2, 5, 12))
    heads = next(group for group in graph.prunable if group.size == 3)
    units = Units(graph.prunable, dict(model.named_parameters()), CPU)
    rows = next(rows for rows in units.rows(heads.name) if rows.shape[1] > 4)
    assert rows.shape == (3, 48)
    weights = (model.q.weight, model.k.weight, model.v.weight, model.o.weight)
    assert any(
        torch.equal(rows[0].sort().values, weight[:4].detach().flatten().sort().values) for weight in weights
    ) or any(torch.equal(rows[0].sort().values, weight[:, :4].detach().flatten().sort().values) for weight in weights)
    for name in ("fpgm", "magnitude", "lamp"):
        assert log_scores(CRITERIA.get(name)(units), torch.ones(units.total)).isfinite().all()


class Says(Criterion):
    """For these tests: says what a subclass says."""

    name = "says"
    value: Any = None

    def importance(self) -> Tensor:
        return self.value(self.units.total)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": lambda total: torch.ones(3)}, "importance by the criterion 'says' is a tensor of .3., and not one"),
        ({"value": lambda total: torch.ones(total, 1)}, "is a tensor of"),
        ({"value": lambda total: -torch.ones(total)}, "is numbers below zero"),
        ({"value": lambda total: torch.full((total,), torch.inf)}, "is infinite numbers"),
        ({"value": lambda total: [1.0] * total}, "is list, and not one number"),
        (
            {"needs": frozenset({"gradient"})},
            "the criterion 'says' needs .*, and there are activations, gradients, program",
        ),
        ({"needs": "gradients"}, "and there are activations, gradients, program. Write it as a set"),
        ({"needs": frozenset({"gradients"})}, "says that it needs gradients, and has no observe"),
    ],
)
def test_mistakes_in_ones_own(fields: dict[str, Any], message: str) -> None:
    fields = {key: staticmethod(value) if key == "value" else value for key, value in fields.items()}
    with pytest.raises(UserError, match=message):
        atograph.trace(fresh(), EXAMPLE).plan(flops=0.5, by=type("Wrong", (Says,), fields), data=blobs(1))


@pytest.mark.parametrize("name", ["taylor", "activation"])
def test_a_loss_that_does_not_call_the_model_itself_shows_nothing(name: str) -> None:
    """Else its units would be ranked by magnitude, and the report would say otherwise."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    def loss(model: Any, batch: Any) -> Tensor:
        value = nn.functional.cross_entropy(model.net(batch[0]), batch[1])
        return value * torch.nan if name == "taylor" else value

    with pytest.raises(UserError, match=f"criterion '{name}' has seen no"):
        atograph.compress(
            Whole(), blobs(2), flops=0.5, method=name, epochs=0, loss=loss, example_inputs=EXAMPLE, device="cpu"
        )


@pytest.mark.parametrize("method", ["taylor", "activation"])
def test_in_a_loop_of_ones_own_the_batch_at_hand_is_looked_at(method: str) -> None:
    plans = []
    for chosen in (method, "magnitude"):
        model, (x, y) = fresh(), blobs(1)[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        ato = atograph.AutoTrainOnce(model, EXAMPLE, steps=2, flops=0.5, optimizer=optimizer, method=chosen)
        ato.controller_step(lambda net, x=x, y=y: nn.functional.cross_entropy(net(x), y))
        plans.append(ato._pruner.plan.kept)
    assert plans[0] != plans[1]


def test_a_state_of_another_prior_does_not_go_on() -> None:
    made = {
        prior: atograph.AutoTrainOnce(model := fresh(), EXAMPLE, steps=4, flops=0.5, prior=prior,
                                      optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
        for prior in ("taylor", "activation")
    }  # fmt: skip
    with pytest.raises(UserError, match="its prior was taylor, and is activation"):
        made["activation"].load_state_dict(made["taylor"].state_dict())
