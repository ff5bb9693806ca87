"""The rest of a training in the slim module: the same weights as in the dense one, to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn

import atograph
from atograph.slimming.index_map import small_module
from atograph.train import Task, Trained, TrainSettings, auto_train_once
from atograph.train.diverged import Diverged
from atograph.train.processes.replicas import Alone
from atograph.train.progress import EpochRow, Silent
from atograph.train.pruning.swap import Swap

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Wide(nn.Module):
    """Its forward insists on a width, so it cannot be made slim."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        if x.shape[1] != 8:
            raise ValueError("there have to be 8 channels")
        return self.head(x.mean((2, 3)))


class Auxiliary(TwoConvs):
    """In training it has a second head, which the captured program does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.second(self.bn1(self.conv1(x)).relu().mean((2, 3))) if self.training else y


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                                    nn.Linear(16, 10))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Different(TwoConvs):
    """In training it computes with the number of its channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * len(self.bn1.weight) if self.training else y


def run(
    slim_at: str, make: Callable[[], nn.Module] = TwoConvs, task: Task | None = None, **options: Any
) -> Trained[Any]:
    torch.manual_seed(0)
    model = make().double()
    batches = [(x.double(), y) for x, y in blobs()]
    graph = atograph.trace(model, batches[0][0][:2])
    settings = TrainSettings(**{"flops": 0.4, "epochs": 6, "device": "cpu", "slim_at": slim_at} | options)
    task = task or Task(batches, batches[:2])
    return auto_train_once(model, graph, task, settings, shrink=partial(small_module, graph))


def same(first: Trained[Any], second: Trained[Any]) -> None:
    """Compare what stays; what goes touches nothing, and weight decay goes on to shrink it in the dense model."""
    assert first.plan == second.plan and first.metric_masked == second.metric_masked
    states = [small_module(atograph.trace(r.model, torch.randn(2, 1, 8, 8).double()), r.plan) for r in (first, second)]
    state = states[1].module.state_dict()
    for name, value in states[0].module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adamw"}, {"search_end": 0.4, "zero": 0.6, "round_to": 4}, {"epochs": 3}]
)
def test_kept_weights_agree_with_those_of_dense_training(options: dict[str, Any]) -> None:
    dense, slim = run("never", **options), run("zero", **options)
    assert dense.slim_from is None and slim.slim_from is not None and not slim.why_dense
    same(dense, slim)


def test_at_the_freeze_what_is_masked_is_zeroed_at_once() -> None:
    slim = run("search_end", search_end=0.4)
    assert slim.slim_from == pytest.approx(0.4, abs=0.05) and slim.history[2].zeroed == 1
    same(slim, run("never", search_end=0.4, zero=0.4))


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, momentum=0.9, centered=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, amsgrad=True),
        lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
    ],
)
def test_the_state_of_any_optimiser_is_cut_along(make: MakeOptimizer) -> None:
    batches = [(x.double(), y) for x, y in blobs()]
    results = [run(at, task=Task(batches, batches[:2], optimizer=make)) for at in ("never", "zero")]
    assert results[1].slim_from is not None
    same(*results)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Wide, "its forward keeps an old width: ValueError: there have to be 8 channels"),
        (Auxiliary, "in training, it fails: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (Different, "in training mode its code goes another way"),
    ],
)
def test_a_module_that_cannot_be_slim_is_trained_dense(make: Callable[[], nn.Module], why: str) -> None:
    result = run("zero", make)
    assert result.slim_from is None and why in result.why_dense
    dense = run("never", make).model.state_dict()
    assert all(torch.equal(value, dense[name]) for name, value in result.model.state_dict().items())


def test_an_optimiser_with_state_of_its_own_shape_trains_dense() -> None:
    batches = [(x.double(), y) for x, y in blobs()]
    task = Task(batches, batches[:2], optimizer=lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2))
    assert "Adafactor keeps a 'row_var' of a shape of its own" in run("zero", task=task).why_dense


def test_an_optimiser_that_looks_at_whole_matrices_trains_dense() -> None:
    """Muon makes the update of a matrix orthogonal: rows that are gone would have had a part in it."""
    batches = [(x.double(), y) for x, y in blobs()]
    muon = partial(torch.optim.Muon, lr=1e-2)
    task = Task(batches, batches[:2], optimizer=lambda parameters: muon([p for p in parameters if p.ndim == 2]))
    result = run("zero", Deep, task=task)
    assert result.slim_from is None
    assert "Muon looks at a parameter as a whole, so a slim one would be trained otherwise" in result.why_dense


def test_trying_the_optimiser_leaves_no_trace() -> None:
    stepped: list[int] = []

    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        torch.optim.lr_scheduler.ConstantLR(optimizer)  # puts a step of its own in the optimiser's place
        optimizer.register_step_post_hook(lambda *_: stepped.append(1))
        return optimizer

    batches = [(x.double(), y) for x, y in blobs()]
    result = run("zero", task=Task(batches, batches[:2], optimizer=make))
    assert result.slim_from is not None and len(stepped) == 6 * len(batches)
    same(result, run("never", task=Task(batches, batches[:2], optimizer=make)))


def test_the_slim_module_is_what_the_loss_gets_and_the_dense_one_what_the_user_keeps() -> None:
    seen: list[int] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(model, TwoConvs)
        seen.append(model.conv1.out_channels)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    batches = [(x.double(), y) for x, y in blobs()]
    result = run("zero", task=Task(batches, loss=loss))
    kept = len(result.plan.kept["g0"])
    assert seen[0] == 8 and seen[-1] == kept < 8
    assert isinstance(result.model, TwoConvs) and result.model.conv1.weight.shape[0] == 8


def test_a_loss_of_another_model_than_the_one_it_gets_trains_dense() -> None:
    """As of a file whose loss() uses a global variable."""
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(TwoConvs())
        return made[-1]

    batches = [(x.double(), y) for x, y in blobs()]
    task = Task(batches, loss=lambda _model, batch: nn.functional.cross_entropy(made[-1](batch[0]), batch[1]))
    result = run("zero", make, task)
    assert result.slim_from is None and result.why_dense == "the loss is not that of the model that it is given"


def test_a_run_that_diverges_in_the_slim_module_gives_the_last_good_weights() -> None:
    batches = [(x.double(), y) for x, y in blobs()]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        calls.append(0)
        return value * (float("nan") if model.training and len(calls) > 70 else 1.0)

    calls: list[int] = []
    with pytest.raises(Diverged, match="diverged with a loss of nan") as caught:
        run("zero", task=Task(batches, loss=loss), epochs=12)
    assert caught.value.weights["conv1.weight"].shape[0] == 8
    assert all(bool(value.isfinite().all()) for value in caught.value.weights.values())


class Heard(Silent):
    """What was told, and how many epochs were done before."""

    def __init__(self) -> None:
        self.done, self.told = 0, list[tuple[int, str]]()

    def epoch(self, row: EpochRow) -> None:
        self.done += 1

    def tell(self, text: str) -> None:
        self.told.append((self.done, text))


def reads_a_width(model: nn.Module, batch: Any) -> Tensor:
    penalty = (model.conv1.weight.flatten(1)[:, 0] * torch.ones(8, dtype=torch.double)).sum()  # type: ignore
    return nn.functional.cross_entropy(model(batch[0]), batch[1]) + 1e-3 * penalty


def refuses_copies(model: nn.Module, batch: Any) -> Tensor:
    if model.training and model is not refuses_copies.model:  # type: ignore[attr-defined]
        raise RuntimeError("not the model that I know")
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(("loss", "said"), [
    (reads_a_width, "in training, it fails: RuntimeError: The size of tensor a"),
    (refuses_copies, "the loss fails, with a copy of the dense module too: RuntimeError: not the model that I know"),
])  # fmt: skip
def test_a_loss_that_the_slim_module_cannot_have_is_told_at_once(loss: Any, said: str) -> None:
    torch.manual_seed(0)
    model, heard = TwoConvs().double(), Heard()
    refuses_copies.model = model  # type: ignore[attr-defined]
    graph = atograph.trace(model, blobs()[0][0][:2].double())
    batches = [(x.double(), y) for x, y in blobs()]
    settings = TrainSettings(flops=0.5, epochs=2, device="cpu", search_end=0.0, zero=0.0, controller=False,
                             controller_start=0.0, projection_start=0.0, prior="magnitude")  # fmt: skip
    result = auto_train_once(model, graph, Task(batches, loss=loss), settings, heard, partial(small_module, graph))
    ((before, text),) = heard.told
    assert before == 0 and said in text and "(raised at test_train_slim.py:" in text
    assert result.slim_from is None and said in result.why_dense


def test_a_metric_that_the_slim_module_cannot_have_is_told_before_it_is_measured() -> None:
    """A first state of the dense widths in validation batches, say: the dense module is trained and measured."""

    def metric(model: nn.Module, batch: Any) -> Tensor:
        return (model.conv1.weight.flatten(1)[:, 0] * torch.ones(8)).sum()  # type: ignore

    torch.manual_seed(0)
    model, heard = TwoConvs(), Heard()
    graph = atograph.trace(model, blobs()[0][0][:2])
    settings = TrainSettings(flops=0.5, epochs=2, device="cpu", search_end=0.0, zero=0.0, controller=False,
                             controller_start=0.0, projection_start=0.0, prior="magnitude")  # fmt: skip
    task = Task(blobs(), blobs()[:1], metric=metric)
    result = auto_train_once(model, graph, task, settings, heard, partial(small_module, graph))
    ((before, text),) = heard.told
    assert before == 0 and "validation, batch 1: the model or the metric rejects this batch" in text
    assert result.slim_from is None


def test_activations_that_are_recomputed_are_no_reason_to_fail() -> None:
    """Reentrant checkpoints refuse gradients of chosen tensors."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu()
            inner = lambda x: self.b(x).relu()  # noqa: E731
            x = torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=True) if self.training else inner(x)
            return self.c(x)

    data = [(torch.randn(4, 8), torch.arange(4)) for _ in range(3)]
    result = atograph.compress(Net(), data, flops=0.5, epochs=2, device="cpu")
    assert result.slim.module is not None and result.report.float64 is not None and result.report.float64 < 1e-9


def test_one_process_that_has_no_slim_module_keeps_all_of_them_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process could not make it: this one goes on as if it had not either."""
    totals: list[float] = []

    def total(_replicas: Alone, value: float) -> float:
        totals.append(value)
        return value + 1.0

    whole, swaps = run("never"), []
    original = Swap.to

    def to(self: Swap[Any], *args: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Alone, "total", total)
            original(self, *args)
        swaps.append(self.slim)

    monkeypatch.setattr(Swap, "to", to)
    dense = run("zero")
    assert totals == [0.0] and swaps == [False]
    assert dense.slim_from is None and dense.why_dense == "another process has none" and dense.plan == whole.plan
    for row, other in zip(whole.history, dense.history, strict=True):
        assert (row.loss, row.metric) == (other.loss, other.metric)
