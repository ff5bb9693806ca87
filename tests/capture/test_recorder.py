"""The recorder writes down what torch's own `make_fx` does, op for op; what reads the batch is noticed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.experimental.proxy_tensor import make_fx

import atograph
from atograph.capture.recording.origins import Origins
from atograph.capture.recording.recorder import NotTraced, Unfollowed, record
from atograph.capture.to_program import capture
from atograph.passes.ir.sizes import BATCH


class Model(nn.Module):
    def __init__(self, function: Callable[[Model, torch.Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.lstm = nn.LSTM(8, 5, batch_first=True)
        self.register_buffer("table", torch.randn(8))
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, self.norm(self.conv(x)).relu_())


def in_place(model: Model, y: torch.Tensor) -> Any:
    y[:, 1:3] += 1
    y.view(len(y), -1).mul_(2)
    return y


SAME_AS_TORCH = {
    "layers": lambda m, y: m.linear(y.mean((2, 3))),
    "attention": lambda m, y: F.scaled_dot_product_attention(*y.flatten(2).mT.chunk(2, -1), y.flatten(2).mT),
    "several results": lambda m, y: y.split([3, 5], 1) + y.max(1) + tuple(y.unbind(1)),
    "factories": lambda m, y: y + torch.arange(8)[:, None, None] + torch.full_like(y, 2.0) + y.new_ones(1),
    "constants": lambda m, y: y * torch.tensor([2.0]) + float(torch.tensor(3.0)) + m.table[:, None, None],
    "in place": in_place,
    "aliases": lambda m, y: y.mT.contiguous() + y.to(torch.float32),
    "recurrent": lambda m, y: m.lstm(y.mean(3).mT)[0],
    "another type": lambda m, y: y.double().softmax(1).float(),
    "sizes": lambda m, y: y.reshape(y.shape[0] * y.shape[1], -1).view(-1, 8, y[0].numel() // 8),
}


def fakes(model: nn.Module, x: torch.Tensor) -> tuple[FakeTensorMode, dict[str, torch.Tensor], torch.Tensor]:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with mode:
        made = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in state.items()}
        return mode, made, torch.empty(BATCH, *x.shape[1:])


def described(graph: fx.Graph) -> list[Any]:
    """Ops, what they take and the shapes that they give; placeholders by number."""
    number = {node: index for index, node in enumerate(n for n in graph.nodes if n.op != "get_attr")}
    result = []
    for node in number:
        args = fx.map_arg((node.args, node.kwargs), lambda n: str(number.get(n, "constant")))
        values = torch.utils._pytree.tree_leaves(node.meta.get("val"))
        target = "" if node.op == "placeholder" else str(node.target)
        result.append((node.op, target, str(args), [getattr(value, "shape", value) for value in values]))
    return result


@pytest.mark.parametrize("name", SAME_AS_TORCH)
@torch.no_grad()
def test_it_records_what_make_fx_records(name: str) -> None:
    model = Model(SAME_AS_TORCH[name]).eval()
    mode, state, x = fakes(model, torch.randn(2, 3, 8, 8))

    def call(*tensors: torch.Tensor) -> Any:
        result = torch.func.functional_call(model, dict(zip(state, tensors, strict=False)), tensors[-1])
        return torch.utils._pytree.tree_leaves(result)

    inputs = [*state.values(), x]
    wanted = make_fx(call, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)(*inputs)
    found = record(lambda: call(*inputs), inputs, mode, Origins(model).of)
    assert described(found.graph) == described(wanted.graph)


class Turned(nn.Module):
    """Where the height or the width is one, what it turns is contiguous, and so is the sum with a table that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = x.transpose(2, 3).contiguous()
        bias = self.table.permute(2, 0, 1).unsqueeze(0).expand(1, 3, 4, 1)
        return (torch.where(turned[:, :, :1] > 0, bias, -1.0).contiguous() + x.contiguous().mean()) * turned.sum()


def test_sizes_at_which_there_is_nothing_to_make_contiguous_take_the_same_program() -> None:
    dynamic = {"x": {2: "height", 3: "width"}}
    program = capture(Turned(), (torch.randn(2, 3, 4, 5),), dynamic=dynamic)
    assert [(size.name, size.least, size.why) for size in program.interface.dynamic] == [
        ("height", 1, ""), ("width", 1, ""),
    ]  # fmt: skip
    calls = [node for node in program.graph.nodes if node.target is torch.ops.aten.contiguous.default]
    assert len(calls) == 2  # not that of the input, which never does anything


@pytest.mark.parametrize(
    ("function", "reads"),
    [
        (lambda m, y: m.linear(y.mean((2, 3))), False),
        (lambda m, y: y.flatten(1) if y.dim() == 4 and y.is_floating_point() else y, False),
        (lambda m, y: y * y.dtype.itemsize if y.device.type == "cpu" else y, False),
        (lambda m, y: y * len(y), True),
        (lambda m, y: y if y.is_contiguous() else y * 2, True),
        (lambda m, y: y.view(y.size(0), -1), False),
        (lambda m, y: y.view(y.shape[0] * 3, -1).view(3 * len(y.shape) * y.shape[0] // 12, -1), False),
        (lambda m, y: y * (y.size(0) + 1), True),
        (lambda m, y: y if y.shape[0] == 2 else y * 2, True),
        (lambda m, y: y * {2: 3}.get(y.shape[0], 4), True),
        (lambda m, y: y * np.sqrt(y.shape[0]), True),
        (lambda m, y: y * (y.size(0) // 2), True),
        (lambda m, y: y * (y.numel() > 5), True),
        (lambda m, y: y * y.is_same_size(torch.ones(2, 8, 6, 6)), True),
        (lambda m, y: scripted(y), True),
    ],
)
@torch.no_grad()
def test_reading_the_batch_is_noticed(function: Callable[..., Any], reads: bool) -> None:
    model = Model(function).eval()
    mode, state, x = fakes(model, torch.randn(2, 3, 8, 8))
    origins = Origins(model)
    record(lambda: [torch.func.functional_call(model, state, x)], [*state.values(), x], mode, origins.of)
    assert origins.read_batch == reads


@torch.jit.script
def scripted(y: torch.Tensor) -> torch.Tensor:
    if y.size(0) > 10:
        return y * 2
    return y * 3


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.unsqueeze_(0),
        lambda y: torch._foreach_mul_([y], 2.0),
        lambda y: setattr(y, "data", y * 2),
        lambda y: torch.vmap(torch.sin)(y),
        lambda y: torch.stack([row * 2 for row in y]),
        lambda y: y[y > 0],
        lambda y: bool(y.sum() > 0),
    ],
)
@torch.no_grad()
def test_what_cannot_be_written_down_is_refused(function: Callable[[torch.Tensor], Any]) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        x = torch.empty(BATCH, 4)
    model = nn.Identity()
    with pytest.raises(Exception, match="") as caught:  # torch has errors of its own for values that are not known
        record(lambda: [function(model(x) * 1)], [x], mode, Origins(model).of)
    assert (
        isinstance(caught.value, (NotTraced, Unfollowed))
        or "ynamicOutput" in repr(caught.value)
        or "DataDep" in repr(caught.value)
    )


TABLES: dict[str, dict[int, torch.Tensor]] = {"deep": {}}
latest: torch.Tensor | None = None


@functools.lru_cache
def remembered(size: int) -> torch.Tensor:
    return torch.arange(size).float()


def kept_in_a_global(model: Model, y: torch.Tensor) -> torch.Tensor:
    global latest
    latest = TABLES["deep"].setdefault(8, torch.arange(8).float())
    return m_linear(model, y + latest[:, None, None])


def kept_by_a_helper(model: Model, y: torch.Tensor) -> torch.Tensor:
    model.helper.tables.setdefault("positions", torch.arange(8).float())
    return m_linear(model, y + model.helper.tables["positions"][:, None, None])


def m_linear(model: Model, y: torch.Tensor) -> torch.Tensor:
    return model.linear(y.mean((2, 3)))


def closing_over() -> Callable[[int], torch.Tensor]:
    tables: dict[int, torch.Tensor] = {}

    def table(size: int) -> torch.Tensor:
        return tables.setdefault(size, torch.arange(size).float())

    return table


class Kept(Model):
    """Tables on the class, and in functions that the class or an instance holds."""

    tables: ClassVar[dict[int, torch.Tensor]] = {}
    latest: ClassVar[torch.Tensor | None] = None
    closed = staticmethod(closing_over())

    def by_default(self, size: int, tables: dict[int, torch.Tensor] = {}) -> torch.Tensor:  # noqa: B006
        return tables.setdefault(size, torch.arange(size).float())


def on_the_class(model: Any, y: torch.Tensor) -> torch.Tensor:
    type(model).latest = model.tables.setdefault(8, torch.arange(8).float())
    return y + model.latest[:, None, None]


@pytest.mark.parametrize(
    "function",
    [
        on_the_class,
        lambda m, y: y + m.closed(8)[:, None, None],
        lambda m, y: y + m.by_default(8)[:, None, None],
        lambda m, y: y + m.own(8)[:, None, None],
    ],
)
def test_nor_in_their_classes_and_functions(function: Callable[..., torch.Tensor]) -> None:
    model, x = Kept(lambda m, y: m_linear(m, function(m, y))).eval(), torch.randn(2, 3, 8, 8)
    model.own = functools.lru_cache(lambda size: torch.arange(size).float())
    graph = atograph.trace(model, x)
    assert not Kept.tables and Kept.latest is None
    found = model(x)
    assert not isinstance(found, FakeTensor)
    torch.testing.assert_close(atograph.slim(graph, graph.plan(kept={}))(x), found)
    Kept.tables.clear()
    Kept.latest = None


class Helper:
    def __init__(self) -> None:
        self.tables: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize(
    "function",
    [kept_in_a_global, kept_by_a_helper, lambda m, y: m_linear(m, y + remembered(8)[:, None, None])],
)
def test_no_tensor_without_data_stays_in_the_users_code(function: Callable[..., torch.Tensor]) -> None:
    model, x = Model(function).eval(), torch.randn(2, 3, 8, 8)
    model.helper = Helper()
    graph = atograph.trace(model, x)
    assert not model.helper.tables and not TABLES["deep"] and latest is None
    found = model(x)
    assert not isinstance(found, FakeTensor)
    torch.testing.assert_close(atograph.slim(graph, graph.plan(kept={}))(x), found)
    TABLES["deep"].clear()
    globals()["latest"] = None
