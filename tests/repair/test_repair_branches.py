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
from atograph.repair.left import Left
from atograph.slimming.keep_module import keep_module
from benchmarks.exact import perturb

BACK = ("without a bias", "inverted residual", "second of two", "attention and mlp", "growth of a dense block", "gate",
        "lstm", "part of a cat", "a piece of a split", "both pieces of a split")  # fmt: skip


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


class OwnPadding(nn.Conv2d):
    """As many windows as strides, as TensorFlow pads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[-2:]]
        x = nn.functional.pad(x, [given[1] // 2, given[1] - given[1] // 2, given[0] // 2, given[0] - given[0] // 2])
        return super().forward(x)


@pytest.mark.parametrize("size", [6, 7])
def test_what_is_left_of_a_convolution_has_its_size_however_it_pads(size: int) -> None:
    def block(s: Around, x: torch.Tensor) -> torch.Tensor:
        x = x + s.two(s.one(x).relu())
        return nn.functional.avg_pool2d(x, 2, ceil_mode=True) + s.four(s.three(x).relu())

    torch.manual_seed(0)
    layers = {
        "one": nn.Conv2d(8, 6, 3, padding="same"), "two": nn.Conv2d(6, 8, 5, padding="same", dilation=2),
        "three": nn.Conv2d(8, 6, 1), "four": OwnPadding(6, 8, 3, stride=2),
    }  # fmt: skip
    model, x = Around(block, **layers).eval().double(), torch.randn(2, 3, size, size).double()
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.steered(drop=["one", "three"]).plan(kept={}))
    module = slim.module
    assert module is not None, slim.why_no_module
    assert isinstance(module.get_submodule("two"), Left) and isinstance(module.get_submodule("four"), Left)
    with torch.no_grad():
        torch.testing.assert_close(module(x), slim(x), rtol=1e-9, atol=1e-9)


class Measured(nn.Module):
    """Its branches look at the shape of a weight that goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.ups = nn.ModuleList(nn.Linear(6, 8) for _ in range(4))
        self.downs = nn.ModuleList(nn.Linear(8, 6) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(up(x).relu()).view(-1, down.weight.shape[0])
        return self.head(x)


def test_a_module_that_is_to_come_back_keeps_branches_that_stand_in_the_way() -> None:
    graph = atograph.trace(Measured().eval(), torch.randn(2, 4))
    slim = atograph.slim(graph, graph.steered(drop="ups.0").plan(kept={}))
    assert slim.module is None and "shape '[-1, 0]'" in slim.why_no_module
    assert not any(group.least == 0 for group in keep_module(graph.steered(depth=True)).groups)
    with pytest.raises(UserError, match="does not come back without all units of"):
        keep_module(graph.steered(drop="ups.0"))
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


class Joined(nn.Module):
    """What is left of a branch in a cat has no channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.bn, self.back, self.head = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        joined = self.bn(torch.cat([x, self.side(x)], 1))
        return self.head((x + self.back(joined.relu())).relu())


def test_a_slim_module_without_a_branch_is_slimmed_again() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = Joined().double().eval()
    perturb(model)
    graph = atograph.trace(model, x)
    (side,) = (group.name for group in graph.prunable if ("side.weight", 0) in group.members)
    first = atograph.slim(graph, graph.plan(kept={side: ()}))
    assert first.module is not None
    again = atograph.trace(first.module, x)
    assert all(group.size for group in again.groups)
    plan = again.plan(random=0, keep=0.6)
    second = atograph.slim(again, plan)
    torch.testing.assert_close(second(x), atograph.mask(first.module, plan)(x), rtol=1e-9, atol=1e-9)
