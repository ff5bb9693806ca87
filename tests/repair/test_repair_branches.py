"""The module where branches are gone: its layers hold no weights of them, and it computes what the program does."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from emptied import CASES, Around
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.repair.branches import Left
from atograph.slimming.keep_module import keep_module
from benchmarks.exact import perturb

BACK = ("without a bias", "inverted residual", "second of two", "attention and mlp", "growth of a dense block", "gate",
        "lstm")  # fmt: skip
NOT_BACK = {"a piece of a split": "split_with_sizes"}


def made_slim(name: str) -> tuple[atograph.Slim, torch.Tensor]:
    case = CASES[name]
    torch.manual_seed(0)
    model, x = case.build().eval().double(), case.inputs.double()
    perturb(model)
    graph = atograph.trace(model, x)
    return atograph.slim(graph, graph.plan(kept=dict.fromkeys(case.emptied.split(), ()))), x


@pytest.mark.parametrize("name", BACK)
def test_the_module_comes_back(name: str) -> None:
    slim, x = made_slim(name)
    module = slim.module
    assert module is not None, slim.why_no_module
    assert {n for n, _ in module.named_parameters()} <= slim.program.state_dict.keys()
    for inputs in (x, x[:1], torch.cat([x, x])):
        with torch.no_grad():
            expected = slim(inputs)
            for each in (module, copy.deepcopy(module)):
                torch.testing.assert_close(each(inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NOT_BACK)
def test_why_it_does_not(name: str) -> None:
    slim, _x = made_slim(name)
    assert slim.module is None
    assert NOT_BACK[name] in slim.why_no_module


def test_the_program_follows_a_module_that_is_trained_on() -> None:
    slim, x = made_slim("inverted residual")
    module = slim.module
    assert module is not None
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(x).square().mean().backward()
    optimizer.step()
    assert isinstance(module.get_submodule("out"), Left)
    with torch.no_grad():
        torch.testing.assert_close(slim(x), module.eval()(x), rtol=1e-9, atol=1e-9)


class Typed(nn.Module):
    """It looks at the type of a weight that goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.out, self.head = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.out(self.mid(x).relu().to(self.out.weight.dtype)))


def test_code_may_look_at_the_type_of_a_weight() -> None:
    graph = atograph.trace(Typed().eval(), torch.randn(2, 4))
    slim = atograph.slim(graph, graph.steered(drop="mid").plan(kept={}))
    assert slim.module is not None
    saved = io.BytesIO()
    torch.save(slim.module, saved)
    saved.seek(0)
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.load(saved, weights_only=False)(x), slim(x))


def test_code_may_write_into_what_a_layer_gives() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.act = nn.Linear(6, 12), nn.Linear(12, 6), nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.down(self.up(x).relu())
            y[:, :1] += 1
            return x + self.act(y)

    model = nn.Sequential(nn.Linear(4, 6), Block(), nn.Linear(6, 3)).eval()
    perturb(model)
    x = torch.randn(5, 4)
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.steered(drop=["1"]).plan(kept={}))
    module, bias = slim.module, slim.program.state_dict["1.down.bias"].clone()
    assert module is not None, slim.why_no_module
    for inputs in (x, x[:1]):
        with torch.no_grad():
            torch.testing.assert_close(module(inputs), slim(inputs))
    assert torch.equal(module.get_parameter("1.down.bias"), bias)


def test_a_module_that_is_to_come_back_keeps_branches_that_stand_in_the_way() -> None:
    case = CASES["a piece of a split"]
    graph = atograph.trace(case.build().eval(), case.inputs)
    assert not any(group.least == 0 for group in keep_module(graph.steered(depth=True)).groups)
    with pytest.raises(UserError, match="does not come back without all units of g2"):
        keep_module(graph.steered(drop="g2"))
    typed = keep_module(atograph.trace(Typed().eval(), torch.randn(2, 4)).steered(depth=True))
    assert any(group.least == 0 for group in typed.groups)


class Biased(nn.Module):
    """Attention that adds a learned table to its scores: a parameter of a module that holds others."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 5, 5))
        self.qkv, self.proj = nn.Linear(8, 3 * 4 * 6), nn.Linear(4 * 6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) + self.table
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 24))


def test_a_parameter_that_only_code_reads_is_none_any_more() -> None:
    def block(s: Around, x: torch.Tensor) -> torch.Tensor:
        return x + s.attention(x)

    torch.manual_seed(0)
    model, x = Around(block, images=False, attention=Biased()).eval().double(), torch.randn(3, 5, 6).double()
    graph = atograph.trace(model, x)
    (heads,) = [g.name for g in graph.prunable if ("attention.table", 0) in g.members]
    slim = atograph.slim(graph, graph.plan(kept={heads: []}))
    module = slim.module
    assert module is not None, slim.why_no_module
    assert [name for name, _ in module.named_parameters() if name.startswith("attention")] == ["attention.proj.bias"]
    with torch.no_grad():
        torch.testing.assert_close(module(x), slim(x), rtol=1e-9, atol=1e-9)
        assert copy.deepcopy(module).float()(x.float()).dtype == torch.float32
