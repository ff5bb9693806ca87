"""Models on the meta device: the same groups as with weights, sizes of any plan, and a refusal of what needs values."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from decoder import LLAMA_70B, Decoder, Sizes, tokens
from networks import NETWORKS, build, maker
from torch import nn

import atograph
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.choose import PlanMagnitude
from atograph.process import stages


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make().eval()


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    with atograph.without_weights():
        return make().eval()


MAKERS = pytest.mark.parametrize("making", [on_meta, empty])


def decoder() -> Decoder:
    return Decoder(Sizes()).eval()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


class Written(nn.Module):
    """Writes into a view, which only torch's own functionalisation takes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y[:, 1:3].relu_()
        return self.b(y)


class Attribute(nn.Module):
    """Keeps a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.scale = torch.full((6,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)) * self.scale + torch.tensor([1.0]) * 0)


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    **{name: (maker(name), build(name)[1]) for name in NETWORKS},
    "decoder": (decoder, tokens()),
    "tied": (lambda: Decoder(Sizes(tied=True)), tokens()),
    "recurrent": (Recurrent, torch.randn(2, 5, 4)),
    "written": (Written, torch.randn(2, 4)),
    "attribute": (Attribute, torch.randn(2, 4)),
}


@MAKERS
@pytest.mark.parametrize("name", MODELS)
def test_groups_costs_and_slim_sizes_are_those_of_the_loaded_model(name: str, making: Any) -> None:
    make, inputs = MODELS[name]
    loaded = atograph.trace(make().eval(), inputs)
    model = making(make)
    graph = atograph.trace(model, inputs)
    assert str(graph) == str(loaded)
    plan = graph.plan(random=1)
    plan.check(loaded.groups)
    slim, expected = atograph.slim(graph, plan), atograph.slim(loaded, plan)
    shapes = {key: value.shape for key, value in slim.passes_program.state.items()}
    assert shapes == {key: value.shape for key, value in expected.passes_program.state.items()}
    assert (slim.flops, slim.params) == (expected.flops, expected.params)
    assert slim.params < graph.params or name == "written"
    assert all(value.is_meta for value in model.parameters())
    assert slim.module is None and "meta device" in slim.why_no_module


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_inputs_may_be_on_either_device(device: str) -> None:
    graph = atograph.trace(on_meta(decoder), tokens().to(device))
    assert str(graph) == str(atograph.trace(decoder(), tokens()))


def test_the_widths_of_llama_3_70b_need_no_memory() -> None:
    """Two layers of it; ``python -m benchmarks.llama_70b`` takes all eighty."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    graph = atograph.trace(on_meta(lambda: Decoder(replace(LLAMA_70B, layers=2))), tokens())
    plan = graph.plan(random=0, keep=0.5)
    slim = atograph.slim(graph, plan)
    assert graph.params == 2 * 128256 * 8192 + 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192) + 8192
    assert {group.size for group in graph.prunable} >= {8192, 8, 128, 28672}  # width, heads, values, hidden
    assert slim.flops == graph.cost.flops(plan.counts) < 0.5 * graph.flops
    assert slim.params == graph.cost.params(plan.counts)
    assert graph.smallest() < 0.1 * graph.flops
    assert slim.passes_program.state["layers.1.down.weight"].shape == (4096, 14336)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB; its weights take 15 GB
    assert time.process_time() - started < 30


class Chain(nn.Module):
    """Nothing but residual additions: as many as in a model of a hundred layers."""

    def __init__(self, blocks: int = 200) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)
        self.blocks = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


DEEP: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, list[int]]] = {
    # width and rotary pairs, shared by all layers; in each the query heads of its one key head, the values, the MLP
    "decoder": (
        lambda: Decoder(Sizes(width=16, heads=2, kv_heads=1, layers=24)), tokens(4), [16, 4] + 24 * [2, 8, 64]
    ),
    "chain": (Chain, torch.randn(2, 3), [16]),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", DEEP)
def test_a_deep_model_is_a_long_chain_and_no_recursion(name: str) -> None:
    """The width is bound through every residual addition, one axis to the next."""
    make, inputs, sizes = DEEP[name]
    graph = atograph.trace(on_meta(make), inputs)
    assert sorted(group.size for group in graph.prunable) == sorted(sizes)
    scores = {group.name: torch.rand(group.size) for group in graph.prunable}
    width = max(graph.prunable, key=lambda group: len(group.members))
    for plan in (graph.plan(random=0), graph.plan_from_scores(scores, flops=0.3)):
        slim = atograph.slim(graph, plan)
        assert slim.flops == graph.cost.flops(plan.counts) < 0.5 * graph.flops
        assert slim.params == graph.cost.params(plan.counts)
        shapes = [slim.passes_program.state[parameter].shape[dim] for parameter, dim in width.members]
        assert set(shapes) == {plan.counts[width.name]} and plan.counts[width.name] < 16


REFUSED: dict[str, tuple[Callable[[atograph.Graph], Any], str]] = {
    "plan by FLOPs": (lambda graph: graph.plan(flops=0.5), "a plan by magnitude needs"),
    "plan by parameters": (lambda graph: graph.plan(params=0.5), "a plan by magnitude needs"),
    "pass": (lambda graph: Pipeline((PlanMagnitude(0.5),)).run(graph.program), "a plan by magnitude needs"),
    "mask": (lambda graph: atograph.mask(graph.model, graph.plan(random=0)), "masking sets weights to zero"),  # type: ignore[type-var]
    "run": (lambda graph: atograph.slim(graph, graph.plan(random=0))(tokens()), "running a program needs"),
    "module": (lambda graph: atograph.slim(graph, graph.plan(random=0)).as_module()(tokens()), "running a program"),
    "double": (lambda graph: atograph.slim(graph, graph.plan(random=0)).double(), "running a program needs"),
    "save": (lambda graph: atograph.slim(graph, graph.plan(random=0)).save("nowhere"), "saving needs"),
    "onnx": (lambda graph: atograph.slim(graph, graph.plan(random=0)).to_onnx("nowhere.onnx"), "an ONNX file holds"),
    "compress": (lambda graph: atograph.compress(graph.model, [(tokens(), tokens())]), "training needs"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_values_is_refused(what: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    action, message = REFUSED[what]
    with pytest.raises(atograph.UserError, match=message) as refusal:
        action(atograph.trace(on_meta(decoder), tokens()))
    assert "embed.weight and " in str(refusal.value) or "norm" in str(refusal.value)
    assert "the model is on the meta device. Load the weights" in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_scores_of_ones_own_need_no_weights() -> None:
    graph = atograph.trace(on_meta(decoder), tokens())
    scores = {group.name: torch.rand(group.size) for group in graph.prunable}
    plan = graph.plan_from_scores(scores, flops=0.5)
    assert 0.3 * graph.flops < graph.cost.flops(plan.counts) <= 0.5 * graph.flops


def test_once_the_weights_are_loaded_everything_works() -> None:
    loaded, inputs = build("residual")
    with atograph.without_weights():
        model = type(loaded)().eval()
    graph = atograph.trace(model, inputs)
    model.load_state_dict(loaded.state_dict(), assign=True)
    plan = graph.plan(flops=0.5)
    assert plan == atograph.trace(loaded, inputs).plan(flops=0.5)
    masked = atograph.mask(loaded, plan)
    torch.testing.assert_close(atograph.slim(graph, plan)(inputs), masked(inputs))


def test_the_model_is_left_as_it_is() -> None:
    model = on_meta(Recurrent).train()
    before = [(name, id(value)) for name, value in model.named_parameters()]
    atograph.trace(model, torch.randn(2, 5, 4))
    assert [(name, id(value)) for name, value in model.named_parameters()] == before
    assert model.training and all(weight.is_meta for weight in model.layer._flat_weights)


def test_one_tensor_on_the_meta_device_is_named() -> None:
    model, inputs = build("plain")
    model.fc.bias = nn.Parameter(torch.empty(5, device="meta"))
    graph = atograph.trace(model, inputs)
    assert graph.plan(flops=0.5).kept  # the bias of the output is in no zeroing set
    with pytest.raises(atograph.UserError, match=r"but fc\.bias has none"):
        atograph.slim(graph, graph.plan(random=0))(inputs)


# -- modules made without weights --------------------------------------------------------------------------------------


def test_parameters_are_made_on_the_meta_device_and_buffers_are_not() -> None:
    with atograph.without_weights():
        model = Decoder(Sizes(tied=True))
        norm = nn.BatchNorm1d(3)
        lazy = nn.LazyLinear(4)
        frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        pair = nn.ParameterList([frozen, frozen])
    assert all(value.is_meta for value in [*model.parameters(), *norm.parameters(), *pair.parameters()])
    assert model.out.weight is model.embed.weight
    assert torch.equal(model.frequencies, decoder().frequencies)
    assert not norm.running_var.is_meta and float(norm.running_var.sum()) == 3  # type: ignore[union-attr,arg-type]
    assert pair[0] is pair[1] and not pair[0].requires_grad
    assert isinstance(lazy.weight, nn.parameter.UninitializedParameter)
    assert not nn.Linear(2, 2).weight.is_meta


def test_an_error_in_a_constructor_leaves_torch_as_it_was() -> None:
    before = nn.Module.register_parameter
    with pytest.raises(ZeroDivisionError), atograph.without_weights():
        nn.Linear(2, 1 // 0)
    assert nn.Module.register_parameter is before


# -- what takes long is logged -----------------------------------------------------------------------------------------


def test_stages_that_take_long_are_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build("plain")
    monkeypatch.setattr(stages, "LONG", 1e6)
    with caplog.at_level(logging.INFO, logger="atograph"):
        atograph.trace(model, inputs)
        assert not caplog.messages
        monkeypatch.setattr(stages, "LONG", 0.0)
        graph = atograph.trace(model, inputs)
        atograph.slim(graph, graph.plan(random=0))
    assert [message.partition(" ... ")[0] for message in caplog.messages] == [
        "capturing the model", "finding the groups", "slimming"
    ]  # fmt: skip
