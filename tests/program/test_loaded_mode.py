"""A loaded program is in eval mode: asking for that is fine, and asking for another is refused in words."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import atograph


def test_the_mode_of_a_loaded_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(4, 3)
    graph = atograph.trace(net, x)
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    slim.save(tmp_path / "slim")
    loaded = atograph.load(tmp_path / "slim")
    assert loaded.eval() is loaded and loaded.train(False) is loaded
    with pytest.raises(atograph.UserError, match="in eval mode, and has no other"):
        loaded.train()
    torch.testing.assert_close(loaded.eval()(x), slim(x))
    other = copy.deepcopy(loaded)
    assert other.eval() is other and torch.equal(other(x), loaded(x))
