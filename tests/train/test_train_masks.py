"""Unit maps, masks on parameters, the projection."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeGroup, FakePlan, FakeSlice, TwoConvs, two_convs_graph, whole
from torch import Tensor, nn

from atograph.passes.errors import InternalError
from atograph.train.ato.project import family_shares, project, zeroed_share
from atograph.train.pruning.masks import UnitMap

CPU = torch.device("cpu")


@pytest.fixture
def model() -> TwoConvs:
    torch.manual_seed(0)
    return TwoConvs()


@pytest.fixture
def units(model: TwoConvs) -> UnitMap:
    return UnitMap(two_convs_graph().prunable, model, CPU)


def group_norms(model: TwoConvs) -> Tensor:
    """‖x_g‖ of g0's eight units and g1's sixteen, written out."""
    rows = []
    for conv, norm in ((model.conv1, model.bn1), (model.conv2, model.bn2)):
        for unit in range(len(norm.weight)):
            parts = [conv.weight[unit].flatten(), norm.weight[unit].flatten(), norm.bias[unit].flatten()]
            rows.append(torch.cat(parts).norm())
    return torch.stack(rows)


def test_the_layout(units: UnitMap) -> None:
    assert (units.names, units.sizes, units.total) == (("g0", "g1"), (8, 16), 24)
    assert units.family.tolist() == [0] * 8 + [1] * 16
    assert [part.shape[0] for part in units.split(torch.zeros(24)).values()] == [8, 16]


def test_a_plan_as_a_mask(units: UnitMap) -> None:
    mask = units.mask_of(FakePlan({"g0": (1, 7)}))
    assert mask.nonzero().flatten().tolist() == [1, 7, *range(8, 24)]


def test_norms_are_over_all_slices_of_a_unit(model: TwoConvs, units: UnitMap) -> None:
    torch.testing.assert_close(units.squared_norms().sqrt().float(), group_norms(model))


def test_masked_parameters(model: TwoConvs, units: UnitMap) -> None:
    mask = torch.ones(24)
    mask[3] = 0
    masked = units.masked(mask.requires_grad_())
    assert set(masked) == {"conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"}
    assert not masked["conv1.weight"][3].any() and not masked["bn1.weight"][3].any()
    assert torch.equal(masked["conv1.weight"][4], model.conv1.weight[4])
    (grad,) = torch.autograd.grad(masked["conv1.weight"].sum() + masked["bn1.weight"].sum(), mask)
    torch.testing.assert_close(grad[:8], (model.conv1.weight.sum((1, 2, 3)) + model.bn1.weight).detach())
    assert not grad[8:].any()
    few = units.masked(mask.detach(), changed=True)
    assert set(few) == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert all(torch.equal(value, masked[name]) for name, value in few.items())


def test_scaling_is_the_mask_in_place(model: TwoConvs, units: UnitMap) -> None:
    mask = (torch.rand(24) > 0.5).float()
    expected = {name: value.clone() for name, value in units.masked(mask).items()}
    units.scale_(mask)
    assert all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in expected.items())


def test_one_dimension_shared_by_two_groups() -> None:
    """A concatenation: indices 0-1 belong to one group, 3-4 to another, 2 to none (-1)."""
    model = nn.Linear(5, 1, bias=False)
    groups = [
        FakeGroup("g0", 2, [FakeSlice("weight", 1, torch.tensor([0, 1, -1, -1, -1]))]),
        FakeGroup("g1", 2, [FakeSlice("weight", 1, torch.tensor([-1, -1, -1, 1, 0]))]),
    ]
    units = UnitMap(groups, model, CPU)
    assert len(units.indices["weight"]) == 1  # merged
    nn.init.ones_(model.weight)
    units.scale_(torch.tensor([2.0, 3.0, 4.0, 5.0]))
    assert model.weight.tolist() == [[2, 3, 1, 5, 4]]


def test_an_index_of_two_groups_takes_both_masks() -> None:
    """A product, heads x width: index h * 2 + d belongs to unit h of one group and unit d of the other."""
    model = nn.Linear(1, 6, bias=False)
    nn.init.ones_(model.weight)
    heads = FakeGroup("g0", 3, [FakeSlice("weight", 0, torch.tensor([0, 0, 1, 1, 2, 2]))])
    width = FakeGroup("g1", 2, [FakeSlice("weight", 0, torch.tensor([0, 1, 0, 1, 0, 1]))])
    units = UnitMap([heads, width], model, CPU)
    assert units.squared_norms().tolist() == [2, 2, 2, 3, 3]
    units.scale_(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]))
    assert model.weight.flatten().tolist() == [0, 1, 0, 0, 0, 1]


def test_a_tied_weight_counts_once() -> None:
    model = nn.Module()
    model.first, model.second = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
    model.second.weight = model.first.weight
    group = FakeGroup("g0", 4, [whole("first.weight", 0, 4), FakeSlice("second.weight", 0, torch.full((4,), -1))])
    units = UnitMap([group], model, CPU)
    assert set(units.indices) == {"first.weight"}
    torch.testing.assert_close(units.squared_norms().float(), model.first.weight.detach().square().sum(1))


def test_a_slice_that_does_not_fit_is_our_bug(model: TwoConvs) -> None:
    for piece in (whole("conv1.weight", 0, 9), whole("conv1.weight", 7, 8), whole("nothing", 0, 8)):
        with pytest.raises(InternalError, match="g0"):
            UnitMap([FakeGroup("g0", 8, [piece])], model, CPU)


def test_shares_of_what_is_masked(units: UnitMap) -> None:
    mask = torch.ones(24)
    mask[0] = 0
    mask[8:11] = 0
    shares = family_shares(units, mask)
    assert shares[:8].unique().tolist() == [0.25] and shares[8:].unique().tolist() == [0.75]
    assert not family_shares(units, torch.ones(24)).any()


def test_the_projection_is_the_papers(model: TwoConvs, units: UnitMap) -> None:
    mask = torch.ones(24)
    mask[2] = mask[20] = 0
    before, norms = model.conv1.weight.detach().clone(), group_norms(model).detach()
    project(units, mask, family_shares(units, mask), lr=0.1, lam=2.0)
    after = group_norms(model)
    expected = norms.clone()
    expected[[2, 20]] = (norms[[2, 20]] - 0.1 * 2.0 * 0.5).clamp(min=0)
    torch.testing.assert_close(after.detach(), expected)
    factor = expected[2] / norms[2]
    torch.testing.assert_close(model.conv1.weight[2].detach(), before[2] * factor)
    assert torch.equal(model.conv1.weight[3], before[3])


def test_a_strong_projection_gives_exact_zeros(model: TwoConvs, units: UnitMap) -> None:
    mask = torch.ones(24)
    mask[:4] = 0
    assert zeroed_share(units, mask) == 0
    project(units, mask, family_shares(units, mask), lr=1.0, lam=1e4)
    assert zeroed_share(units, mask) == 1
    assert not model.conv1.weight[:4].any() and model.conv1.weight[4:].all()
    assert zeroed_share(units, torch.ones(24)) == 0


def test_the_pace_ends_at_zero(model: TwoConvs, units: UnitMap) -> None:
    mask = torch.ones(24)
    mask[1] = 0
    norm = group_norms(model)[1].item()
    for left in (4, 3, 2, 1):
        project(units, mask, family_shares(units, mask), lr=0.0, lam=0.0, steps_left=left)
        assert group_norms(model)[1].item() == pytest.approx(norm * (left - 1) / 4, abs=1e-6)
    assert zeroed_share(units, mask) == 1
