"""Graphs and slim models are copied, and refuse to be pickled in words that tell what to do."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import atograph


@pytest.fixture(scope="module")
def graph() -> atograph.Graph:
    torch.manual_seed(0)
    return atograph.trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 3))


@pytest.mark.parametrize("write", [pickle.dumps, lambda each: torch.save([each], io.BytesIO())])
def test_a_pickle_is_refused(graph: atograph.Graph, write: Any) -> None:
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    for each in (graph, slim):
        with pytest.raises(atograph.UserError, match=rf"a {type(each).__name__} cannot be pickled.*slim\.save"):
            write(each)


def test_copies_are_of_their_own(graph: atograph.Graph) -> None:
    slim, x = atograph.slim(graph, graph.plan(flops=0.5)), torch.randn(4, 3)
    before = slim(x)
    deep, shallow = copy.deepcopy(slim), copy.copy(slim)
    assert deep.plan == slim.plan and deep.plan is not slim.plan and deep.params == slim.params
    torch.testing.assert_close(slim(x), before)
    torch.testing.assert_close(shallow(x), before)
    assert copy.deepcopy(graph).params == graph.params
