"""Mistakes that were made once, each kept out by a test of its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atograph
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.errors import UserError
from atograph.proof.flop_count import count_flops
from benchmarks.exact import compare


class Net(nn.Module):
    """conv → function → conv → linear."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.LazyConv2d(6, 1), nn.Linear(6, 4)
        self.function = function
        self(torch.randn(2, 3, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(self.b(self.function(F.relu(self.a(x))))).mean((2, 3)))


INDEX = torch.arange(8) // 2


def slide(y: torch.Tensor) -> torch.Tensor:
    """A convolution over the channels, as in efficient channel attention."""
    return F.conv1d(y.mean((2, 3))[:, None], torch.ones(1, 1, 3, dtype=y.dtype), padding=1)[:, 0, :, None, None]


def per_sample(y: torch.Tensor) -> torch.Tensor:
    b, c, h, w = y.shape
    kernel = y.mean((2, 3)).reshape(b, c, 1, 1)
    return F.conv2d(y.reshape(1, b * c, h, w), kernel.reshape(b * c, 1, 1, 1), groups=b * c).reshape(b, c, h, w)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.roll(y, 1),  # no dims: the flattened tensor
        lambda y: F.pad(y, (0, 0, 0, 0, 1, -1)),  # the size stays, the channels move
        lambda y: F.max_pool2d(y, 2, return_indices=True)[1].to(y.dtype) / 10,  # where a maximum stood is not zero
        lambda y: F.adaptive_max_pool2d(y, 2, return_indices=True)[1].to(y.dtype) / 10,
        lambda y: (y + 1j * y + 1j).abs().to(y.dtype),  # complex values
        lambda y: torch.cat([y[:, 2:100], y[:, -100:2]], 1),  # bounds out of range
        lambda y: y[:, torch.tensor([True] * 6 + [False] * 2)],  # a mask as an index
        per_sample,  # a dynamic number of groups
        lambda y: y * slide(y),
        lambda y: y.sigmoid().index_add(1, torch.tensor([0, 1]), y[:, :2]).index_add(2, INDEX, y.sigmoid()) - 0.5,
        lambda y: y.sigmoid().scatter_add(2, INDEX.expand_as(y.mT).mT, y.sigmoid()) - 0.5,  # a half and a half is one
        lambda y: y.repeat_interleave(2).view(y.shape[0], 8, 16, 8),  # no dim: the flattened tensor
        lambda y: y + y[:, :, :1].vsplit(2)[1],  # half of a dynamic batch
        lambda y: y + y[: y.shape[0] // 2].mean(0),
        lambda y: torch.cat([part * 2 for part in y.chunk(2)]),
    ],
)  # fmt: skip
def test_slim_stays_exact(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        found = compare(Net(function), (torch.randn(2, 3, 8, 8),), seed=seed)
        assert found.difference <= 1e-9
        assert found.graph.prunable and found.moved > 1e-6


def test_a_division_by_a_removed_unit_is_not_a_number_in_the_masked_network() -> None:
    """Its consumer's weights are zeroed, but infinity times zero is not zero."""
    for function in (torch.reciprocal, lambda y: y.mean((2, 3), keepdim=True).cos() / y, torch.digamma):
        graph = atograph.trace(Net(lambda y, f=function: f(y) * 1e-3), torch.randn(2, 3, 8, 8))
        frozen = graph.groups["g0"].frozen
        assert frozen is not None and frozen.text == "a removed unit would be infinite or 0/0 here"


def test_parameters_of_no_elements_are_no_groups() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has nothing to initialise
        model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 0), nn.Linear(0, 2))
    graph = atograph.trace(model, torch.randn(2, 3))
    assert all(group.size for group in graph.groups)
    assert atograph.slim(graph, graph.plan(random=0))(torch.randn(4, 3)).shape == (4, 2)


def test_what_torch_cannot_make_functional_is_refused() -> None:
    with pytest.raises(atograph.UserError, match="torch cannot make this program functional: RuntimeError"):
        atograph.trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.CrossMapLRN2d(3)), torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize("seed", range(6))
def test_the_proof_does_not_depend_on_chance(seed: int) -> None:
    """Dropout that is always on maps zero to zero, and any other constant to nobody knows what."""
    torch.manual_seed(seed)
    graph = atograph.trace(Net(lambda y: F.dropout(y.sigmoid(), 0.5, training=True)), torch.randn(2, 3, 8, 8))
    assert str(graph.groups["g0"]).endswith("→ b.weight[1]*")


def test_an_op_without_a_rule_still_costs_what_it_costs() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = Net(lambda y: torch.addbmm(y[0, 0], y[:, 1], y[:, 2])[None, None]).eval()
    graph = atograph.trace(model, x)
    assert graph.program.fact(Axes).unknown == {"aten.addbmm.default": 1}
    assert graph.flops == count_flops(model, x[:1])


def test_channels_that_are_taken_for_pixels_are_listed_with_the_reason() -> None:
    """Efficient channel attention slides a convolution over the channels."""
    model = Net(lambda y: y * slide(y))
    graph = atograph.trace(model, torch.randn(2, 3, 8, 8))
    frozen = graph.groups["g0"].frozen
    assert ("a.weight", 0) in graph.groups["g0"].members
    assert frozen is not None and frozen.text.startswith("spatial size")


def test_an_edited_plan_is_refused() -> None:
    graph = atograph.trace(Net(torch.relu), torch.randn(2, 3, 8, 8))
    plan = graph.plan(random=0)
    for change in ({"zeroing": {"g0": []}}, {"kept": {"g0": [True, 2.0, "3"]}}):
        edited = json.loads(plan.to_json())
        for field, values in change.items():
            edited[field] |= values
        with pytest.raises(atograph.UserError):
            atograph.slim(graph, atograph.Plan.from_json(json.dumps(edited)))
    edited = json.loads(plan.to_json())
    edited["zeroing"]["g0"][0]["outer"] = 2
    edited["zeroing"]["g0"][0]["stride"] = 10**30
    with pytest.raises(atograph.UserError, match="not a valid plan"):
        atograph.Plan.from_json(json.dumps(edited))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flops": 0.5, "round_to": 0}, "multiples of 1 or more"),
        ({"flops": 0.5, "floor": -1.0}, "from 0 to 1, not -1"),
        ({"flops": 0.5, "floor": 5.0}, "from 0 to 1, not 5"),
    ],
)
def test_floor_and_rounding_are_checked(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(atograph.UserError, match=message):
        atograph.trace(Net(torch.relu), torch.randn(2, 3, 8, 8)).plan(**arguments)


def test_arguments_of_the_api_are_checked() -> None:
    with pytest.raises(atograph.UserError, match=r"a model is a torch\.nn\.Module, .*, not an int"):
        atograph.trace(3, torch.randn(2, 3))
    with pytest.raises(atograph.UserError, match="no sample"):
        atograph.trace(Net(torch.relu), torch.randn(0, 3, 8, 8))
    with pytest.raises(atograph.UserError, match=r"no training setting .foo.\."):
        atograph.compress(Net(torch.relu), [(torch.randn(2, 3, 8, 8), torch.zeros(2).long())], foo=1)
    with pytest.raises(atograph.UserError, match="opset 3 cannot be written: choose one from 13"):
        atograph.compress(Net(torch.relu), [(torch.randn(2, 3, 8, 8), torch.zeros(2).long())], opset=3)


@pytest.mark.parametrize("units", [torch.ones(16, dtype=torch.bool), [True, False], [0.5, 1.0]])
def test_a_mask_is_no_list_of_units(units: Any) -> None:
    graph = atograph.trace(Net(torch.relu), torch.randn(2, 3, 8, 8))
    with pytest.raises(UserError, match="whole numbers, not a mask"):
        graph.plan(kept={graph.prunable[0].name: units})


def test_buckets_have_the_shape_of_what_falls_into_them() -> None:
    class Buckets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.table = nn.Linear(8, 16), nn.Linear(16, 3), nn.Embedding(6, 16)
            self.register_buffer("edges", torch.linspace(-1, 1, 5))

        def forward(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).relu() + self.table(torch.bucketize(v, self.edges))[:, 0])

    found = compare(Buckets(), (torch.randn(2, 8), torch.randn(2, 1)))
    assert [group.size for group in found.graph.prunable] == [16] and found.difference <= 1e-12


def test_what_nobody_takes_is_no_part_of_the_program() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aux = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x).relu()
            self.aux(y)
            return self.b(y)

    found = compare(Auxiliary(), (torch.randn(2, 8),))
    assert [group.size for group in found.graph.prunable] == [16]
    assert found.graph.flops == 2 * (8 * 16 + 16 * 4) and found.graph.params == 8 * 16 + 16 + 16 * 4 + 4


def _retyped(model: nn.Sequential) -> None:
    model.double()


def _wider(model: nn.Sequential) -> None:
    model[0] = nn.Linear(4, 16)


def _without(model: nn.Sequential) -> None:
    model[0] = nn.Identity()


@pytest.mark.parametrize(
    ("change", "now"), [(_retyped, r"float64\[8, 4\]"), (_wider, r"float32\[16, 4\]"), (_without, "gone")]
)
def test_a_model_that_has_changed_since_it_was_traced(change: Callable[[nn.Sequential], None], now: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = atograph.trace(model, torch.randn(2, 4))
    plan = graph.plan(flops=0.5)
    change(model)
    with pytest.raises(UserError, match=rf"0.weight was float32\[8, 4\], and is {now}. Trace it again"):
        graph.plan(flops=0.5)
    with pytest.raises(UserError, match="has changed since it was traced"):
        atograph.slim(graph, plan)


@pytest.mark.parametrize(
    ("scores", "budget", "why"),
    [
        (0.5, {"flops": 0.5}, "scores map names of groups to tensors"),
        ({"g0": torch.ones(3)}, {"flops": 0.5}, r"a tensor of the shape \[8\], not \[3\]"),
        ({"g0": [1.0] * 8}, {"flops": 0.5}, "not a list"),
        ({"g0": torch.full((8,), torch.nan)}, {"flops": 0.5}, "not numbers everywhere"),
        ({"g9": torch.ones(8)}, {"flops": 0.5}, "there is no group 'g9'"),
        ({"g1": torch.ones(4)}, {"flops": 0.5}, "takes no scores: model input"),
        ({"g0": torch.ones(8)}, {}, "takes flops=, params=, bytes= or latency="),
        ({}, {"flops": 0.5}, "50 % of the flops is out of reach: the smallest reachable is 100 %"),
    ],
)
def test_scores_that_are_none(scores: Any, budget: dict[str, float], why: str) -> None:
    graph = atograph.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4))
    with pytest.raises(UserError, match=why):
        graph.plan_from_scores(scores, **budget)


@pytest.mark.parametrize("given", [float("nan"), torch.ones(2).numpy()])
def test_an_argument_that_is_no_tensor_and_equals_nothing(given: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 8)

        def forward(self, x: torch.Tensor, scale: Any) -> torch.Tensor:
            return self.a(x) * float(scale if isinstance(scale, float) else scale.sum())

    inputs = (torch.randn(2, 4), given)
    graph = atograph.trace(Scaled(), inputs)
    slim = atograph.slim(graph, graph.plan(kept={}))
    slim(*inputs)
    with pytest.raises(UserError, match="was captured with"):
        slim(inputs[0], 3.0)
    with pytest.raises(UserError, match="takes a tensor for x, and was called with a float"):
        slim(1.0, given)


VECTOR = torch.randn(8)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y @ VECTOR,
        lambda y: y[:, None].expand(-1, 4, -1) @ VECTOR,
        lambda y: torch.mv(y, VECTOR),
        lambda y: torch.addmv(y[:, 0], y, VECTOR),
        lambda y: (VECTOR @ y.t())[:, None],
        lambda y: VECTOR @ torch.diag_embed(y),
        lambda y: torch.dot(VECTOR, VECTOR) * y,
        lambda y: torch.tensordot(y, VECTOR, 1),
        lambda y: torch.tensordot(y, torch.eye(8), 1),
        lambda y: F.linear(y, VECTOR),
        lambda y: torch.einsum("bi,i->bi", y, VECTOR),
        lambda y: torch.einsum("bi,i->b", y, VECTOR),
        lambda y: torch.einsum("bi,j->b", y, VECTOR),
        lambda y: torch.einsum("bi,cj->bc", y, y[:1]),
        lambda y: torch.einsum("bi,ij->bj", y, torch.eye(8)),
        lambda y: torch.einsum("bi,ij->bj", y[:, :1], torch.eye(8)),
        lambda y: torch.einsum("bi,bj->ij", y, y),
        lambda y: torch.einsum("bic,cij->bj", y.view(-1, 2, 4), torch.ones(4, 2, 3)),
    ],
)
@pytest.mark.parametrize("kept", [[0, 3, 4], [5]])  # where one unit is left to sum over, torch multiplies
def test_flops_of_products_with_vectors_are_those_that_torch_counts(
    function: Callable[[torch.Tensor], torch.Tensor], kept: list[int]
) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(self.b(self.a(x).relu()))

    model = Product().eval()
    graph = atograph.trace(model, torch.randn(2, 6))
    halves = {group.name: kept if group.size == 8 else [0] for group in graph.prunable}
    slim = atograph.slim(graph, graph.plan(kept=halves))
    assert graph.flops == count_flops(model, torch.randn(1, 6)) and slim.flops == count_flops(slim, torch.randn(1, 6))


def test_flops_are_counted_where_a_module_returns_a_part_of_its_parameter() -> None:
    """torch's tracker of modules sets a hook on it, as if there were gradients."""

    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(9, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table[: x.shape[1]]

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.head = Places(), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + self.places(x))

    x = torch.randn(1, 5, 6)
    assert count_flops(Placed(), x) == atograph.trace(Placed(), x).flops == 2 * 5 * 6 * 4
