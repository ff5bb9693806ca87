"""Loss curves of groups: against losses of masked copies, and that nothing of the model or of chance changes."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import atograph
from atograph.passes.errors import UserError
from atograph.train.pruning.sensitivity import Curve, Sensitivity

EXAMPLE = torch.randn(2, 1, 8, 8)


def net() -> TwoConvs:
    torch.manual_seed(0)
    model = TwoConvs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    return model


def loss_of_masked(graph: atograph.Graph, plan: atograph.Plan, batches: list[Any]) -> float:
    """Zeros in a copy, and batch norms by the batch."""
    model = atograph.mask(graph.model, plan)
    for module in model.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        return sum(float(cross_entropy(model(x), y)) for x, y in batches) / len(batches)


def test_each_loss_is_that_of_the_network_with_this_group_cut_alone() -> None:
    graph, data = atograph.trace(net(), EXAMPLE), blobs(3)
    seen = graph.sensitivity(data, by="magnitude", widths=(0.0, 0.5, 0.75), batches=2)
    assert seen.batches == 2 and seen.by == "magnitude"
    assert seen.dense == pytest.approx(loss_of_masked(graph, graph.plan(kept={}), data[:2]))
    assert seen.curves.keys() == {group.name for group in graph.prunable}
    for group in graph.prunable:
        curve, scores = seen.curves[group.name], seen.scores[group.name]
        assert curve.counts == (1, group.size // 2, group.size * 3 // 4, group.size)
        for count, loss in zip(curve.counts, curve.losses, strict=True):
            kept = scores.sort(descending=True).indices[:count].tolist()
            assert loss == pytest.approx(loss_of_masked(graph, graph.plan(kept={group.name: kept}), data[:2]))
        assert len({round(loss, 4) for loss in curve.losses}) == 4  # the cuts were seen


class Drawing:
    """Batches that draw from every generator there is."""

    def __iter__(self) -> Any:
        for x, y in blobs(3):
            yield x + 0.1 * torch.randn_like(x) + 0.1 * random.random(), y


@pytest.mark.parametrize("by", ["taylor", "activation", "fpgm"])
def test_nothing_changes(by: str) -> None:
    model = net().train()
    model.bn1.eval()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    graph = atograph.trace(model, EXAMPLE)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    drawn = (torch.get_rng_state(), random.getstate())
    seen = graph.sensitivity(Drawing(), by=by, widths=(0.5,))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]
    assert model.conv2.weight.grad is None and bool((model.conv1.weight.grad == 1).all())
    again = graph.sensitivity(Drawing(), by=by, widths=(0.5,))
    assert again.curves == seen.curves


def test_a_batch_of_one_is_normalised_by_what_the_norms_have_gathered() -> None:
    model = net()
    data = [(x[:1], y[:1]) for x, y in blobs(2)]
    with torch.no_grad():
        expected = sum(float(cross_entropy(model.eval()(x), y)) for x, y in data) / 2
    assert atograph.trace(model, EXAMPLE).sensitivity(data, widths=(0.5,)).dense == pytest.approx(expected)


def test_a_generator_is_read_once_and_no_further_than_needed() -> None:
    stream = iter(blobs(5))
    graph = atograph.trace(net(), EXAMPLE)
    assert graph.sensitivity(stream, widths=(0.5,), batches=2).batches == 2
    assert len(list(stream)) == 3


def test_widths_come_in_steps_and_none_may_stay_where_all_may_go() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.b(self.a(x).relu()))

    torch.manual_seed(0)
    graph = atograph.trace(Branch(), torch.randn(2, 6))
    data = [(torch.randn(8, 6), torch.randint(10, (8,)))]
    inner = graph.groups.named("a").name
    assert graph.sensitivity(data, widths=(0, 0.3, 0.6), round_to=4).curves[inner].counts == (4, 8, 12)
    free = graph.steered(depth=True).sensitivity(data, widths=(0, 0.3), round_to=4).curves[inner]
    assert free.counts == (0, 4, 12)
    gone = graph.steered(drop=["a"]).sensitivity(data)
    assert inner not in gone.curves and gone.dense == pytest.approx(free.losses[0])


def test_a_curve_between_its_widths_and_for_plans() -> None:
    curve = Curve((2, 4, 6, 8), (3.0, 1.5, 2.0, 1.0))
    assert curve.rise(5) == 0.75 and curve.rise(1) == 2.0 and curve.rise(8) == 0
    assert curve.lost == {2: 2.0, 4: 1.0, 6: 1.0, 8: 0.0}
    assert Curve((1, 8), (0.5, 1.0)).lost == {1: 0.0, 8: 0.0}
    assert Curve((1, 4, 8), (math.nan, 3.0, 1.0)).lost == {1: 20.0, 4: 2.0, 8: 0.0}
    seen = Sensitivity({"a": curve, "b": Curve((1, 8), (2.0, 1.0))}, {}, 1.0, "taylor", 1)
    assert seen.predicted({"a": 7, "c": 1}) == 0.5 and seen.predicted({"a": 8, "b": 1}) == 1.0


def refuse(model: nn.Module, batch: Any) -> Tensor:
    raise ValueError("no such label")


def endless(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).sum() * math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (0.5, 1.5)}, "widths are shares of a group's units, from 0 to 1, not [0.5, 1.5]."),
        ({"widths": ()}, "widths are shares"),
        ({"batches": 0}, "batches and multiples of widths are 1 or more, not 0 and 1."),
        ({"data": []}, "data: sensitivity needs a batch at least, and there is none."),
        ({"data": 3}, "data: must be an iterable of batches, got int."),
        ({"loss": refuse, "by": "magnitude"}, "data: the model or the loss rejects batch 1, (float32[32, 1, 8, 8]"),
        ({"loss": endless}, "so no rise of it can be measured."),
        ({"loss": endless, "by": "magnitude"}, "so no rise of it can be measured."),
        ({"by": "beauty"}, "there is no criterion 'beauty'"),
    ],
)  # fmt: skip
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    graph = atograph.trace(net(), EXAMPLE)
    with pytest.raises(UserError) as error:
        graph.sensitivity(**{"data": blobs(2)} | options)
    assert message in str(error.value)


def test_a_graph_without_values_or_without_groups() -> None:
    with torch.device("meta"):
        graph = atograph.trace(TwoConvs(), EXAMPLE.to("meta"))
    with pytest.raises(UserError, match="sensitivity needs the values of the weights"):
        graph.sensitivity(blobs(1))
    with pytest.raises(UserError, match="nothing in this model can be pruned"):
        atograph.trace(nn.Linear(3, 2), torch.randn(2, 3)).sensitivity(blobs(1))
    with pytest.raises(UserError, match="this graph has none"):
        atograph.Graph(atograph.trace(net(), EXAMPLE).program).sensitivity(blobs(1))
