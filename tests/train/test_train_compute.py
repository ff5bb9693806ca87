"""How steps are computed: mixed precision, channels last, compiled, gradients of several batches added up."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from fakes import blobs
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.slimming.index_map import small_module
from atograph.train import Task, Trained, TrainSettings, auto_train_once, dense_training
from atograph.train.compute import Compute, autocast
from atograph.train.processes.replicas import Alone

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.head = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Linear(12, 10)
        self.formats: set[tuple[torch.dtype, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.bn(self.conv1(x)).relu()).relu()
        if self.training and not torch.compiler.is_compiling():
            self.formats.add((y.dtype, y.is_contiguous(memory_format=torch.channels_last)))
        return self.head(y.mean((2, 3)))


class Small(nn.Module):
    """Few kernels to compile, each of which takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.compiled = list[bool]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.compiler.is_compiling():
            self.compiled.append(False)
        return self.head(self.hidden(x.flatten(1)).relu())


def trained(network: type[nn.Module] = Net, **options: Any) -> Trained[Any]:
    torch.manual_seed(0)
    model, data = network(), blobs(8)
    graph = atograph.trace(model, data[0][0][:2])
    settings = TrainSettings(flops=0.5, epochs=5, device="cpu", controller_min_steps=8, lr=0.05, **options)
    return auto_train_once(model, graph, Task(data, data[:2]), settings, shrink=partial(small_module, graph))


@pytest.fixture(scope="module")
def plain() -> Trained[Any]:
    return trained()


def close(run: Trained[Any], other: Trained[Any], atol: float) -> None:
    assert run.plan == other.plan and run.slim_from == other.slim_from is not None
    state = other.model.state_dict()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=atol, rtol=atol, msg=name)


def test_half_precision_computes_in_it_and_keeps_weights_in_float32(plain: Trained[Any]) -> None:
    run = trained(precision="bfloat16")
    assert {dtype for dtype, _last in run.model.formats} == {torch.bfloat16}
    assert all(value.dtype != torch.bfloat16 for value in run.model.state_dict().values())
    assert run.slim_from is not None, run.why_dense
    losses = [[row.loss for row in each.history] for each in (run, plain)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.2)


def test_float16_scales_the_loss() -> None:
    model, settings = nn.Linear(4, 2), TrainSettings(precision="float16", device="cpu")
    task = Task([], loss=lambda model, x: model(x).float().mean() / 10).within(autocast(settings, CPU))
    compute = Compute(task, settings, CPU, Alone())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.bias.detach().clone()
    loss = float(compute.gradients(model, optimizer, [torch.ones(3, 4)]))
    assert loss == pytest.approx(float(model(torch.ones(3, 4)).detach().mean()) / 10, abs=0.001)
    assert model.bias.grad is not None and model.bias.grad.tolist() == pytest.approx([0.05 * 2**16] * 2, rel=1e-2)
    compute.step(optimizer)
    torch.testing.assert_close(model.bias.detach(), before - 0.05, atol=1e-3, rtol=0)
    again = Compute(task, settings, CPU, Alone())
    again.load(compute.state())
    assert again.state() == compute.state()
    compute.gradients(model, optimizer, [torch.ones(3, 4)])
    model.bias.grad.fill_(float("inf"))
    compute.step(optimizer)
    torch.testing.assert_close(model.bias.detach(), before - 0.05, atol=1e-3, rtol=0)  # no step, and half the scale
    assert compute.state()["scale"] == again.state()["scale"] / 2


def test_channels_last(plain: Trained[Any]) -> None:
    run = trained(channels_last=True)
    assert {last for _dtype, last in run.model.formats} == {True}
    assert all(parameter.is_contiguous() for parameter in run.model.parameters())
    close(run, plain, 1e-4)


@pytest.mark.long
def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.simdlen", 1)  # without vectors, C++ compiles sooner
    run = trained(Small, compile=True)
    close(run, trained(Small), 1e-3)
    assert type(run.model) is Small and not run.model.compiled  # no step has run uncompiled


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such thing")

    from atograph.train import compute

    monkeypatch.setattr(compute.torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(UserError, match=r"torch.compile cannot compile this model: .*Leave out --compile"):
        trained(compile=True)


def test_two_batches_to_a_step_are_one_of_twice_the_size() -> None:
    """Without batch norm, whose statistics are those of a batch."""

    def run(data: list[Any], accumulate: int) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 10))
        model(data[0][0])
        settings = TrainSettings(epochs=2, device="cpu", accumulate=accumulate, lr=0.05)
        return dense_training(model, Task(data), settings)

    small = blobs(8)
    pairs = zip(small[::2], small[1::2], strict=True)
    large = [(torch.cat([x, x2]), torch.cat([y, y2])) for (x, y), (x2, y2) in pairs]
    first, second = run(large, 1), run(small, 2)
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert [row.loss for row in first.history] == pytest.approx([row.loss for row in second.history], rel=1e-4)


def test_a_last_step_of_fewer_batches() -> None:
    steps: list[int] = []
    data = blobs(5)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            steps.append(1)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model = nn.Sequential(nn.Flatten(), nn.Linear(data[0][0][0].numel(), 10))
    stepped = torch.optim.SGD(model.parameters(), lr=0.1)
    count: list[int] = []
    stepped.register_step_post_hook(lambda *_: count.append(1))
    task = Task(data, loss=loss, optimizer=lambda _parameters: stepped)
    dense_training(model, task, TrainSettings(epochs=2, device="cpu", accumulate=3))
    assert len(steps) == 10 and len(count) == 4


def test_a_device_without_mixed_precision_is_refused() -> None:
    with pytest.raises(UserError, match="no mixed precision on the device meta"):
        autocast(TrainSettings(precision="bfloat16"), torch.device("meta"))
