"""Auto-Train-Once in a loop of one's own."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError

EPOCHS, BATCHES = 6, 8


class Loop:
    """As a user would write it."""

    def __init__(self, *, with_optimizer: bool = True, **settings: Any) -> None:
        torch.manual_seed(0)
        self.dense = TwoConvs()
        self.batches = blobs(BATCHES)
        self.optimizer = torch.optim.SGD(self.dense.parameters(), lr=0.1, momentum=0.9)
        self.ato = atograph.AutoTrainOnce(
            self.dense, self.batches[0][0][:2], steps=EPOCHS * BATCHES,
            optimizer=self.optimizer if with_optimizer else None, **{"flops": 0.4} | settings,
        )  # fmt: skip

    def run(self, steps: int = EPOCHS * BATCHES) -> None:
        for _ in range(steps):
            x, y = self.batches[self.ato.done % BATCHES]

            def loss_fn(model: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
                return nn.functional.cross_entropy(model(x), y)

            self.ato.controller_step(loss_fn)
            self.ato.model.train()
            self.optimizer.zero_grad()
            loss_fn(self.ato.model).backward()
            self.optimizer.step()
            self.ato.project(lr=self.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_loop_ends_with_a_slim_model_that_equals_the_masked_one(with_optimizer: bool) -> None:
    loop = Loop(with_optimizer=with_optimizer)
    loop.run()
    assert (loop.ato.model is not loop.dense) == with_optimizer and not loop.ato.why_dense
    slim = loop.ato.finish()
    assert loop.ato.model is loop.dense and 0.3 < slim.flops / loop.ato.graph.flops <= 0.4
    assert loop.ato.flops_share == pytest.approx(slim.flops / loop.ato.graph.flops)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(slim(x), loop.dense.eval()(x))
    masked = atograph.mask(loop.dense, slim.plan)
    torch.testing.assert_close(masked.eval()(x), loop.dense(x), rtol=0, atol=0)
    assert slim.flops == loop.ato.finish().flops


def test_the_controller_says_when_it_learns() -> None:
    loop = Loop(controller_min_steps=0, controller_interval=4)
    learned = []
    for _ in range(EPOCHS * BATCHES):
        before = loop.ato.done
        x, y = loop.batches[before % BATCHES]
        if loop.ato.controller_step(lambda model, x=x, y=y: nn.functional.cross_entropy(model(x), y)) is not None:
            learned.append(before)
        loop.ato.project(0.0)
    assert learned == [5, 9, 13]  # from 10 % of 48 steps to 35 %


@pytest.mark.parametrize("killed_at", [3, 10, 18, 30])
def test_a_loop_goes_on_from_its_state(killed_at: int) -> None:
    whole = Loop()
    whole.run()
    first = Loop()
    first.run(killed_at)
    first.ato.sync()
    saved = io.BytesIO()
    state = first.ato.state_dict()
    torch.save([first.dense.state_dict(), first.optimizer.state_dict(), state], saved)
    saved.seek(0)
    second = Loop()
    weights, optimizer, ato = torch.load(saved, weights_only=True)
    second.dense.load_state_dict(weights)
    second.ato.load_state_dict(ato)
    second.ato._pruner.pool.batches = first.ato._pruner.pool.batches  # functions, which no file holds
    second.optimizer.load_state_dict(optimizer)
    second.run(EPOCHS * BATCHES - killed_at)
    assert second.ato.finish().plan == whole.ato.finish().plan
    state = whole.dense.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in second.dense.state_dict().items())


def test_what_does_not_fit_is_refused() -> None:
    model, x = TwoConvs(), torch.randn(2, 1, 8, 8)
    with pytest.raises(UserError, match="one step or more, not 0"):
        atograph.AutoTrainOnce(model, x, steps=0)
    with pytest.raises(UserError, match=r"no training setting .flop.\. Perhaps flops"):
        atograph.AutoTrainOnce(model, x, steps=10, flop=0.3)
    with pytest.raises(UserError, match="out of reach"):
        atograph.AutoTrainOnce(model, x, steps=10, flops=0.001)
    loop = Loop()
    loop.run()
    loop.ato.finish()
    with pytest.raises(UserError, match="the training is finished"):
        loop.ato.controller_step(lambda model: model(x).sum())


def test_steps_are_begun_and_ended_in_turn() -> None:
    loop = Loop()
    with pytest.raises(UserError, match=r"controller_step\(loss_fn\) was not called before this step"):
        loop.ato.project(0.1)
    loop.ato.controller_step(lambda model: model(loop.batches[0][0]).sum())
    with pytest.raises(UserError, match=r"project\(lr\) was not called after the last step"):
        loop.ato.controller_step(lambda model: model(loop.batches[0][0]).sum())


def test_an_end_before_its_time_is_told() -> None:
    loop = Loop()
    loop.run(20)
    with pytest.warns(UserWarning, match="ended after 20 of 48 steps, so what is masked is set to zero at once"):
        loop.ato.finish()


def test_a_state_that_does_not_fit_is_refused() -> None:
    loop = Loop()
    with pytest.raises(UserError, match="this is no state of AutoTrainOnce"):
        loop.ato.load_state_dict({"a": 1})
    loop.run(30)
    loop.ato.sync()
    state, optimizer = loop.ato.state_dict(), loop.optimizer.state_dict()
    other = Loop()
    other.optimizer.load_state_dict(optimizer)  # of the slim module, which is not there yet
    with pytest.raises(UserError, match="Load in this order: the dense model's weights, AutoTrainOnce's state"):
        other.ato.load_state_dict(state)
