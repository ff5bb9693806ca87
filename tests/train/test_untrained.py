"""Parameters that do not require gradients: they stay, unless one says otherwise, and count for nothing but that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn

import atograph
from atograph.passes.criteria.ranking import log_scores
from atograph.passes.criteria.taylor import Taylor
from atograph.passes.errors import UserError
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.scoring import gradients_of

X = torch.randn(2, 1, 8, 8)
WEIGHTS = {"conv1.weight", "conv2.weight", "down.weight", "base.weight"}


class Adapted(nn.Module):
    """A layer of fixed weights with an adapter of low rank, as in LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(64, 32), nn.Linear(64, 8, bias=False), nn.Linear(8, 32, bias=False)
        self.head = nn.Linear(32, 10)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head((self.base(x) + self.up(self.down(x))).relu())


def _first_conv() -> nn.Module:
    net = TwoConvs()
    net.conv1.requires_grad_(False)
    return net


def _reader() -> nn.Module:
    """What reads a group's units belongs to it as well."""
    net = TwoConvs()
    net.head.requires_grad_(False)
    return net


def _none() -> nn.Module:
    return TwoConvs().requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "frozen", "prunable"),
    [
        (_first_conv, "conv1.weight", {"conv2.weight"}),
        (_reader, "head.weight", {"conv1.weight"}),
        (Adapted, "base.weight", {"down.weight"}),
        (_none, "", {"conv1.weight", "conv2.weight"}),
        (TwoConvs, "", {"conv1.weight", "conv2.weight"}),
    ],
)
def test_they_and_their_groups_stay_as_they_are(make: Callable[[], nn.Module], frozen: str, prunable: set[str]) -> None:
    graph = atograph.trace(make(), X)
    steered = graph.steered(trained_only=True)
    assert {name for group in steered.prunable for name, _dim in group.makers if name in WEIGHTS} == prunable
    reasons = {str(group.frozen) for group in steered.groups if group.frozen is not None and group.frozen.wish}
    assert reasons == ({f"{frozen} does not require gradients (prune_frozen prunes it as well)"} if frozen else set())


@pytest.mark.parametrize("way", ["a run", "a loop"])
def test_who_freezes_a_layer_finds_it_as_it_was(way: str) -> None:
    torch.manual_seed(0)
    net = _first_conv()
    assert isinstance(net, TwoConvs)
    before, batches = net.conv1.weight.clone(), blobs(2, 8)
    if way == "a run":
        slim = atograph.compress(net, batches, epochs=2, flops=0.6).slim
    else:
        optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.1)
        ato = atograph.AutoTrainOnce(net, X, steps=10, flops=0.6, optimizer=optimizer)
        for step in range(10):
            x, y = batches[step % 2]
            loss = lambda model, x=x, y=y: nn.functional.cross_entropy(model(x), y)  # noqa: E731
            ato.controller_step(loss)
            optimizer.zero_grad()
            loss(ato.model).backward()
            optimizer.step()
            ato.project(0.1)
        assert ato.model is not net
        slim = ato.finish()
    assert torch.equal(net.conv1.weight, before) and slim.module is not None
    assert torch.equal(slim.module.get_parameter("conv1.weight"), before)
    assert not slim.module.get_parameter("conv1.weight").requires_grad
    assert slim.module.get_parameter("conv2.weight").shape[0] < 16


def test_they_are_pruned_where_one_says_so() -> None:
    net = _first_conv()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for prune_frozen, groups in ((False, 1), (True, 2)):
        optimizer = torch.optim.SGD(trained, lr=0.1)
        ato = atograph.AutoTrainOnce(net, X, steps=4, flops=0.8, optimizer=optimizer, prune_frozen=prune_frozen)
        assert len(ato.graph.prunable) == groups
    with pytest.raises(UserError, match="1 group whole that could be pruned"):
        atograph.AutoTrainOnce(net, X, steps=4, flops=0.1)


def test_a_model_without_anything_to_train_or_to_prune_is_refused() -> None:
    net = _none()
    with pytest.raises(UserError, match="no parameter that requires a gradient"):
        atograph.AutoTrainOnce(net, X, steps=4, flops=0.5, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    for norm in ("bn1", "bn2"):
        net.get_submodule(norm).requires_grad_(True)
    with pytest.raises(UserError, match=r"nothing that can be pruned.*prune_frozen=True"):
        atograph.AutoTrainOnce(net, X, steps=4, flops=0.5, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))


def test_a_missing_gradient_is_not_a_worth_of_zero() -> None:
    """Of two branches the loss has used one: the units of the other are ranked by their norms."""
    torch.manual_seed(0)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(64, 6), nn.Linear(64, 6)
            self.heads = nn.ModuleList([nn.Linear(6, 10), nn.Linear(6, 10)])

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.flatten(1)
            return self.heads[0](self.used(x).relu()), self.heads[1](self.unused(x).relu())

    net = Branches()
    with torch.no_grad():
        net.unused.weight[0] *= 10
        net.unused.weight[1] *= 0.1
    units = UnitMap(atograph.trace(net, X).prunable, net, torch.device("cpu"))
    taylor = Taylor(units)
    taylor.seen.memory = 4
    for _ in range(2):
        net(torch.randn(8, 1, 8, 8))[0].square().mean().backward()
        taylor.observe(gradients_of(units.parameters))
    assert taylor.seen.mean is not None
    unused = taylor.seen.mean.isnan()
    assert int(unused.sum()) == 6
    scores = log_scores(taylor, torch.ones(units.total))
    assert bool(scores.isfinite().all())
    of_unused = scores[unused]
    assert int(of_unused.argmax()) == 0 and int(of_unused.argmin()) == 1
    assert float(of_unused.median()) > float(scores[~unused].min())  # not all of them go first
    before = taylor.seen.mean[~unused].clone()
    net.zero_grad(set_to_none=True)
    net(torch.randn(8, 1, 8, 8))[1].square().mean().backward()  # now the other one
    taylor.observe(gradients_of(units.parameters))
    assert torch.equal(taylor.seen.mean[~unused], before) and bool(taylor.seen.mean[unused].isfinite().all())
