"""How objects show themselves at a prompt and in a notebook, and what is said to calls with the wrong things."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import atograph
from atograph import UserError
from atograph.passes.plan.by_layer import rows


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x))


GRAPH = atograph.trace(Net(), torch.randn(2, 4))
WIDTHS = [group.name for group in GRAPH.prunable if group.size == 16]
PLAN = GRAPH.plan(kept={WIDTHS[0]: range(8), WIDTHS[1]: range(6), WIDTHS[2]: range(8)})
SLIM = atograph.slim(GRAPH, PLAN)


def test_a_group_is_found_by_name_and_by_place() -> None:
    groups = GRAPH.groups
    assert groups[0] is groups["g0"] is groups.listed[0] and groups[-1] is groups.listed[-1]
    assert groups[1:3] == groups.listed[1:3]
    with pytest.raises(UserError, match="there is no group 'nine'"):
        groups["nine"]
    with pytest.raises(IndexError):
        groups[99]


def test_reprs_are_one_line() -> None:
    for thing in (GRAPH.groups, GRAPH.groups[0], PLAN, SLIM):
        assert repr(thing).startswith("<") and "\n" not in repr(thing) and len(repr(thing)) < 200
    assert repr(GRAPH.groups) == f"<{len(GRAPH.groups)} groups, {len(GRAPH.prunable)} of them prunable>"
    assert repr(PLAN) == f"<plan {PLAN.digest}: 22 of 48 units stay>"
    left = GRAPH.params - 9 * (8 + 10 + 8)
    assert repr(SLIM).endswith(f"{left} of the parameters ({100 * left / GRAPH.params:.1f} %)>")


def test_a_plan_is_read_by_layer() -> None:
    (row,) = PLAN.by_layer()
    assert row.groups == tuple(WIDTHS) and row.size == 16 and row.kept == (8, 6, 8)
    assert str(PLAN) == (f"{WIDTHS[0]} … {WIDTHS[2]} (3)  keeps 6–8 of 16  blocks.0–2.up → blocks.0–2.down")
    page = PLAN._repr_html_()
    assert "6–8" in page and "blocks.0–2.up → blocks.0–2.down" in page and page.count("<tr>") == 2


def test_an_old_plan_without_words_has_a_row_for_each_group() -> None:
    found = rows({"g0": 4, "g1": 4}, {"g0": 2, "g1": 3}, {})
    assert [(row.title, row.counts, row.sides) for row in found] == [("g0", "2", ""), ("g1", "3", "")]


def test_a_slim_model_shows_its_sizes() -> None:
    page = SLIM._repr_html_()
    assert "FLOPs" in page and "<td" in page and str(SLIM.params) in page


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "slim of swapped arguments": (lambda: atograph.slim(PLAN, GRAPH), "slim takes a graph and a plan, not a Plan"),
    "slim of a model": (lambda: atograph.slim(Net(), PLAN), "not a Net and a Plan"),
    "mask of swapped arguments": (lambda: atograph.mask(PLAN, Net()), "mask takes a model and a plan, not a Plan"),
    "the shape of an input": (lambda: atograph.trace(Net(), (2, 4)), r"not their shapes: torch.randn\(2, 4\)"),
    "a function for a model": (lambda: atograph.compress(Net, [], flops=0.5), r"Call it: model\(\)"),
    "batches of numpy": (
        lambda: atograph.compress(Net(), [(np.zeros((2, 4), np.float32), np.zeros(2, np.int64))], flops=0.5),
        r"torch.from_numpy\(array\), in each batch",
    ),
    "arrays of numpy": (lambda: atograph.trace(Net(), np.zeros((2, 4), np.float32)), r"torch.from_numpy\(array\)"),
    "a tensor as data": (
        lambda: atograph.compress(Net(), torch.zeros(8, 4), flops=0.5),
        "train_data: a tensor is not batches",
    ),
    "percent": (lambda: GRAPH.plan(flops=50), "50 % is 0.5"),
    "the name of a model": (lambda: atograph.trace("resnet18"), "a model is given as it is"),
}


@pytest.mark.parametrize("what", WRONG)
def test_calls_with_the_wrong_things_are_told(what: str) -> None:
    call, told = WRONG[what]
    with pytest.raises(UserError, match=told):
        call()


def test_a_lone_name_is_a_list_of_one() -> None:
    result = atograph.compress(
        Net(), example_inputs=torch.randn(2, 4), method="magnitude", epochs=0, params=0.9, freeze_layers="blocks.0",
        quiet=True,
    )  # fmt: skip
    assert result.report.settings["freeze_layers"] == ("blocks.0",) and WIDTHS[0] not in result.plan.kept
