"""What no state dict holds follows a training: numbers in attributes, hooks on gradients, what optimisers get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import blobs
from runs import command
from torch import Tensor, nn

import atograph
from atograph.passes.torch_private import FakeTensorMode
from atograph.values.attributes import Attributes, changed, marks_of

X = torch.randn(4, 1, 8, 8)


class Annealed(nn.Module):
    """A network with a temperature: in its forward, or set from outside."""

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)
        self.head, self.tau, self.alone = nn.Linear(16, 10), 1.0, alone

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.alone:
            self.tau = max(0.2, self.tau * 0.95)
        return self.head(torch.relu(self.b(torch.relu(self.bn(self.a(x))))).mean((2, 3))) / self.tau


def test_values_are_found_compared_and_put() -> None:
    model = nn.Sequential(Annealed(), nn.ReLU())
    model[0].tables = {"centre": torch.zeros(2), 3: [1.5, torch.ones(2)]}
    model[0].fake = FakeTensorMode().from_tensor(torch.ones(2))  # it has no values, and nothing may ask for them
    attributes, before = Attributes(model), marks_of(model)
    assert "0.fake" not in before
    assert before["0.tau"].value == 1.0 and "training" not in before and "0.tables.3.1" in before
    assert changed(before, attributes.values()) == {}
    model[0].tau, model[0].tables["centre"] = float("nan"), torch.zeros(2)  # another tensor of the same values
    assert [*changed(before, attributes.values())] == ["0.tau"]
    model[0].tables["centre"] = model[0].tables["centre"] + 1
    model[0].tables[3][1].add_(1)
    assert {*changed(before, attributes.values())} == {"0.tau", "0.tables.centre", "0.tables.3.1"}
    assert changed(marks_of(model), attributes.values()) == {}
    attributes.put({"0.tau": 0.5, "0.a.weight": 3, "0.none": 1, "9.tau": 2, "0.training": True, "0.alone": "yes"})
    attributes.put({"0.tables.3.0": 2.5, "0.tables.centre": torch.zeros(3), "0.tables.3.1": torch.zeros(2)})
    assert model[0].tau == 0.5 and isinstance(model[0].a.weight, nn.Parameter) and model[0].alone is False
    assert model[0].tables[3][0] == 2.5 and model[0].tables[3][1].sum() == 0 and model[0].tables["centre"].sum() == 2


def loop(net: nn.Module, each: Callable[[atograph.AutoTrainOnce, int], None], **options: Any) -> atograph.AutoTrainOnce:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    data = blobs(5) * 4
    ato = atograph.AutoTrainOnce(net, X, steps=len(data), flops=0.5, optimizer=optimizer, **options)
    for step, (inputs, targets) in enumerate(data):

        def loss(model: nn.Module, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            return nn.functional.cross_entropy(model(inputs), targets)

        each(ato, step)
        ato.controller_step(loss)
        optimizer.zero_grad()
        loss(ato.model).backward()
        optimizer.step()
        ato.project(lr=0.1)
    return ato


@pytest.mark.parametrize("where", ["the dense model", "the model that is trained", "its forward"])
@pytest.mark.parametrize("late", [True, False])
def test_a_temperature_follows_in_a_loop(where: str, late: bool) -> None:
    torch.manual_seed(0)
    net = Annealed(alone=where == "its forward")

    def anneal(ato: atograph.AutoTrainOnce, step: int) -> None:
        if where == "its forward" or (late and step < 12):
            return
        model = net if where == "the dense model" else ato.model
        assert isinstance(model, Annealed)
        model.tau = 1.0 - 0.04 * step

    ato = loop(net, anneal)
    last, y = ato.model.eval(), torch.randn(3, 1, 8, 8)
    assert last is not net
    expected = last(y)
    slim = ato.finish()
    assert net.tau < 0.5 and slim.module is not None and slim.module.tau == net.tau
    for model in (net.eval(), slim, slim.module.eval()):
        torch.testing.assert_close(model(y), expected, rtol=1e-4, atol=1e-4)


SPEC = """
import torch
from torch import nn
from fakes import blobs
from test_attributes import Annealed


def model():
    return Annealed(alone=True)


def train_data():
    return blobs(4)


def val_data():
    return blobs(2, seed=1)
"""


def test_a_run_hands_over_and_verifies_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    (tmp_path / "net.py").write_text(SPEC)
    code, output = command("compress", tmp_path / "net.py", "--flops", 0.5, "--epochs", 6, "--out", tmp_path / "run")
    assert code == 0 and '"tau": 0.2' in (tmp_path / "run" / "report.json").read_text(), output
    code, output = command("verify", tmp_path / "run", "--trust-spec")
    assert code == 0 and output.count(" equal") == 6, output


@pytest.mark.long
def test_a_run_that_goes_on_has_the_numbers_of_the_first(tmp_path: Path) -> None:
    calls = 0

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += model.training
        if calls == 12 and model.training:
            raise ValueError("stopped")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def run(**options: Any) -> float:
        torch.manual_seed(0)
        net = Annealed(alone=True)
        options |= {"val_data": blobs(1, seed=1), "flops": 0.5, "epochs": 4, "loss": loss}
        atograph.compress(net, blobs(4), **options)
        return net.tau

    with pytest.raises(atograph.UserError, match="stopped"):
        run(out=tmp_path / "run")
    resumed = run(out=tmp_path / "run", resume=True)
    calls = 100
    assert resumed == run() < 1.0


class Scaled(Annealed):
    """A running scale of each channel, in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(torch.relu(self.bn(self.a(x))))).mean((2, 3))
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * y.detach().mean(0)
        return self.head(y * self.scale)


def test_a_plain_tensor_that_is_trained_and_cut_keeps_the_dense_module() -> None:
    torch.manual_seed(0)
    net = Scaled()
    ato = loop(net, lambda ato, step: None)
    assert ato.model is net and "scale" in ato.why_dense and "register it as a buffer" in ato.why_dense
    expected, y = net.eval(), torch.randn(3, 1, 8, 8)
    slim = ato.finish()
    torch.testing.assert_close(slim(y), expected(y), rtol=1e-4, atol=1e-4)
    assert len(slim.module.scale) < 16  # type: ignore[union-attr, arg-type]


def test_rows_that_a_hook_keeps_stay(recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)
    net = Annealed()
    rows = net.head.weight.detach()[:5].clone()

    def keep(grad: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(grad[:5]), grad[5:]])

    net.head.weight.register_hook(keep)
    ato = loop(net, lambda ato, step: None, weight_decay=0.0, only=("b",))
    assert ato.model is net and "head.weight has a hook on its gradient" in ato.why_dense
    ato.finish()
    assert torch.equal(net.head.weight[:5], rows)


def test_weights_that_are_loaded_into_the_dense_model_are_handed_over() -> None:
    torch.manual_seed(0)
    net, kept = Annealed(), {}

    def keep(ato: atograph.AutoTrainOnce, step: int) -> None:
        if step == 16:
            ato.sync()
            kept.update({name: value.clone() for name, value in net.state_dict().items()})

    ato = loop(net, keep)
    assert ato.model is not net and kept
    net.load_state_dict(kept)
    y = torch.randn(3, 1, 8, 8)
    expected = net.eval()(y)
    torch.testing.assert_close(ato.finish()(y), expected, rtol=1e-4, atol=1e-4)


def test_statistics_that_are_frozen_stay_in_a_run() -> None:
    torch.manual_seed(0)
    net = Annealed().train()
    net.bn.eval()
    mean = net.bn.running_mean
    assert mean is not None
    result = atograph.compress(net, blobs(3), flops=0.6, epochs=3)
    assert result.report.slim_from is not None and net.training and not net.bn.training
    assert mean.abs().sum() == 0 and result.slim.module.bn.running_mean.abs().sum() == 0  # type: ignore[union-attr, operator]


def test_a_layer_that_is_thawed_after_the_swap_is_trained() -> None:
    torch.manual_seed(0)
    net = Annealed()
    net.head.requires_grad_(False)
    before = net.head.bias.detach().clone()

    def thaw(ato: atograph.AutoTrainOnce, step: int) -> None:
        if step == 14:
            assert ato.model is not net
            net.head.requires_grad_(True)
            ato._loop.optimizers[0].add_param_group({"params": list(net.head.parameters())})

    ato = loop(net, thaw)
    ato.finish()
    assert not torch.equal(net.head.bias, before)


class Own(torch.optim.SGD):
    """Keeps a momentum in an attribute."""

    def __init__(self, parameters: Any, how: str) -> None:
        super().__init__(parameters, lr=0.1)
        self.how, held = how, [p for group in self.param_groups for p in group["params"]]
        zeros = [torch.zeros_like(p) for p in held]
        self.held: Any = zeros if how == "list" else dict(zip(held, zeros, strict=True))


@pytest.mark.parametrize("how", ["list", "dict"])
def test_an_optimiser_that_remembers_elsewhere_is_not_tried(how: str) -> None:
    net = Annealed()
    optimizer = Own(net.parameters(), how)
    ato = atograph.AutoTrainOnce(net, X, steps=4, flops=0.5, optimizer=optimizer, controller=False)
    for inputs, targets in blobs(4):

        def loss(model: nn.Module, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            return nn.functional.cross_entropy(model(inputs), targets)

        ato.controller_step(loss)
        optimizer.zero_grad()
        loss(ato.model).backward()
        optimizer.step()
        ato.project(lr=0.1)
    assert ato.model is net and "keeps tensors in an attribute of its own ('held')" in ato.why_dense
