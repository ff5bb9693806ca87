"""What code may look at while it is captured: values that depend on no input, tables from earlier calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError


class Net(nn.Module):
    """Two layers, and in between them code that looks at values."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv1d(3, 16, 3, padding=1), nn.Linear(16, 3), between
        self.register_buffer("step", torch.tensor(2))
        self.register_buffer("ready", torch.tensor([True]))
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("mask", torch.full((9, 9), float("-inf")).triu(1))
        self.norm = nn.BatchNorm1d(16)
        self.strides = torch.tensor([2.0, 4.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x).relu()).mean(-1))


def exact(model: nn.Module, *inputs: Tensor) -> None:
    torch.manual_seed(0)
    model, wide = model.double().eval(), [each.double() if each.is_floating_point() else each for each in inputs]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
        graph = atograph.trace(model, tuple(wide))
        plan = graph.plan(random=0, keep=0.5)
        assert plan.kept
        masked, slim = atograph.mask(model, plan), atograph.slim(graph, plan)
        for batch in (1, 3):
            other = [each[:1].repeat(batch, *[1] * (each.dim() - 1)) for each in wide]
            assert torch.allclose(masked(*other), slim(*other), rtol=1e-9, atol=1e-12)


def causal(_net: Net, h: Tensor) -> Tensor:
    mask = torch.triu(torch.full((h.shape[-1], h.shape[-1]), float("-inf")), diagonal=1)
    is_causal = bool((mask == nn.Transformer.generate_square_subsequent_mask(h.shape[-1])).all())
    return h * 2 if is_causal else h


def list_of_dims(_net: Net, h: Tensor) -> Tensor:
    return h + h.mean(dim=torch.arange(2, h.dim()).tolist(), keepdim=True)


def branch_on_a_table(_net: Net, h: Tensor) -> Tensor:
    table = torch.zeros(h.shape[-1])
    table[::2] = 1.0
    return h * table if table.sum() > 1 else h


def stride_of_an_integer_buffer(net: Net, h: Tensor) -> Tensor:
    return h[..., :: int(net.step)] if net.ready else h


def number_of_a_buffer(net: Net, h: Tensor) -> Tensor:
    return h * float(net.scale) if torch.allclose(net.scale, torch.full_like(net.scale, 3.0)) else h


def mask_in_a_buffer(net: Net, h: Tensor) -> Tensor:
    mask = net.mask[: h.shape[-1], : h.shape[-1]]
    is_causal = bool((mask == nn.Transformer.generate_square_subsequent_mask(h.shape[-1])).all())
    return h * 2 if is_causal else h


def number_of_a_plain_tensor(net: Net, h: Tensor) -> Tensor:
    return h * torch.full((h.shape[-1],), float(net.strides[0]))


def indices_of_a_constant(_net: Net, h: Tensor) -> Tensor:
    chosen = torch.tensor([1, 0, 1, 1]).nonzero().flatten()
    return h[..., chosen] * len(chosen)


def places_by_a_constant_mask(_net: Net, h: Tensor) -> Tensor:
    chosen = h[..., torch.arange(h.shape[-1]) % 3 > 0]
    return chosen.chunk(2, -1)[0]


def elements_by_a_constant_mask(_net: Net, h: Tensor) -> Tensor:
    return h * torch.arange(6)[torch.arange(6) > 2].sum()


def of_the_type_of_an_input(_net: Net, h: Tensor) -> Tensor:
    return h * float(h.new_full((2,), 3.0).sum()) * float(torch.arange(3).type_as(h)[1])


READ = [
    causal,
    list_of_dims,
    branch_on_a_table,
    stride_of_an_integer_buffer,
    number_of_a_buffer,
    mask_in_a_buffer,
    number_of_a_plain_tensor,
    indices_of_a_constant,
    elements_by_a_constant_mask,
    places_by_a_constant_mask,
    of_the_type_of_an_input,
]


@pytest.mark.parametrize("between", READ)
def test_values_that_depend_on_no_input_are_known(between: Callable[[Net, Tensor], Tensor]) -> None:
    exact(Net(between), torch.randn(2, 3, 9))


def on_chance(_net: Net, h: Tensor) -> Tensor:
    return h * 2 if torch.rand(1) > 0.5 else h


def test_a_value_that_chance_decides_is_not() -> None:
    with pytest.raises(UserError, match=r"cannot capture this model: .*\(at test_known_values.py:"):
        atograph.trace(Net(on_chance).eval(), torch.randn(2, 3, 9))


def test_a_buffer_that_was_looked_at_must_stay_as_it_was() -> None:
    model = Net(stride_of_an_integer_buffer).eval()
    graph = atograph.trace(model, torch.randn(2, 3, 9))
    plan = graph.plan(flops=0.5)
    atograph.slim(graph, plan)
    model.step.fill_(3)
    with pytest.raises(UserError, match="looks at the values of step, and these have changed"):
        atograph.slim(graph, plan)


class Settling(nn.Module):
    """A scale that its first training call finds, as activation norms do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("scale", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.training and self.scale == 0:
            self.scale.copy_(h.mean())
        return self.b(h / self.scale if self.scale != 0 else h)


def test_a_value_that_training_changes_is_refused_before_it() -> None:
    data = [(torch.randn(4, 6), torch.randint(0, 3, (4,)))] * 3
    with pytest.raises(UserError, match="values of scale, which a call in training mode changes"):
        atograph.compress(Settling(), data, flops=0.5, epochs=1)


class Caching(nn.Module):
    """A head that keeps a table from call to call, as detectors do."""

    def __init__(self, key: Callable[[Tensor], Any], table: Callable[[Caching, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.key, self.table, self.kept, self.stride = key, table, None, torch.tensor([8.0, 16.0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        if self.kept != self.key(y):
            self.anchors, self.kept = self.table(self, y), self.key(y)
        return y * self.anchors


TABLES: dict[str, Callable[[Caching, Tensor], Tensor]] = {
    "from a number": lambda head, y: torch.full((y.shape[-1],), float(head.stride[0])),
    "of the type of an input": lambda head, y: torch.stack(
        [y.new_full((y.shape[-1],), 2.0), torch.arange(y.shape[-1]).type_as(y) + 0.5]
    ).sum(0),
    "for each sample": lambda head, y: torch.ones(y.shape[0], 1, 1, 1) * torch.arange(y.shape[-1]),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_model_that_was_called_before_has_the_same_program(table: str) -> None:
    make = lambda: Caching(lambda y: y.shape, TABLES[table]).eval()  # noqa: E731
    x = torch.randn(2, 3, 8, 8)
    fresh, called = make(), make()
    with torch.no_grad():
        called(x)
    before, after = atograph.trace(fresh, x), atograph.trace(called, x)
    assert str(after) == str(before) and str(after.program) == str(before.program)
    assert not after.program.interface.fixed
    assert called.anchors.shape[-1] == 8 and type(called.anchors) is Tensor


def test_a_table_that_follows_the_batch_in_its_values_is_noticed() -> None:
    model = Caching(lambda y: y.shape, lambda head, y: torch.tensor(1.0 if y.shape[0] == 2 else 2.0)).eval()
    graph = atograph.trace(model, torch.randn(2, 3, 8, 8))
    assert graph.program.interface.fixed  # or the slim program would be wrong for other batches


def test_arguments_that_forward_takes_by_any_name() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor, **options: Any) -> Tensor:
            h = self.a(x).relu()
            kept = h[(x[:, 0] > 0).nonzero()[:, 0]]  # a size by the data: the way through torch.export
            return self.b(kept) * (2 if options.get("double", True) else 1)

    model, x = Model().eval(), torch.randn(5, 6)
    graph = atograph.trace(model, (x,), {"double": False})
    assert torch.allclose(atograph.slim(graph, graph.plan(random=0, keep=1.0))(x, double=False), model(x, double=False))
    assert "forward" not in vars(model)


def test_strides_need_not_be_polynomials() -> None:
    class Messages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            h = self.a(x).relu()
            chosen = edges.nonzero()[:, 0]
            sources, targets = torch.stack([chosen, chosen])  # strides (Max(1, u0), 1)
            return self.b(h + torch.zeros_like(h).index_add(0, targets, h[sources]))

    model, x, edges = Messages().eval(), torch.randn(5, 6), torch.tensor([1, 0, 1, 1, 0])
    graph = atograph.trace(model, (x, edges))
    plan = graph.plan(random=0, keep=0.5)
    assert plan.kept
    assert torch.allclose(atograph.slim(graph, plan)(x, edges), atograph.mask(model, plan)(x, edges), atol=1e-6)


class Regridding(nn.Module):
    """A head that keeps its table in a buffer, and makes it anew for each size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.register_buffer("grid", torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x)))
        if self.grid.shape != y.shape[-1:]:
            self.grid = torch.arange(y.shape[-1]).to(y)
        return y + self.grid


@pytest.mark.parametrize("size", [0, 8, 12])
def test_a_buffer_that_is_made_for_a_size(size: int) -> None:
    model, x = Regridding().eval(), torch.randn(2, 3, 8, 8)
    if size:
        model(torch.randn(1, 3, size, size))
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0, keep=0.5)
    slim = atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    for inputs in (x, torch.randn(3, 3, 8, 8)):
        assert torch.allclose(atograph.mask(model, plan)(inputs), slim(inputs), atol=1e-6)
        assert torch.allclose(slim.module(inputs), slim(inputs), atol=1e-6)
