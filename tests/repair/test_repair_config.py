"""The configuration of a model as transformers has it: set where it can say all that a plan has changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph


class Config:
    def __init__(self, **sizes: int) -> None:
        self.width, self.inner, self.heads, self.per_head, self.layers = 8, 16, 4, 8, 2
        vars(self).update(sizes)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        heads = config.heads * config.per_head
        self.per_head, self.scale = config.per_head, config.per_head**-0.5
        self.qkv = nn.ModuleList(nn.Linear(config.width, heads) for _ in range(3))
        self.out = nn.Linear(heads, config.width)
        self.up, self.down = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, self.per_head)).transpose(1, 2) for part in self.qkv)
        y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.stem, self.head = nn.Linear(5, config.width), nn.Linear(config.width, 3)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def slimmed(**kept: int) -> tuple[Model, atograph.Slim]:
    """Kept units by the parameter that a group starts with, the same in each block."""
    torch.manual_seed(0)
    model = Model(Config()).eval()
    graph = atograph.trace(model, torch.randn(2, 6, 5))
    chosen: dict[str, Any] = {}
    for group in graph.prunable:
        for key, units in kept.items():
            part, _, size = key.rpartition("_")
            if any(f".{part}." in name for name, _dim in group.members) and group.size == int(size):
                chosen[group.name] = range(units)
    return model, atograph.slim(graph, graph.plan(kept=chosen))


def test_widths_that_are_the_same_everywhere() -> None:
    model, slim = slimmed(up_16=6)
    assert slim.repairs == ("config.inner: 16 → 6",)
    module = slim.module
    assert isinstance(module, Model) and module.config.inner == 6 and model.config.inner == 16
    again = Model(module.config)
    again.load_state_dict(module.state_dict())
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(again(x), slim(x))


def test_heads_and_not_their_width() -> None:
    """Both look alike in the shapes; half of each head would have another scale."""
    _, slim = slimmed(qkv_4=2, up_16=6)
    assert sorted(slim.repairs) == ["config.heads: 4 → 2", "config.inner: 16 → 6"]


@pytest.mark.parametrize("change", ["one layer", "scale"])
def test_what_a_configuration_cannot_say(change: str) -> None:
    if change == "scale":
        _, slim = slimmed(qkv_8=4)
    else:
        torch.manual_seed(0)
        graph = atograph.trace(Model(Config()).eval(), torch.randn(2, 6, 5))
        inner = next(group.name for group in graph.prunable if group.size == 16)
        slim = atograph.slim(graph, graph.plan(kept={inner: range(6)}))
    module = slim.module
    assert isinstance(module, Model) and vars(module.config) == vars(Config())
    assert not any("config" in repair for repair in slim.repairs)
