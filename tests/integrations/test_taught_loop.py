"""A teacher and averaged weights in a loop of one's own."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.train import Task, auto_train_once, dense_training
from atograph.train.settings import settings_of
from atograph.values.eval_mode import copy_of

EPOCHS, BATCHES = 6, 8
STEPS = EPOCHS * BATCHES


@pytest.fixture(scope="module")
def start() -> TwoConvs:
    """What a training begins with: a network that was trained before."""
    torch.manual_seed(0)
    model = TwoConvs().double()
    dense_training(model, Task(batches()), settings_of({"epochs": 4, "device": "cpu", "lr": 0.05}))
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(x.double(), y) for x, y in blobs(BATCHES)]


class Taught:
    """A loop as a user would write it."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        self.dense, self.batches = copy_of(model), batches()
        self.optimizer = torch.optim.SGD(self.dense.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        options = {"flops": 0.5, "method": "progressive", "epochs": EPOCHS, **settings}
        self.ato = atograph.AutoTrainOnce(
            self.dense, self.batches[0][0][:2], steps=STEPS, optimizer=self.optimizer, **options
        )

    def run(self, steps: int = STEPS, *, asks: bool = True) -> None:
        for _ in range(steps):
            x, y = batch = self.batches[self.ato.done % BATCHES]

            def loss_fn(model: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
                return nn.functional.cross_entropy(model(x), y)

            self.ato.controller_step(loss_fn)
            self.ato.model.train()
            self.optimizer.zero_grad()
            (self.ato.loss(loss_fn, batch) if asks else loss_fn(self.ato.model)).backward()
            self.optimizer.step()
            self.ato.project(lr=self.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("method", ["ato", "progressive"])
def test_a_loop_learns_what_compress_does(start: TwoConvs, method: str) -> None:
    """The same steps with a teacher, its hidden states and an average give the same slim model."""
    given: dict[str, Any] = {
        "flops": 0.5, "method": method, "epochs": EPOCHS, "distill": True, "distill_hidden": 0.5, "ema": 0.9,
        "controller": False,
    }  # fmt: skip
    loop = Taught(start, **given)
    loop.run()
    with loop.ato.averaged():
        measured = loop.ato.model.eval()(loop.batches[0][0]).detach()
    slim = loop.ato.finish()
    torch.testing.assert_close(slim(loop.batches[0][0]), measured, rtol=1e-9, atol=1e-12)
    model = copy_of(start)
    graph = atograph.trace(model, loop.batches[0][0][:2])
    rates = {"lr": 0.05, "lr_schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "device": "cpu"}
    from functools import partial

    from atograph.slimming.index_map import small_module

    run = auto_train_once(
        model, graph, Task(loop.batches, loop.batches), settings_of({**given, **rates}),
        shrink=partial(small_module, graph),
    )  # fmt: skip
    assert run.plan == slim.plan
    expected = atograph.slim(graph, run.plan).module
    assert expected is not None and slim.module is not None
    for name, value in slim.module.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-9, atol=1e-12)


def test_without_a_batch_outputs_are_numbers(start: TwoConvs) -> None:
    loop = Taught(start, distill=True, distill_weight=1.0)
    x, y = loop.batches[0]
    loop.ato.controller_step(lambda model: nn.functional.cross_entropy(model(x), y))
    noisy = nn.functional.cross_entropy
    for batch in (None, (x, y)):
        with torch.no_grad():
            loop.ato.model.head.weight += 0.01
        found = loop.ato.loss(lambda model: noisy(model.eval()(x), y), batch).detach()
        given, wanted = loop.ato.model(x).detach(), start.eval()(x).detach()
        p, q = (wanted / 2).log_softmax(1), (given / 2).log_softmax(1)
        kl = 4 * (p.exp() * (p - q)).sum(1).mean()
        squared = (given - wanted).square().mean() / wanted.var(correction=0)
        torch.testing.assert_close(found, squared if batch is None else kl)


def test_a_loop_that_does_not_ask_its_teacher_is_refused(start: TwoConvs) -> None:
    with pytest.raises(UserError, match="the loss of this step was computed without it") as error:
        Taught(start, distill=True).run(1, asks=False)
    assert "ato.loss(loss_fn, batch)" in (error.value.hint or "")
    Taught(start).run(1)  # without a teacher it is the loss


@pytest.mark.parametrize("killed_at", [3, 12, 30])
@pytest.mark.long
def test_a_loop_goes_on_with_its_average_and_its_teacher(start: TwoConvs, killed_at: int) -> None:
    options = {"distill": True, "distill_hidden": 0.5, "ema": 0.9}
    whole = Taught(start, **options)
    whole.run()
    first = Taught(start, **options)
    first.run(killed_at)
    first.ato.sync()
    saved = io.BytesIO()
    torch.save([first.dense.state_dict(), first.optimizer.state_dict(), first.ato.state_dict()], saved)
    saved.seek(0)
    weights, optimizer, ato = torch.load(saved, weights_only=True)
    second = Taught(start, **options)
    second.dense.load_state_dict(weights)
    second.ato.load_state_dict(ato)
    second.optimizer.load_state_dict(optimizer)
    second.run(STEPS - killed_at)
    assert second.ato.finish().plan == whole.ato.finish().plan
    state = whole.dense.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in second.dense.state_dict().items())


def test_a_state_of_another_teacher_is_refused(start: TwoConvs) -> None:
    loop = Taught(start, distill=True)
    loop.run(20)
    loop.ato.sync()
    state = loop.ato.state_dict()
    with pytest.raises(UserError, match="the teacher is another network") as error:
        Taught(loop.dense, distill=True).ato.load_state_dict(state)
    assert "as it came" in (error.value.hint or "")
    with pytest.raises(UserError, match="it was made with distill"):
        Taught(start).ato.load_state_dict(state)
    with pytest.raises(UserError, match="it was made without ema"):
        Taught(start, distill=True, ema=0.9).ato.load_state_dict(state)
    Taught(start, teacher=start).ato.load_state_dict(state)


def test_a_teacher_that_was_never_trained_is_told_of(start: TwoConvs) -> None:
    with pytest.warns(UserWarning, match="never trained, and teaches noise then: give it trained weights"):
        Taught(TwoConvs().double(), distill=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Taught(start, distill=True)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [(lambda x: x, "not a torch.nn.Module"), (TwoConvs().to("meta"), "needs the values of its weights")],
)
def test_what_is_no_teacher_is_refused(start: TwoConvs, teacher: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Taught(start, teacher=teacher)


def test_a_loop_that_hands_over_what_is_no_number_is_told(start: TwoConvs) -> None:
    """The loop may not look at its loss; the warning stands at the line of the loop."""
    loop = Taught(start)
    loop.run()
    with torch.no_grad():
        next(loop.ato.model.parameters()).fill_(torch.nan)
    with pytest.warns(UserWarning, match=r"not finite any more \(conv1.weight, .* has diverged") as caught:
        loop.ato.finish()
    assert [each.filename for each in caught] == [__file__]
