"""Widths that a module's code makes a tensor of and computes with: the slim module keeps the dense value."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.plan.at_random import random_plan
from benchmarks.exact import perturb

Scale = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Two heads of eight, whose queries are scaled in some way."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale, self.q, self.k, self.v = scale, nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(6, 16)
        self.out = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(len(x), -1, 2, layer.out_features // 2).transpose(1, 2) for layer in self.layers())
        return self.out(((self.scale(q) @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q, self.k, self.v


def scaled_size(q: Tensor, factor: int) -> Tensor:
    return torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float) * factor)


SCALES: dict[str, tuple[Scale, str]] = {
    "rsqrt of an integer": (lambda q: q * torch.tensor(q.shape[-1]).rsqrt(), "tensor argument 1: 4 → 8"),
    "sqrt, times a factor": (lambda q: q / scaled_size(q, 3).to(q.dtype), "tensor argument 1: 4 → 8"),
    "called twice": (lambda q: q / scaled_size(q, 3) * scaled_size(q, 2), "tensor argument 1: 4 → 8"),
    "a rounded fraction": (lambda q: q * torch.tensor(q.shape[-1] ** -0.5), "tensor argument 1: 0.5 → 0.353553"),
    "one of a list": (lambda q: q * torch.tensor([3.0, q.shape[-1]]).prod(), "tensor argument 2: 4 → 8"),
    "of a shape": (lambda q: q * torch.tensor(q.shape)[-1].rsqrt(), "argument 4: 4 → 8"),
    "of a list, as it is": (lambda q: q * torch.tensor([1.5, 2.5]).prod(), ""),
    "as_tensor": (lambda q: q / torch.as_tensor(float(q.shape[-1])), "as_tensor argument 1: 4 → 8"),
    "new_tensor": (lambda q: q / q.new_tensor([q.shape[-1]]).sqrt(), "new_tensor argument 1: 4 → 8"),
    "full": (lambda q: q * torch.full((1,), q.shape[-1] ** -0.5), "full argument 2: 0.5 → 0.353553"),
    "a number of Python": (lambda q: q / math.sqrt(q.shape[-1]), "div argument 1: 2 → 2.82843"),
    "a number of NumPy": (lambda q: q / np.sqrt(q.shape[-1]), "div argument 1: 2 → 2.82843"),
    "without a call": (lambda q: q / torch.FloatTensor([q.shape[-1]]), "div tensor 2 as in the dense model"),
    "from NumPy": (lambda q: q * torch.from_numpy(np.ones(1) / q.shape[-1]), "mul tensor 2 as in the dense model"),
}


def slimmed(model: nn.Module, x: Tensor) -> atograph.Slim:
    perturb(model)
    graph = atograph.trace(model.double().eval(), x)
    return atograph.slim(graph, random_plan(graph.groups, 1, 0.5))


@pytest.mark.parametrize("name", SCALES)
def test_a_width_as_a_tensor(name: str) -> None:
    scale, repair = SCALES[name]
    torch.manual_seed(0)
    slim = slimmed(Attention(scale), torch.randn(2, 5, 6).double())
    assert slim.module is not None, slim.why_no_module
    own = [" ".join((each.split(" (")[0], each.split(") ")[1])) for each in slim.repairs if ".py:" in each]
    assert not repair or any(repair in each for each in own), own
    for x in (torch.randn(1, 5, 6).double(), torch.randn(3, 5, 6).double()):
        with torch.no_grad():
            torch.testing.assert_close(slim.module(x), slim(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_deberta(transformers: ModuleType, relative: bool) -> None:
    """Its scores are divided by the root of a tensor of the width, times the number of its kinds of attention."""
    more = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4} if relative else {}
    config = transformers.DebertaV2Config(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, max_relative_positions=8, type_vocab_size=0, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DebertaV2Model(config).double().eval()
    perturb(model)
    model.double()
    ids = torch.randint(0, 30, (2, 6))
    graph = atograph.trace(model, ids)
    plan = random_plan(graph.groups, 1, 0.5)
    slim = atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    other = torch.randint(0, 30, (3, 6))
    with torch.no_grad():
        found, expected = (each(other).last_hidden_state for each in (slim.module, atograph.mask(model, plan)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
