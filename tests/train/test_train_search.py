"""The controller, the prior, the schedule, the settings and the pool of batches."""

from __future__ import annotations

import copy

import pytest
import torch
from fakes import TwoConvs, blobs, two_convs_graph
from pydantic import ValidationError
from torch import nn

import atograph
from atograph.passes.criteria.ranking import by_magnitude
from atograph.passes.errors import UserError
from atograph.train import auto_train_once
from atograph.train.ato.controller import Controller, _head, logistic_noise, straight_through
from atograph.train.ato.penalty import PenaltySearch
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.pool import Pool
from atograph.train.schedule import Clock, controller_interval, lr_factor, strength
from atograph.train.settings import TrainSettings
from atograph.train.task import Task

CPU = torch.device("cpu")


def search_of(model: TwoConvs, **options: object) -> PenaltySearch:
    graph = two_convs_graph()
    units = UnitMap(graph.prunable, model, CPU)
    return PenaltySearch(model, graph, Task(blobs(2)), units, TrainSettings(flops=0.4, **options))


def test_the_controller() -> None:
    controller = Controller((8, 16, 4), seed=1)
    assert controller().shape == (28,)
    gram = controller.inputs @ controller.inputs.T
    torch.testing.assert_close(gram, torch.eye(3), atol=1e-5, rtol=0)
    assert not any("inputs" in name for name, _ in controller.named_parameters())
    assert [head.bias for head in controller.heads] == [None] * 3
    assert torch.equal(Controller((8, 16, 4), seed=1)(), controller())


def test_the_controller_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Controller((8,), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_controller_of_a_language_model_stays_small() -> None:
    sizes = [
        4096,
        *[11008, 32, 128, 128] * 32,
    ]  # residual stream; hidden, heads and head dims of each block (Llama 2 7B)
    with torch.device("meta"):
        heads = [_head(size) for size in sizes]
    assert sum(p.numel() for head in heads for p in head.parameters()) < 0.01 * 6.7e9
    controller = Controller((2000, 8), seed=1)
    logits = controller()
    assert logits.shape == (2008,) and logits.std() > 0
    torch.autograd.grad(logits.sum(), list(controller.heads.parameters()))


def test_more_families_than_input_width() -> None:
    assert Controller([2] * 70, seed=0)().shape == (140,)


def test_the_noise_is_logistic() -> None:
    noise = logistic_noise(200_000, torch.Generator().manual_seed(0))
    assert abs(noise.mean()) < 0.02 and noise.var() == pytest.approx(torch.pi**2 / 3, rel=0.02)


def test_straight_through() -> None:
    logits = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
    mask = straight_through(logits, 0.4)
    torch.testing.assert_close(mask.detach(), torch.tensor([0.0, 1.0, 1.0]))
    mask.sum().backward()
    soft = (logits.detach() / 0.4).sigmoid()
    torch.testing.assert_close(logits.grad, soft * (1 - soft) / 0.4)


def test_the_prior_ranks_within_and_across_families() -> None:
    model = TwoConvs()
    with torch.no_grad():
        model.conv1.weight.copy_(torch.arange(1.0, 9).reshape(8, 1, 1, 1).expand_as(model.conv1.weight))
        model.conv2.weight.mul_(100)  # a scale that one family has does not matter
    units = UnitMap(two_convs_graph().prunable, model, CPU)
    first, second = units.split(by_magnitude(units)).values()
    assert first.argsort().tolist() == list(range(8))
    assert second.std() < first.std() and abs(second.mean()) < 0.1


def test_the_search_starts_at_the_priors_plan() -> None:
    search = search_of(TwoConvs(), controller=False)
    mask = search.units.mask_of(search.plan())
    assert torch.equal(mask.bool(), search.scores() >= 0)
    share = two_convs_graph().cost.flops({n: int(m.sum()) for n, m in search.units.split(mask).items()})
    assert share <= 0.4 * two_convs_graph().flops


def test_without_a_prior_all_start_at_the_offset() -> None:
    search = search_of(TwoConvs(), prior="none")
    assert search.prior.unique().tolist() == [3.0]


def test_a_step_changes_the_controller_and_nothing_else() -> None:
    model = TwoConvs().train()
    search = search_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = search.scores()
    search.step(blobs(1)[0])
    assert not torch.equal(search.scores(), scores) and len(search.losses) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_steps_move_the_flops_to_the_target() -> None:
    """Without a prior the mask starts from all ones, and the penalty brings it down."""
    torch.manual_seed(0)
    graph, search = two_convs_graph(), search_of(TwoConvs(), prior="none", controller_lr=0.01)

    def share() -> float:
        kept = {name: int((part > 0).sum()) for name, part in search.units.split(search.scores()).items()}
        return graph.cost.flops(kept) / graph.flops

    assert share() == 1
    for batch in blobs(60):
        search.step(batch)
    assert share() < 0.6


def test_a_step_on_a_loss_that_is_not_finite_is_skipped() -> None:
    search = search_of(TwoConvs())
    scores = search.scores()
    search.step((torch.full((2, 1, 8, 8), float("nan")), torch.zeros(2, dtype=torch.long)))
    assert torch.equal(search.scores(), scores) and not search.losses


def test_a_budget_out_of_reach() -> None:
    graph = two_convs_graph()
    units = UnitMap(graph.prunable, model := TwoConvs(), CPU)
    with pytest.raises(UserError, match="out of reach"):
        PenaltySearch(model, graph, Task(blobs(1)), units, TrainSettings(flops=0.4, floor=0.9)).plan()


def test_the_clock() -> None:
    clock = Clock(epochs=4, steps_per_epoch=10)
    assert [clock.fraction(0, 0), clock.fraction(1, 5), clock.fraction(3, 0)] == [0.0, 0.375, 0.75]
    assert clock.fraction(3, 12) < 1  # more steps than promised
    assert clock.steps_between(0.25, 0.5) == 10
    unknown = Clock(4, None)
    assert unknown.fraction(0, 7) == 0.125 and unknown.steps_between(0, 1) is None


def test_the_rate() -> None:
    settings = TrainSettings(warmup=0.1)
    assert [lr_factor(settings, t) for t in (0.05, 0.1, 0.55, 1.0)] == pytest.approx([0.5, 1, 0.5, 0])
    assert lr_factor(settings, 0.0) > 0
    assert lr_factor(TrainSettings(lr_schedule="constant"), 0.9) == 1
    assert lr_factor(TrainSettings(warmup=0.0), 0.0) == 1


def test_the_strength() -> None:
    settings = TrainSettings(projection_start=0.2, search_end=0.4, zero=0.6)
    assert [strength(settings, t) for t in (0.1, 0.3, 0.4, 0.5, 0.6)] == pytest.approx(
        [0, 10, 100, 316.2, 1000], rel=1e-3
    )


def test_the_controllers_interval() -> None:
    settings = TrainSettings(controller_start=0.1, search_end=0.3)
    assert controller_interval(settings, Clock(100, 1000)) == 20
    assert controller_interval(settings, Clock(10, 200)) == 10
    assert controller_interval(settings, Clock(10, 2)) == 1
    assert controller_interval(settings, Clock(10, None)) == 20


@pytest.mark.parametrize(
    "bad",
    [
        {"flops": 0}, {"flops": 1.1}, {"epochs": 0}, {"seed": -1}, {"unknown": 1}, {"lr": float("inf")},
        {"search_end": 0.9, "zero": 0.5}, {"controller_start": 0.5}, {"projection_start": 0.9}, {"optimizer": "lion"},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises((ValidationError, UserError)):
        TrainSettings(**bad)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        TrainSettings().flops = 0.1  # type: ignore[misc]


def test_the_pool_spreads_over_the_warm_up() -> None:
    settings = TrainSettings(controller_start=0.5, controller_batches=3, zero=0.6, search_end=0.5)
    pool = Pool(Task([]), settings, Clock(2, 12), CPU)
    for number in range(12):
        pool.offer(torch.tensor(number))
    assert [int(batch) for batch in pool.batches] == [0, 4, 8]
    assert [int(pool.take(None)) for _ in range(4)] == [0, 4, 8, 0]


def test_the_pool_of_validation_data() -> None:
    settings = TrainSettings(controller_data="val", controller_batches=2)
    pool = Pool(Task([], blobs(3)), settings, Clock(2, 12), CPU)
    pool.offer(torch.tensor(1))
    assert len(pool.batches) == 2 and len(pool.take(None)) == 2


def test_an_empty_pool_gives_the_current_batch() -> None:
    assert Pool(Task([]), TrainSettings(), Clock(2, 12), CPU).take("now") == "now"


def test_the_controller_works_at_the_budget_that_is_exceeded_most() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    graph = atograph.trace(model, torch.randn(2, 1, 8, 8))
    task = Task([(torch.randn(4, 1, 8, 8), torch.arange(4))])
    for budgets in ({"flops": 0.2, "params": 0.9}, {"flops": 0.9, "params": 0.2}, {"params": 0.3}):
        settings = TrainSettings(**budgets, epochs=3, device="cpu")
        result = auto_train_once(copy.deepcopy(model), graph, task, settings)
        kept = graph.budgets(**budgets).kept(result.plan.counts)
        assert all(kept[what] <= share for what, share in budgets.items())
        used = graph.budgets(**budgets).used({name: torch.tensor(4.0, requires_grad=True) for name in ("g0", "g1")})
        assert isinstance(used, torch.Tensor) and used.requires_grad
