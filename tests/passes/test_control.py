"""Regions of control flow are parts of the program: groups run through them, and what is pruned in them is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import map as map_over
from torch._higher_order_ops import scan, while_loop

import atograph
from atograph.passes.text.parser import parse_program
from atograph.passes.text.printer import format_program
from atograph.proof.flop_count import RegionByRegion, count_flops

ORDER = torch.tensor([3, 0, 2, 1, 4, 6, 5, 7])


class Net(nn.Module):
    def __init__(self, run: Callable[[Net, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def __getattr__(self, name: str) -> nn.Module:
        return super().__getattr__(name)  # type: ignore[no-any-return, misc]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def within(net: Net, x: Tensor) -> Tensor:
    def one(y: Tensor) -> Tensor:
        return net.c(torch.relu(net.b(y)))

    return net.d(torch.relu(torch.cond(x.sum() > 0, one, lambda y: net.e(y), (torch.relu(net.a(x)),))))


def between(net: Net, x: Tensor) -> Tensor:
    def one(y: Tensor) -> Tensor:
        return torch.relu(net.norm(net.b(y)))

    return net.c(torch.cond(x.sum() > 0, one, lambda y: y * 2, (torch.relu(net.a(x)),))).mean((2, 3))


def nested(net: Net, x: Tensor) -> Tensor:
    def inner(y: Tensor) -> Tensor:
        return torch.cond(y.max() > 1, lambda y: net.c(torch.tanh(net.b(y))), lambda y: y.clone(), (y,))

    return net.d(torch.cond(x.sum() > 0, inner, lambda y: y * 2, (torch.relu(net.a(x)),)))


def in_place(net: Net, x: Tensor) -> Tensor:
    def one(y: Tensor) -> Tensor:
        hidden = net.b(y)
        hidden.relu_()
        return net.c(hidden)

    return net.d(torch.cond(x.sum() > 0, one, lambda y: y * 2, (net.a(x),)))


def sigmoids(net: Net, x: Tensor) -> Tensor:
    y = torch.sigmoid(net.a(x))
    return net.d(torch.cond(x.sum() > 0, lambda y: torch.sigmoid(net.b(y)), lambda y: torch.sin(y), (y,)))


def attention(net: Net, x: Tensor) -> Tensor:
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)

    def one(x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (2, 4)).transpose(1, 2) for each in (net.q, net.k, net.v))
        mixed = torch.softmax(q @ k.transpose(-1, -2) + mask, -1) @ v
        return net.o(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], 8))

    return torch.cond(x.sum() > 0, one, lambda x, mask: x.clone(), (x, mask))


def shuffled(net: Net, x: Tensor) -> Tensor:
    return net.d(torch.cond(x.sum() > 0, lambda y: net.b(y)[:, ORDER] + y, lambda y: y * 2, (torch.tanh(net.a(x)),)))


def literals(net: Net, x: Tensor) -> Tensor:
    def inner(y: Tensor) -> Tensor:
        return net.b(y)[:, torch.tensor([3, 0, 2, 1, 4, 6, 5, 7])] + y * torch.tensor([2.0], dtype=y.dtype)

    def one(y: Tensor) -> Tensor:
        return torch.cond(y.max() > 1, inner, lambda y: y * torch.tensor([3.0], dtype=y.dtype), (y,))

    return net.d(torch.cond(x.sum() > 0, one, lambda y: y * 2, (torch.tanh(net.a(x)),)))


def chunks(net: Net, x: Tensor) -> Tensor:
    def one(x: Tensor) -> Tensor:
        left, gate = net.b(x).chunk(2, -1)
        return net.c(left * torch.sigmoid(gate))

    return torch.cond(x.sum() > 0, one, lambda x: net.d(x), (x,))


def recurrent(net: Net, x: Tensor) -> Tensor:
    def step(state: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(net.i(now) + net.h(state))
        return state, state.clone()

    return net.d(scan(step, torch.zeros(x.shape[0], 8, dtype=x.dtype), x, dim=1)[0])


def from_ones(net: Net, x: Tensor) -> Tensor:
    def step(state: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(net.i(now) + net.h(state))
        return state, state.clone()

    return net.d(scan(step, torch.ones(x.shape[0], 8, dtype=x.dtype), x, dim=1)[0])


def lstm(net: Net, x: Tensor) -> Tensor:
    def step(carry: tuple[Tensor, Tensor], now: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        state, cell = carry
        i, f, g, o = (net.i(now) + net.h(state)).chunk(4, -1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(cell)
        return (state, cell), state.clone()

    zero = torch.zeros(x.shape[0], 8, dtype=x.dtype)
    return net.d(scan(step, (zero, zero.clone()), x, dim=1, reverse=True)[1])


def layers(net: Net, x: Tensor) -> Tensor:
    def step(y: Tensor, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        up, down = weights
        return y + torch.relu(y @ up) @ down, y.sum()

    return net.d(scan(step, net.a(x), (net.up, net.down))[0])


def mapped(net: Net, x: Tensor) -> Tensor:
    return map_over(lambda sample: net.b(torch.relu(net.a(sample))), x)


def map_of_cond(net: Net, x: Tensor) -> Tensor:
    def one(row: Tensor) -> Tensor:
        return torch.cond(row.sum() > 0, lambda r: net.b(torch.relu(net.a(r))), lambda r: net.c(r), (row,))

    return map_over(one, x)


def repeated(net: Net, x: Tensor) -> Tensor:
    start = torch.zeros((), dtype=torch.int64)
    return net.d(while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, torch.tanh(net.b(y))), (start, net.a(x)))[1])


def sorts(net: Net, x: Tensor) -> Tensor:
    y = torch.relu(net.a(x))
    return net.d(torch.cond(x.sum() > 0, lambda y: net.c(net.b(y).sort(-1)[0]), lambda y: y * 2, (y,)))


def separable(net: Net, x: Tensor) -> Tensor:
    def one(y: Tensor) -> Tensor:
        return net.c(torch.relu(net.norm(net.b(net.up(y))))).clone()

    return net.d(torch.cond(x.sum() > 0, one, lambda y: net.e(y).clone(), (net.a(x),)))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.3)


@dataclass(frozen=True)
class Case:
    """A model, the shape of its input, its groups as text, and whether torch.onnx has words for it."""

    run: Callable[[Net, Tensor], Tensor]
    parts: Callable[[], dict[str, nn.Module | nn.Parameter]]
    shape: tuple[int, ...]
    groups: str
    onnx: bool = True


L = nn.Linear
CASES = [
    Case(within, lambda: {"a": L(4, 8), "b": L(8, 12), "c": L(12, 8), "e": L(8, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0] → b.weight[1], e.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  12 units  b.weight[0], b.bias[0] → c.weight[1]
  g3  8 units  c.weight[0], c.bias[0], e.weight[0], e.bias[0] → d.weight[1]
  g4  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(between, lambda: {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 8, 3, padding=1), "norm": nn.BatchNorm2d(8),
                           "c": nn.Conv2d(8, 3, 3)}, (2, 3, 8, 8), """
  g0  8 units  a.weight[0], a.bias[0], b.weight[0], b.bias[0], norm.weight[0], norm.bias[0] → b.weight[1], c.weight[1]
  g1  3 units  a.weight[1]  frozen: model input (x)
  g2  3 units  c.weight[0], c.bias[0]  frozen: model output (mean)"""),
    Case(nested, lambda: {"a": L(4, 8), "b": L(8, 12), "c": L(12, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], c.weight[0], c.bias[0] → b.weight[1], d.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  12 units  b.weight[0], b.bias[0] → c.weight[1]
  g3  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(in_place, lambda: {"a": L(4, 8), "b": L(8, 12), "c": L(12, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], c.weight[0], c.bias[0] → b.weight[1], d.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  12 units  b.weight[0], b.bias[0] → c.weight[1]
  g3  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(sigmoids, lambda: {"a": L(4, 8), "b": L(8, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], b.weight[0], b.bias[0] → b.weight[1]*, d.weight[1]*
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(attention, lambda: {"q": L(8, 8), "k": L(8, 8), "v": L(8, 8), "o": L(8, 8)}, (2, 5, 8), """
  g0  2 units  q.weight[0], q.bias[0], k.weight[0], k.bias[0], v.weight[0], v.bias[0] → o.weight[1]
  g1  4 units  q.weight[0], q.bias[0], k.weight[0], k.bias[0]
  g2  8 units  o.weight[0], o.bias[0] → q.weight[1], k.weight[1], v.weight[1]  frozen: model input (x)
  g3  4 units  v.weight[0], v.bias[0] → o.weight[1]"""),
    Case(shuffled, lambda: {"a": L(4, 8), "b": L(8, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], b.weight[0], b.bias[0] → b.weight[1], d.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(literals, lambda: {"a": L(4, 8), "b": L(8, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], b.weight[0], b.bias[0] → b.weight[1], d.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(chunks, lambda: {"b": L(4, 12), "c": L(6, 3), "d": L(4, 3)}, (3, 4), """
  g0  6 units  b.weight[0], b.bias[0] → c.weight[1]
  g1  4 units  b.weight[1], d.weight[1]  frozen: model input (x)
  g2  3 units  c.weight[0], c.bias[0], d.weight[0], d.bias[0]  frozen: model output (getitem)"""),
    Case(recurrent, lambda: {"i": L(4, 8), "h": L(8, 8, bias=False), "d": L(8, 3)}, (3, 5, 4), """
  g0  8 units  i.weight[0], i.bias[0], h.weight[0] → h.weight[1], d.weight[1]
  g1  4 units  i.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(from_ones, lambda: {"i": L(4, 8), "h": L(8, 8, bias=False), "d": L(8, 3)}, (3, 5, 4), """
  g0  8 units  i.weight[0], i.bias[0], h.weight[0] → h.weight[1]*, d.weight[1]*
  g1  4 units  i.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(lstm, lambda: {"i": L(4, 32), "h": L(8, 32), "d": L(8, 3)}, (3, 5, 4), """
  g0  8 units  i.weight[0], i.bias[0], h.weight[0], h.bias[0] → h.weight[1], d.weight[1]
  g1  4 units  i.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(layers, lambda: {"a": L(4, 8), "up": parameter(3, 8, 10), "down": parameter(3, 10, 8), "d": L(8, 3)},
         (3, 4), """
  g0  3 units  up[0], down[0]  frozen: scan goes over it (scan)
  g1  8 units  down[2], a.weight[0], a.bias[0] → up[1], d.weight[1]
  g2  10 units  up[2] → down[1]
  g3  4 units  a.weight[1]  frozen: model input (x)
  g4  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(mapped, lambda: {"a": L(4, 8), "b": L(8, 3)}, (3, 5, 4), """
  g0  8 units  a.weight[0], a.bias[0] → b.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  3 units  b.weight[0], b.bias[0]  frozen: model output (getitem)""", onnx=False),
    Case(map_of_cond, lambda: {"a": L(4, 8), "b": L(8, 3), "c": L(4, 3)}, (3, 5, 4), """
  g0  8 units  a.weight[0], a.bias[0] → b.weight[1]
  g1  4 units  a.weight[1], c.weight[1]  frozen: model input (x)
  g2  3 units  b.weight[0], b.bias[0], c.weight[0], c.bias[0]  frozen: model output (getitem)""", onnx=False),
    Case(repeated, lambda: {"a": L(4, 8), "b": L(8, 8, bias=False), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], b.weight[0] → b.weight[1], d.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(separable, lambda: {"a": nn.Conv2d(3, 8, 1), "up": nn.Conv2d(8, 12, 1), "norm": nn.BatchNorm2d(12),
                             "b": nn.Conv2d(12, 12, 3, padding=1, groups=12), "c": nn.Conv2d(12, 8, 1),
                             "e": nn.Conv2d(8, 8, 1, groups=4), "d": nn.Conv2d(8, 3, 1)}, (2, 3, 6, 6), """
  g0  4 units  a.weight[0], a.bias[0], c.weight[0], c.bias[0], e.weight[0], e.bias[0] → up.weight[1], d.weight[1]
  g1  2 units  a.weight[0], a.bias[0] → up.weight[1], e.weight[1]
  g2  3 units  a.weight[1]  frozen: model input (x)
  g3  12 units  up.weight[0], up.bias[0], norm.weight[0], norm.bias[0], b.weight[0], b.bias[0] → c.weight[1]
  g4  2 units  c.weight[0], c.bias[0], e.weight[0], e.bias[0] → d.weight[1]
  g5  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
    Case(sorts, lambda: {"a": L(4, 8), "b": L(8, 6), "c": L(6, 8), "d": L(8, 3)}, (3, 4), """
  g0  8 units  a.weight[0], a.bias[0], c.weight[0], c.bias[0] → b.weight[1], d.weight[1]
  g1  4 units  a.weight[1]  frozen: model input (x)
  g2  6 units  b.weight[0], b.bias[0]  frozen: sort over this axis (sort)
  g3  6 units  c.weight[1]  frozen: sort over this axis (sort)
  g4  3 units  d.weight[0], d.bias[0]  frozen: model output (d)"""),
]  # fmt: skip


def traced(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Net, Tensor, atograph.Graph]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, x = Net(case.run, **case.parts()).to(dtype).eval(), torch.randn(case.shape, dtype=dtype)
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        if "norm" in name and value.is_floating_point():
            value.data.uniform_(0.5, 1.5)
    return net, x, atograph.trace(net, x)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.run.__name__)
def test_groups_run_through_regions(case: Case) -> None:
    net, x, graph = traced(case)
    assert _without_lines(str(graph.groups)) == case.groups.strip("\n")
    inputs = [x, -x, x * 3]
    with torch.no_grad():
        for seed in range(2):
            plan = graph.plan(random=seed)
            slim, masked = atograph.slim(graph, plan), atograph.mask(net, plan)
            exported = slim.program.module(check_guards=False)
            for given in inputs:
                wanted = masked(given)
                for form in (slim, exported):
                    assert torch.allclose(form(given), wanted, rtol=1e-9, atol=1e-12)
            assert max((masked(given) - net(given)).abs().max() for given in inputs) > 1e-3
            assert count_flops(RegionByRegion(slim.passes_program), x[:1]) == slim.flops
    assert count_flops(RegionByRegion(graph.program), x[:1]) == graph.flops


def _without_lines(groups: str) -> str:
    """Groups as text, without the place in this file that a reason names."""
    return "\n".join("  " + line.partition(", test_control.py")[0] + (")" if "test_control.py" in line else "")
                     for line in groups.splitlines())  # fmt: skip


NOTES = {
    "within": "FLOPs count both branches of cond: the data decide what a call takes.",
    "repeated": "FLOPs count one round of while_loop: the data decide what a call takes.",
    "mapped": "",
    "separable": "FLOPs count both branches of cond: the data decide what a call takes.",
}


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if case.run.__name__ in NOTES], ids=lambda c: c.run.__name__)
def test_what_flops_count_is_told_and_the_module_comes_back(case: Case) -> None:
    net, x, graph = traced(case)
    note = NOTES[case.run.__name__]
    assert graph.notes == ([note] if note else [])
    with torch.no_grad():
        slim = atograph.slim(graph, graph.plan(random=0))
        assert slim.module is not None, slim.why_no_module
        assert torch.allclose(slim.module(x), atograph.mask(net, slim.plan)(x), rtol=1e-9, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.run.__name__)
def test_a_slim_region_is_written_and_read(case: Case, tmp_path: Path) -> None:
    _net, x, graph = traced(case, torch.float32)
    with torch.no_grad():
        slim = atograph.slim(graph, graph.plan(random=0))
        slim.save(tmp_path)
        assert torch.equal(atograph.load(tmp_path)(x), slim(x))
        text = format_program(slim.passes_program)
        assert format_program(parse_program(text, seed=0)) == text
        if case.onnx:
            slim.to_onnx(tmp_path / "slim.onnx")
            from onnxruntime import InferenceSession

            session = InferenceSession(tmp_path / "slim.onnx")
            for given in (x, -x):
                (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
                assert torch.allclose(torch.from_numpy(found), slim(given), atol=1e-5)


def counted(net: Net, x: Tensor) -> Tensor:
    def one(y: Tensor) -> Tensor:
        y = net.b(y).relu_()
        return y * y[y > 0].sum()

    return net.d(torch.cond(x.sum() > 0, one, lambda y: y * 2, (net.a(x),)))


def test_a_region_whose_sizes_the_data_decide_is_kept_whole() -> None:
    net = Net(counted, a=L(4, 8), b=L(8, 8), d=L(8, 3)).eval()
    graph = atograph.trace(net, torch.randn(3, 4))
    assert not graph.prunable
    assert "cond is kept whole: aten.relu_.default writes in it" in str(graph.groups)


def unlike(net: Net, x: Tensor) -> Tensor:
    return net.d(torch.cond(x.sum() > 0, lambda y: net.b(y)[:, None].contiguous(), lambda y: y.relu(), (net.a(x),)))


def test_what_torch_says_within_its_words_about_a_compiler_is_told() -> None:
    net = Net(unlike, a=L(4, 8), b=L(8, 8), d=L(8, 3)).eval()
    with pytest.raises(atograph.UserError, match="capture: RuntimeError: When merging two branches"):
        atograph.trace(net, torch.randn(3, 4))
