"""A loop of one's own: who holds the parameters, before and after the slim module takes the dense one's place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import atograph
from atograph.passes.errors import UserError

STEPS = 20
BATCHES = blobs(4, 8)
X = BATCHES[0][0][:2]
Optimizers = list[torch.optim.Optimizer]


def sgd(parameters: Iterable[nn.Parameter], lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def started(optimizer: Any, net: nn.Module, **options: Any) -> atograph.AutoTrainOnce:
    return atograph.AutoTrainOnce(net, X, **{"steps": STEPS, "flops": 0.4, "optimizer": optimizer} | options)


def run(
    ato: atograph.AutoTrainOnce,
    optimizers: Iterable[Any],
    *,
    steps: int = STEPS,
    model: Callable[[], nn.Module] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    after: Callable[[], object] = lambda: None,
) -> None:
    for step in range(steps):
        x, y = BATCHES[step % len(BATCHES)]

        def loss_fn(module: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
            return loss(module(x), y)

        ato.controller_step(loss_fn)
        for each in optimizers:
            each.zero_grad()
        loss_fn(ato.model if model is None else model()).backward()
        for each in optimizers:
            each.step()
        ato.project(lr=0.05)
        after()


def check(ato: atograph.AutoTrainOnce, dense: nn.Module) -> atograph.Slim:
    """The dense module is masked exactly, and the slim one computes what it does."""
    slim, x = ato.finish(), torch.randn(3, 1, 8, 8)
    assert slim.flops <= 0.4 * ato.graph.flops
    torch.testing.assert_close(slim(x), dense.eval()(x), rtol=1e-4, atol=1e-5)
    masked = atograph.mask(dense, slim.plan)
    assert all(torch.equal(value, masked.state_dict()[name]) for name, value in dense.state_dict().items())
    return slim


class Wrapped:
    """A trainer's wrapper: it hands everything on."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


def _in_two(net: TwoConvs) -> Optimizers:
    first = [*net.conv1.parameters(), *net.bn1.parameters(), *net.bn2.parameters()]
    return [sgd(first), torch.optim.AdamW([*net.conv2.parameters(), *net.head.parameters()], lr=1e-3)]


@pytest.mark.parametrize(
    ("make", "wrap"),
    [(_in_two, list), (_in_two, tuple), (lambda net: [sgd(net.parameters())], lambda each: Wrapped(Wrapped(each[0])))],
    ids=["list", "tuple", "wrapped twice"],
)
def test_all_optimisers_follow_the_slim_module(make: Callable[[TwoConvs], Optimizers], wrap: Any) -> None:
    torch.manual_seed(0)
    net = TwoConvs()
    optimizers = make(net)
    ato = started(wrap(optimizers), net)
    run(ato, optimizers)
    assert ato.model is not net and not ato.why_dense
    held = {parameter for each in optimizers for group in each.param_groups for parameter in group["params"]}
    assert held == set(ato.model.parameters())
    check(ato, net)


def test_the_wrapper_of_accelerate_is_looked_through() -> None:
    accelerate = pytest.importorskip("accelerate")
    torch.manual_seed(0)
    net, accelerator = TwoConvs(), accelerate.Accelerator(cpu=True)
    optimizer = accelerator.prepare(sgd(net.parameters()))
    ato = started(optimizer, net)
    run(ato, [optimizer])
    assert ato.model is not net and not ato.why_dense
    check(ato, net)


def test_what_holds_a_part_only_is_refused() -> None:
    net = TwoConvs()
    with pytest.raises(
        UserError, match=r"holds 3 of the 8 parameters .*: conv1.weight and 4 others .*optimizer=\[a, b\]"
    ):
        started(_in_two(net)[1], net)
    with pytest.raises(UserError, match="holds parameters that are not the model's"):
        started(sgd(copy.deepcopy(net).parameters()), net)
    with pytest.raises(UserError, match="a torch optimiser or a list of them, not a str"):
        started([sgd(net.parameters()), "adam"], net)
    net.head.requires_grad_(False)  # what is frozen need not be held
    started(sgd(p for p in net.parameters() if p.requires_grad), net)
    with pytest.raises(UserError, match="no parameter that requires a gradient"):
        started(sgd(net.parameters()), net.requires_grad_(False))


def test_parameters_of_the_loss_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    net, scale = TwoConvs(), nn.Parameter(torch.ones(()))
    optimizer = sgd([*net.parameters(), scale])
    ato = started(optimizer, net)
    run(ato, [optimizer], loss=lambda logits, y: F.cross_entropy(scale * logits, y))
    assert ato.model is not net and scale in set(optimizer.param_groups[0]["params"]) and float(scale.detach()) != 1
    check(ato, net)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loop_that_trains_the_dense_module_on_is_refused_at_its_first_step(compiled: bool) -> None:
    torch.manual_seed(0)
    net = TwoConvs()
    trained, optimizer = torch.compile(net, backend="eager") if compiled else net, sgd(net.parameters())
    ato = started(optimizer, net)
    with pytest.raises(UserError, match="goes on to train the dense model, and the slim module has taken its place"):
        run(ato, [optimizer], model=lambda: trained)
    assert ato.done == 9  # of 20: the step after 45 %


def test_a_loop_that_looks_at_both_modules_goes_on() -> None:
    torch.manual_seed(0)
    net = TwoConvs()
    optimizer = sgd(net.parameters())
    ato = started(optimizer, net)

    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ato.model(x) + 0 * net(x)

    run(ato, [optimizer], model=Both)
    assert ato.model is not net
    ato.finish()


def test_more_steps_than_announced_keep_the_mask() -> None:
    torch.manual_seed(0)
    net = TwoConvs()
    optimizer = sgd(net.parameters())
    ato = started(optimizer, net, steps=12)
    with pytest.warns(UserWarning, match="was to make 12 steps, and goes on") as caught:
        run(ato, [optimizer], steps=16)
    assert len([each for each in caught if "goes on" in str(each.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check(ato, net)


def _noise(net: nn.Module) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01)


def _assigned(net: nn.Module) -> None:
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()}, assign=True)


@pytest.mark.parametrize("move", [_noise, _assigned])
@pytest.mark.parametrize("slim_at", ["never", "zero"])
def test_what_moved_is_masked_again(move: Callable[[nn.Module], None], slim_at: str) -> None:
    torch.manual_seed(0)
    net = TwoConvs()
    optimizer = sgd(net.parameters())
    ato = started(optimizer, net, slim_at=slim_at)
    run(ato, [optimizer])
    move(ato.model)
    moved = ato.model.state_dict()["head.bias"].clone()
    slim = check(ato, net)
    assert torch.equal(slim.passes_program.state["head.bias"], moved)
    move(net)
    check(ato, net)  # an average that is put in after that, too


def test_an_average_follows_the_swap() -> None:
    torch.manual_seed(0)
    net = TwoConvs()
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    swaps: list[tuple[nn.Module, nn.Module]] = []

    def on_swap(dense: nn.Module, slim: nn.Module) -> None:
        swaps.append((dense, slim))
        average = copy.deepcopy(slim)
        average.load_state_dict(ato.cut(ema.module.state_dict()))
        ema.module = average

    optimizer = sgd(net.parameters())
    ato = started(optimizer, net, on_swap=on_swap)
    with pytest.raises(UserError, match="the mask is not final yet"):
        ato.cut(net.state_dict())
    run(ato, [optimizer], after=lambda: ema.update_parameters(ato.model))
    ((dense, slim_module),) = swaps
    assert dense is net and slim_module is ato.model
    with pytest.raises(
        UserError, match=r"conv1.weight has the shape \[\d, 1, 3, 3\], and the dense model's is \[8, 1, 3, 3\]"
    ):
        ato.cut(ato.model.state_dict())
    ato.model.load_state_dict(ema.module.state_dict())
    slim, x = check(ato, net), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(ema.module.eval()(x), slim(x), rtol=1e-4, atol=1e-5)


def test_an_average_follows_each_of_several_swaps() -> None:
    """With progressive tightening the slim module is exchanged again and again; what `cut` takes is of the last one."""
    torch.manual_seed(0)
    net = TwoConvs()
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    widths: list[int] = []

    def on_swap(dense: nn.Module, slim: nn.Module) -> None:
        assert dense is net
        average = copy.deepcopy(slim)
        average.load_state_dict(ato.cut(ema.module.state_dict()))
        ema.module = average
        widths.append(sum(value.numel() for value in slim.parameters()))

    optimizer = sgd(net.parameters())
    ladder = {
        "method": "progressive", "tighten_start": 0.1, "tighten_end": 0.6, "tighten_steps": 4, "slim_apart": 1,
    }  # fmt: skip
    ato = started(optimizer, net, on_swap=on_swap, **ladder)
    with pytest.raises(UserError, match="the mask is not final yet"):
        ato.cut(net.state_dict())
    run(ato, [optimizer], after=lambda: ema.update_parameters(ato.model))
    assert len(widths) == 4 and widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    ato.model.load_state_dict(ema.module.state_dict())
    slim, x = check(ato, net), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(ema.module.eval()(x), slim(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [3, 9, 16])
def test_a_loop_with_several_swaps_goes_on_from_its_state(stop: int) -> None:
    """Bit for bit, within the ladder and behind it."""
    ladder = {
        "method": "progressive", "tighten_start": 0.1, "tighten_end": 0.6, "tighten_steps": 4, "slim_apart": 1,
    }  # fmt: skip

    def begin() -> tuple[nn.Module, torch.optim.Optimizer, atograph.AutoTrainOnce]:
        torch.manual_seed(0)
        net = TwoConvs()
        optimizer = sgd(net.parameters())
        return net, optimizer, started(optimizer, net, **ladder)

    def steps(ato: atograph.AutoTrainOnce, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            x, y = BATCHES[step % len(BATCHES)]
            ato.controller_step(lambda module, x=x, y=y: F.cross_entropy(module(x), y))
            optimizer.zero_grad()
            F.cross_entropy(ato.model(x), y).backward()
            optimizer.step()
            ato.project(lr=0.05)

    whole, optimizer, ato = begin()
    steps(ato, optimizer, 0, STEPS)
    expected = ato.finish().plan
    net, optimizer, ato = begin()
    steps(ato, optimizer, 0, stop)
    ato.sync()
    saved = copy.deepcopy((net.state_dict(), ato.state_dict(), optimizer.state_dict()))
    net, optimizer, ato = begin()
    net.load_state_dict(saved[0])
    ato.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    steps(ato, optimizer, stop, STEPS)
    assert ato.finish().plan == expected
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_state_of_another_budget_is_refused() -> None:
    first = started(sgd((net := TwoConvs()).parameters()), net, flops=0.9, method="progressive")
    second = started(sgd((other := TwoConvs()).parameters()), other, flops=0.3, method="progressive")
    with pytest.raises(UserError, match=r"of another training: its flops was 0\.9, and is 0\.3"):
        second.load_state_dict(first.state_dict())


@pytest.mark.parametrize("how", ["module.compile()", "torch.compile(module)", "a part"])
def test_a_compiled_module_is_traced_and_trained(how: str) -> None:
    torch.manual_seed(0)
    net: Any = TwoConvs()
    handed: Any = net
    if how == "module.compile()":
        net.compile(backend="eager")
    elif how == "a part":
        net.bn1 = torch.compile(net.bn1, backend="eager")
    else:
        handed = torch.compile(net, backend="eager")
    optimizer = sgd(net.parameters())
    ato = started(optimizer, handed)
    assert ato.model is handed
    run(ato, [optimizer])
    assert ato.model is not handed and not ato.why_dense
    check(ato, net)
    run_once = handed(X)  # what torch.compile keeps in the module's file is still there
    assert torch.isfinite(run_once).all()


@pytest.mark.parametrize("in_training", [True, False])
def test_spectral_norm_comes_back_as_a_module(in_training: bool) -> None:
    """A weight that is looked at in training mode makes a step of the power iteration."""
    torch.manual_seed(0)
    net = nn.Sequential(
        spectral_norm(nn.Conv2d(1, 8, 3, padding=1)), nn.ReLU(), spectral_norm(nn.Conv2d(8, 8, 3)), nn.ReLU(),
        nn.Flatten(), spectral_norm(nn.Linear(288, 10)),
    )  # fmt: skip
    graph = atograph.trace(net.train(in_training), X)
    slim = atograph.slim(graph, graph.plan(random=0))
    assert slim.module is not None, slim.why_no_module
    torch.testing.assert_close(slim.module.eval()(X), slim(X), rtol=1e-4, atol=1e-5)
