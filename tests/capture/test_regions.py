"""Control flow: regions are captured, at once or after a run, and are exact; what nobody can follow is kept whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._higher_order_ops import map as map_over
from torch._higher_order_ops import scan, while_loop
from torch.nn.attention.flex_attention import flex_attention

import atograph
from atograph.proof.flop_count import RegionByRegion, count_flops


class Net(nn.Module):
    def __init__(self, region: Callable[[Net, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.region = region
        self.a, self.b, self.c, self.d = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.region(self, torch.relu(self.a(x)))
        return self.d(torch.relu(self.c(y)))


def cond(net: Net, y: torch.Tensor) -> torch.Tensor:
    return torch.cond(y.sum() > 0, lambda y: net.b(y), lambda y: torch.sin(y), (y,))


def repeat(net: Net, y: torch.Tensor) -> torch.Tensor:
    start = torch.zeros((), dtype=torch.int64)
    return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, torch.tanh(net.b(y))), (start, y))[1]


def scanned(net: Net, y: torch.Tensor) -> torch.Tensor:
    def step(state: torch.Tensor, now: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.tanh(state + now)
        return state, state.clone()

    return scan(step, torch.zeros(y.shape[0], 16, dtype=y.dtype), y, dim=1)[1]


def mapped(net: Net, y: torch.Tensor) -> torch.Tensor:
    return map_over(lambda sample: torch.sin(sample) * 2, y)


def attended(net: Net, y: torch.Tensor) -> torch.Tensor:
    heads = y.unflatten(2, (2, 8)).transpose(1, 2)
    mixed = flex_attention(heads, heads, heads, score_mod=lambda score, b, h, i, j: score + (i - j) * 0.1)
    return mixed.transpose(1, 2).flatten(2)


FLEX = "flex_attention is kept whole: its scores are changed by a function, which is not followed"
REGIONS = {
    "cond": (cond, (3, 8), [16, 12], None), "while_loop": (repeat, (3, 8), [16, 12], None),
    "scan": (scanned, (3, 5, 8), [16, 12], None), "map": (mapped, (3, 5, 8), [16, 12], None),
    "flex_attention": (attended, (3, 5, 8), [12], FLEX),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("ran", [False, True], ids=["at once", "after a run"])
@pytest.mark.parametrize("name", REGIONS)
def test_regions(name: str, ran: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    region, shape, sizes, whole = REGIONS[name]
    model, x = Net(region).double().eval(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        if ran:
            model(x)
        graph = atograph.trace(model, x)
        reasons = {str(group.frozen) for group in graph.groups if group.frozen is not None}
        assert whole is None or any(reason.startswith(whole) for reason in reasons)
        assert [group.size for group in graph.prunable] == sizes
        plan = graph.plan(random=0)
        slim, masked, dense = atograph.slim(graph, plan), atograph.mask(model, plan), model(x)
        assert (masked(x) - dense).abs().max() > 1e-3
        for given in (slim, slim.program.module(check_guards=False)):
            assert torch.allclose(given(x), masked(x), rtol=1e-9, atol=1e-12)
        assert torch.equal(model(x), dense)
    assert count_flops(RegionByRegion(graph.program), x[:1]) == graph.flops


def test_a_program_with_a_region_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Net(cond).eval(), torch.randn(3, 8)
    result = atograph.compress(
        model, example_inputs=x, flops=0.8, method="magnitude", epochs=0, targets=["pt2"], out=tmp_path
    )
    assert result.report.module == "slim"
    assert any("FLOPs count both branches of cond" in note for note in result.report.notes)
    with torch.no_grad():
        assert torch.allclose(atograph.load(tmp_path)(x), model(x), atol=1e-5)
        graph = atograph.trace(tmp_path)
        assert graph.flops == result.report.slim.flops
        slim = atograph.slim(graph, graph.plan(random=0))
        assert torch.allclose(atograph.mask(graph.model, slim.plan)(x), slim(x), atol=1e-6)
