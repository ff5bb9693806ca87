"""What capture makes of models that are no plain tensor function: structures, regions, caches, mixed precision."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atograph
from atograph.capture.to_program import capture
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.errors import UserError
from atograph.passes.ir.run import ProgramModule
from atograph.values.structures import tensors_of
from benchmarks.exact import compare
from tests.between import Between


@dataclass
class Scores:
    """An output that no one has registered."""

    logits: torch.Tensor
    label: str


@dataclass
class Sample:
    """An input that no one has registered."""

    image: torch.Tensor
    weight: float = 2.0


class Cache:
    """Neither a dataclass nor a pytree."""

    def __init__(self, *layers: torch.Tensor) -> None:
        self.layers = list(layers)
        self.kind = torch.float32


class Structured(nn.Module):
    """Two linear layers that take and return anything."""

    def __init__(self, pack: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.pack = nn.Linear(5, 8), nn.Linear(8, 3), pack

    def forward(self, x: Any, mask: torch.Tensor | None = None) -> Any:
        image = x.image * x.weight if isinstance(x, Sample) else x["image"] if isinstance(x, dict) else x
        y = self.b(torch.relu(self.a(image)))
        return self.pack(y if mask is None else y * mask)


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (lambda y: Scores(y, "three"), Scores),
        (lambda y: {"logits": y, "parts": (y[:, 0], [y * 2])}, dict),
        (lambda y: (y, Cache(y, y + 1)), tuple),
        (lambda y: [y, None, "text"], list),
    ],
)
@pytest.mark.parametrize("give", [lambda x: x, lambda x: {"image": x}, Sample])
def test_inputs_and_outputs_of_any_structure(pack: Callable[..., Any], kind: type, give: Callable[..., Any]) -> None:
    x = torch.randn(4, 5)
    model = Structured(pack).eval()
    graph = atograph.trace(model, (give(x),))
    plan = graph.plan(random=0)
    slim = atograph.slim(graph, plan)
    found, wanted = slim(give(x)), atograph.mask(model, plan)(give(x))
    assert type(found) is kind
    for a, b in zip(tensors_of(found), tensors_of(wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_an_object_that_holds_tensors_comes_back_as_a_dict_of_them() -> None:
    graph = atograph.trace(Structured(lambda y: Cache(y, y + 1)), torch.randn(4, 5))
    assert set(atograph.slim(graph, graph.plan(random=0))(torch.randn(2, 5))) == {"layers"}


def test_an_optional_input_is_part_of_the_program_when_it_is_given() -> None:
    found = compare(Structured(lambda y: y), (torch.randn(4, 5),), {"mask": torch.ones(4, 1)})
    assert found.difference <= 1e-12 and found.moved > 1e-3


class Within(nn.Module):
    """A linear layer inside a region between two others."""

    def __init__(self, region: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.inner, self.b, self.region = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3), region

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.region(self.inner, torch.relu(self.a(x)))))


def exact(inner: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return inner(x)


def differentiable(inner: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        return inner(x)


def mapped(inner: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(inner)(x)


@pytest.mark.parametrize("region", [exact, differentiable, mapped])
def test_regions_are_entered(region: Callable[..., torch.Tensor]) -> None:
    found = compare(Within(region), (torch.randn(4, 5),))
    assert found.graph.program.fact(Axes).unknown == {}
    assert sorted(group.size for group in found.graph.prunable) == [6, 8]
    assert found.difference <= 1e-12 and found.moved > 1e-3


def test_the_casts_of_an_autocast_region_stay() -> None:
    def half(inner: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return inner(x)

    model = Within(lambda inner, x: half(inner, x).float()).eval()
    x = torch.randn(4, 5)
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0)
    assert {group.size for group in graph.prunable} == {6, 8}
    assert any(n.meta["val"].dtype == torch.bfloat16 for n in graph.program.graph.nodes if n.op == "call_function")
    found, wanted = atograph.slim(graph, plan)(x), atograph.mask(model, plan)(x)
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


class Remembering(nn.Module):
    """It computes a table from its weights once and keeps it until it is trained again, as LeViT's attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table, self.b = nn.Linear(5, 8), nn.Parameter(torch.randn(8)), nn.Linear(8, 3)
        self.kept: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> Remembering:
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "table" not in self.kept:
            self.kept["table"] = self.table * 2
        return self.b(torch.relu(self.a(x)) + self.kept["table"])


def test_what_a_module_keeps_from_a_run_reaches_neither_program_nor_mask_nor_model() -> None:
    model, x = Remembering().eval(), torch.randn(4, 5)
    before = model(x)
    kept = model.kept["table"]
    graph = atograph.trace(model, x)
    assert model.kept == {"table": kept} and torch.equal(model(x), before)
    assert ("table", 0) in graph.groups["g0"].members
    plan = graph.plan(random=0)
    torch.testing.assert_close(atograph.slim(graph, plan)(x), atograph.mask(model, plan)(x))


def test_hooks_that_a_first_run_installs_are_undone() -> None:
    """transformers does so; hooks that stayed would be installed twice."""

    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "installed"):
                self.a.register_forward_hook(lambda module, inputs, output: output * 2)
                self.installed = True
            return self.b(self.a(x))

    model, x = Hooked().eval(), torch.randn(4, 4)
    atograph.trace(model, x)
    assert not model.a._forward_hooks
    torch.testing.assert_close(model(x), model.b(model.a(x)))


def test_memory_order_may_change_with_the_sizes() -> None:
    """With one head left, attention returns another memory order, and a view of it would fail."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).contiguous().view(*x.shape[:2], 8))

    x = torch.randn(2, 7, 6)
    graph = atograph.trace(Heads().eval(), x)
    for group in graph.prunable:
        for units in ([0], [group.size - 1]):
            found = compare(Heads(), (x,), kept={group.name: units})
            assert found.difference <= 1e-12


def test_buffers_that_a_model_writes_are_written_by_the_program() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 8)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("latest", torch.zeros(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            y = self.linear(x).relu()
            self.latest.copy_(y.mean(0))
            return y

    model, x = Counter().eval(), torch.randn(3, 6)
    program = capture(model, (x[:2],))
    assert float(model.calls) == 0 and program.interface.writes == ("b_calls", "b_latest")
    run = ProgramModule(program)
    expected = run(x).mean(0)
    assert float(run.calls) == 1
    torch.testing.assert_close(run.latest, expected)


def test_an_error_of_the_model_itself_is_told_as_its_own() -> None:
    def fails(_y: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such table")

    with pytest.raises(UserError, match=r"model fails on its example inputs.*: ValueError: no such table \(at .*fails"):
        atograph.trace(Between(fails), torch.randn(2, 6))


def test_a_forward_that_takes_any_arguments() -> None:
    class Any_(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, *args: torch.Tensor, scale: float = 1.0, **more: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(args[0]).relu() * args[1]) * scale + more["bias"]

    graph = atograph.trace(Any_().eval(), (torch.randn(4, 6), torch.randn(4, 8)), {"bias": torch.randn(4, 3)})
    slim = atograph.slim(graph, graph.plan(random=0))
    inputs, bias = (torch.randn(5, 6), torch.randn(5, 8)), torch.randn(5, 3)
    torch.testing.assert_close(slim.program.module()(*inputs, bias=bias), slim(*inputs, bias=bias))


class Merging(nn.Linear):
    """It merges a low-rank weight when it goes into eval mode, as adapters do."""

    def __init__(self) -> None:
        super().__init__(6, 8)
        self.down, self.up, self.merged = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(8, 2)), False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up @ self.down
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if self.merged else y + x @ self.down.T @ self.up.T


@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_merges_its_weights_is_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(Merging(), nn.ReLU(), nn.Linear(8, 2)).train(training)
    state, merged = {name: value.clone() for name, value in model.state_dict().items()}, model[0].merged
    atograph.trace(model, torch.randn(2, 6))
    assert model[0].merged == merged and model.training == training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_scripted_module_keeps_its_mode() -> None:
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.Dropout())), nn.Linear(8, 2)).train()
    atograph.trace(model, torch.randn(2, 6))
    assert all(module.training for module in model.modules())


def dropped(y: torch.Tensor) -> torch.Tensor:
    seen = y[:, :2]
    F.dropout1d(y, 0.5, False).add_(1)
    return torch.cat([seen, y[:, 2:]], 1)


def third_dimension(y: torch.Tensor) -> torch.Tensor:
    torch.atleast_3d(y).add_(1)
    return y


def swapped(y: torch.Tensor) -> torch.Tensor:
    torch.einsum("ij->ji", y).mul_(2)
    return y


def in_chunks(y: torch.Tensor) -> torch.Tensor:
    torch.unsafe_chunk(y, 2, 1)[0].add_(1)
    return y


@pytest.mark.parametrize("function", [dropped, third_dimension, swapped, in_chunks])
@torch.no_grad()
def test_writes_through_aliases_that_no_schema_declares(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model, x = Between(function).eval(), torch.randn(2, 6)
    try:
        program = capture(model, (x,))
    except UserError as refused:
        assert "written in place" in str(refused)
    else:
        torch.testing.assert_close(ProgramModule(program)(x), model(x))


def test_a_buffer_that_is_replaced_is_written() -> None:
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.register_buffer("mean", torch.zeros(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return self.a(x - self.mean)

    model = Average().eval()
    run = ProgramModule(capture(copy.deepcopy(model), (torch.randn(2, 6),)))
    for _ in range(3):
        x = torch.randn(2, 6)
        torch.testing.assert_close(run(x), model(x))


def test_names_that_meet_in_a_program_are_told_apart() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
            self.norm_weight = nn.Parameter(torch.randn(8))
            self.register_buffer("lifted_tensor_0", torch.full((8,), 5.0))

        def forward(self, x: torch.Tensor, p_a_weight: torch.Tensor) -> torch.Tensor:
            return self.norm(self.a(x) + self.lifted_tensor_0 + torch.tensor([1.0] * 8) + p_a_weight) * self.norm_weight

    inputs = (torch.randn(2, 6), torch.randn(2, 8))
    model = Named().eval()
    graph = atograph.trace(model, inputs)
    torch.testing.assert_close(atograph.slim(graph, graph.plan(kept={}))(*inputs), model(*inputs))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layouts", [(torch.contiguous_format, torch.channels_last), (torch.channels_last,) * 2])
def test_memory_formats_are_those_of_the_model(kernel: int, layouts: tuple[torch.memory_format, ...]) -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, kernel)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x) * (2 if x.is_contiguous(memory_format=torch.channels_last) else 3)
            return y * (5 if y.is_contiguous() else 7)

    model, x = Asks().to(memory_format=layouts[1]).eval(), torch.randn(2, 3, 5, 5).to(memory_format=layouts[0])
    torch.testing.assert_close(ProgramModule(capture(model, (x,)))(x), model(x))


def test_the_type_of_another_tensor() -> None:
    found = compare(Between(lambda y: y * (1 / torch.sqrt(torch.tensor(16.0)).type_as(y))), (torch.randn(2, 6),))
    assert len(found.graph.prunable) == 1 and found.difference <= 1e-12


def data_exchanged(y: torch.Tensor) -> torch.Tensor:
    y.data = y * 2
    return y


def memory_exchanged(y: torch.Tensor) -> torch.Tensor:
    doubled = y * 2
    y.set_(doubled)
    return y.add_(1) + doubled


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (data_exchanged, r"the memory of another one \(Tensor.data\)"),
        (memory_exchanged, r"the memory of another one \(Tensor.set_\)"),
        (lambda y: y + torch.randn(8, generator=torch.Generator()), "a torch.Generator of its own"),
    ],
)
def test_what_nobody_can_follow_is_refused(function: Callable[[torch.Tensor], torch.Tensor], why: str) -> None:
    with pytest.raises(UserError, match=rf"cannot be followed: .*{why} \(at test_capture.py:\d+ in "):
        atograph.trace(Between(function), torch.randn(2, 6))


def test_code_that_asks_whether_weights_are_trained() -> None:
    model, x = Between(torch.sin).eval(), torch.randn(2, 6)
    model.function = lambda y: y * 2 if model.a.weight.requires_grad else y * 3
    model.b.weight.requires_grad_(False)
    torch.testing.assert_close(ProgramModule(capture(model, (x,)))(x), model(x))
    model.a.weight.requires_grad_(False)
    torch.testing.assert_close(ProgramModule(capture(model, (x,)))(x), model(x))


def test_capture_draws_no_number_from_pythons_generator() -> None:
    before = random.getstate()
    capture(Between(lambda y: y * random.random()), (torch.randn(2, 6),))
    assert random.getstate() == before
