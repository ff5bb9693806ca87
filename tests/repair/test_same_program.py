"""A module that is recorded as its slim program is held against it without data, and still run with some."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atograph
from atograph.capture.to_program import capture, recorded
from atograph.repair import checks
from atograph.repair.same_program import recorded_alike
from atograph.values.resized import less_of

X = torch.randn(2, 3, 80, 72)


class Net(nn.Module):
    """Two convolutions; ``change`` is what its code does in between."""

    def __init__(self, change: Callable[[nn.Module, Tensor], Tensor] = lambda _m, y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.out, self.drop = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Dropout(0.5)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.relu(self.bn(self.a(x))))
        return self.out(self.drop(self.change(self, y))).mean((2, 3))


def slim_of(model: nn.Module) -> atograph.Slim:
    graph = atograph.trace(model.eval(), X)
    return atograph.slim(graph, graph.plan(random=0))


def test_a_module_that_calls_the_same_is_run_on_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the example nor the dense model are run: there is a proof for any batch, and nobody reads the mode."""
    slim, tried = slim_of(Net()), []
    compare = checks.Checks._problems
    monkeypatch.setattr(checks.Checks, "_problems", lambda *given: tried.append(given[2]) or compare(*given))
    monkeypatch.setattr(checks, "samples_of", None)  # would be called with all of the example
    assert slim.module is not None, slim.why_no_module
    assert [args[0].shape for args, _kwargs in tried] == [(2, 3, 32, 32)]
    assert slim.module.b.groups == slim.module.b.out_channels == len(slim.module.b.weight) == 4
    with torch.no_grad():
        torch.testing.assert_close(slim.module(X), slim(X))


def is_fake(x: Tensor) -> bool:
    return type(x) is not Tensor


DIFFERENT = {
    "another op": lambda _m, y: y.relu(),
    "a number": lambda _m, y: y * 1.5,
    "a constant": lambda _m, y: y * torch.tensor(2.0),
    "a sign of zero": lambda _m, y: y + -0.0,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_recorded_of_another_module_is_no_such_program(name: str) -> None:
    program = capture(Net().eval(), (X,))
    assert recorded_alike(Net().eval(), program, ((X,), {})) is not None
    assert recorded_alike(Net(DIFFERENT[name]).eval(), program, ((X,), {})) is None
    other = Net().eval()
    with torch.no_grad():
        other.out.bias[0] += 1e-6
    assert recorded_alike(other, program, ((X,), {})) is None  # with other weights


ALIKE = {
    "pieces": (lambda _m, y: sum(y.chunk(2, 1)), lambda _m, y: sum(y.split([4, 4], -3))),
    "a run": (lambda _m, y: y[:, -4:], lambda _m, y: y[:, 4:8]),
    "a shape": (
        lambda _m, y: y.flatten(2)[..., None],
        lambda _m, y: y.contiguous().view(y.shape[0], 8, -1).unsqueeze(3),
    ),
    "spread": (lambda _m, y: y + y[:, :1].expand(-1, 8, -1, -1), lambda _m, y: y + y[:, 0:1].expand(y.shape)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_arguments_that_say_the_same_are_the_same(name: str) -> None:
    one, other = (Net(change) for change in ALIKE[name])
    for model in (one, other):
        model.out = nn.Conv2d(model.out.in_channels if name in ("a shape", "spread") else 4, 4, 1)
        torch.nn.init.ones_(model.out.weight), torch.nn.init.zeros_(model.out.bias)
    program = capture(one.eval(), (X,))
    assert recorded_alike(other.eval(), program, ((X,), {})) is not None


def test_code_that_goes_another_way_with_data_is_seen() -> None:
    """On tensors without data it is the program; with data it multiplies by a share of the old width."""
    slim = slim_of(Net(lambda _m, y: y if is_fake(y) else y * (y.shape[1] / 8)))
    assert slim.module is None
    assert "does not compute what the program does" in slim.why_no_module


READS = {
    "nothing": (lambda _m, y: y, False),
    "a function": (lambda m, y: F.dropout(y, 0.5, m.training), True),
    "a branch": (lambda m, y: y * 2 if m.training else y, True),
    "another part's": (lambda m, y: y * (1 + m.a.training), True),
}


@pytest.mark.parametrize("name", READS)
def test_who_looks_at_the_mode_is_noticed(name: str) -> None:
    change, reads = READS[name]
    model = Net(change)
    program = recorded(model, (X,), {})
    assert program is not None
    assert program.interface.reads_training == reads
    assert model.training and "training" not in vars(nn.Module)


def test_training_that_goes_another_way_is_still_refused() -> None:
    slim = slim_of(Net(lambda m, y: y * (y.shape[1] / 8) if m.training else y))
    assert slim.module is None
    assert "in training mode its code goes another way" in slim.why_no_module


def test_less_is_smaller_images_then_one_sample() -> None:
    sizes = [args[0].shape for args, _kwargs in less_of(((X,), {}))]
    assert sizes == [(2, 3, 32, 32), (1, 3, 80, 72)]
    assert [kwargs["ids"].shape for _args, kwargs in less_of(((), {"ids": torch.zeros(1, 5).long()}))] == []


class Attention(nn.Module):
    """Attention of torch, to itself or to what comes before it."""

    def __init__(self, *, itself: bool) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 4)
        self.attention, self.itself = nn.MultiheadAttention(16, 4, batch_first=True), itself

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        before = y if self.itself else F.relu(self.b(x))
        return self.out(y + self.attention(y, before, before, need_weights=False)[0])


@pytest.mark.parametrize("itself", [True, False])
def test_attention_of_torch_is_corrected_to_the_ops_of_the_program(itself: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    graph = atograph.trace(Attention(itself=itself).eval(), x)
    slim = atograph.slim(graph, graph.plan(random=0))
    assert slim.module is not None, slim.why_no_module
    assert any("multi_head_attention_forward" in call.text for call in slim.corrected_calls)
    alike = recorded_alike(slim.module, slim.passes_program, ((x,), {}))
    assert (alike is not None) == itself  # of others, the program makes two products, and the module three
    with torch.no_grad():
        torch.testing.assert_close(slim.module(x), slim(x))


class Counting(nn.Module):
    """Counts its calls in place, in a buffer: in eval mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.register_buffer("trained", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.trained += 1
        return self.head((self.conv(x) + 0.01 * self.trained).relu().mean((2, 3)))


def test_trying_the_module_leaves_no_trace_in_its_buffers() -> None:
    torch.manual_seed(0)
    model, x = Counting(), torch.randn(2, 3, 8, 8)
    graph = atograph.trace(model, x)
    model.train()
    for _ in range(3):
        model(x)
    slim = atograph.slim(graph, graph.plan(random=0))
    assert slim.module is not None and slim.module.trained == 3 == model.trained
