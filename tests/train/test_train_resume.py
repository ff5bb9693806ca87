"""A run that goes on after it was killed ends as one that never was: bit for bit."""

from __future__ import annotations

import random
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import atograph
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import fingerprint
from atograph.slimming.index_map import small_module
from atograph.train import Task, Trained, TrainSettings, auto_train_once
from atograph.train.ato.pruner import Pruner
from atograph.train.pruning.pool import Pool
from atograph.train.saved.checkpoints import Checkpoints, newest
from atograph.train.schedule import Clock


class Noisy(nn.Module):
    """It draws from every generator while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.drop = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Dropout(0.2)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x * (1 + 0.1 * random.random()) + 0.1 * float(np.random.rand())
        y = self.conv2(self.bn(self.conv1(x)).relu()).relu()
        return self.head(self.drop(y.mean((2, 3))))


class Killed(BaseException):
    """The process is gone."""


class EveryThird(Checkpoints):
    """Checkpoints by the number of steps, so that a test knows where they are."""

    asked = 0

    def due(self) -> bool:
        self.asked += 1
        return self.asked % 3 == 0

    def save(self, epoch: int, step: int, state: Any) -> None:
        if not isinstance(sys.exception(), Killed):  # who is gone saves nothing
            super().save(epoch, step, state)


SETTINGS = TrainSettings(flops=0.5, epochs=5, device="cpu", controller_min_steps=8)


def run(
    folder: Path | None,
    settings: TrainSettings = SETTINGS,
    kill_at: int | None = None,
    by: type[BaseException] = Killed,
    own_generator: bool = False,
    scale: nn.Parameter | None = None,
) -> Trained[Any]:
    torch.manual_seed(settings.seed)
    model = Noisy()
    x, y = (torch.cat(parts) for parts in zip(*blobs(6), strict=True))
    generator = torch.Generator().manual_seed(5) if own_generator else None
    loader = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True, generator=generator)
    calls: list[None] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            calls.append(None)
        logits = model(batch[0])
        if len(calls) == kill_at:
            raise by("the user's code")
        return nn.functional.cross_entropy(logits if scale is None else scale * logits, batch[1])

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([*parameters, *([] if scale is None else [scale])], lr=0.1, momentum=0.9)

    graph = atograph.trace(model, x[:2])
    identity = {"settings": settings.model_dump(), "groups": fingerprint(graph.groups)}
    return auto_train_once(
        model,
        graph,
        Task(loader, blobs(2, seed=1), loss=loss, optimizer=None if scale is None else optimizer),
        settings,
        shrink=partial(small_module, graph),
        checkpoints=None if folder is None else EveryThird(folder, identity, seconds=0),
    )


def same(first: Trained[Any], second: Trained[Any]) -> None:
    assert first.plan == second.plan and first.slim_from == second.slim_from is not None
    state = second.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())
    rows = ([replace(row, seconds=0.0) for row in result.history] for result in (first, second))
    assert next(rows) == next(rows)
    assert (first.metric_dense, first.metric_before_zeroing) == (second.metric_dense, second.metric_before_zeroing)


@pytest.fixture(scope="module")
def whole() -> Trained[Any]:
    return run(None)


@pytest.mark.parametrize("kill_at", [2, 7, 9, 14, 16, 20, 22, 35, 40])
@pytest.mark.long
def test_a_killed_run_ends_as_a_whole_one(tmp_path: Path, whole: Trained[Any], kill_at: int) -> None:
    """In the warm-up, the search, the projection, after the search, and in the slim module."""
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=kill_at)
    same(run(tmp_path / "saved"), whole)


@pytest.mark.long
@pytest.mark.parametrize("fail_at", [2, 9, 14, 19, 22, 35])
def test_a_run_that_fails_goes_on_from_its_last_whole_step(tmp_path: Path, whole: Trained[Any], fail_at: int) -> None:
    """After a forward that moved statistics and drew numbers: in the warm-up, the search, and in the slim module."""
    by = (ValueError, KeyboardInterrupt)[fail_at % 2]
    with pytest.raises((UserError, KeyboardInterrupt)):
        run(tmp_path / "saved", kill_at=fail_at, by=by)
    epoch, step = newest(tmp_path / "saved") or (0, 0)
    tried = 0 if fail_at < 19 else 2  # the slim module is tried beside the dense one
    assert epoch * 8 + step == fail_at - 1 - tried
    same(run(tmp_path / "saved"), whole)


@pytest.mark.long
@pytest.mark.parametrize(("name", "call"), [
    ("before_step", 3), ("before_step", 12), ("before_step", 16), ("before_step", 18), ("after_step", 1),
    ("after_step", 8), ("after_step", 16), ("after_step", 30), ("finish", 1),
])  # fmt: skip
def test_an_interrupt_waits_until_what_changes_is_whole(
    tmp_path: Path, whole: Trained[Any], monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    """In the search, where it ends, where the slim module is made, where the masked weights are zeroed, at the end."""
    own, calls = getattr(Pruner, name), list[None]()

    def interrupted(self: Pruner, *args: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return own(self, *args)

    monkeypatch.setattr(Pruner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "saved")
    epoch, step = newest(tmp_path / "saved") or (0, 0)
    done = {"before_step": call - 1, "after_step": call, "finish": 40}[name]
    assert epoch * 8 + step == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    same(run(tmp_path / "saved"), whole)


def test_parameters_of_the_loss_go_on_as_well(tmp_path: Path) -> None:
    scales = [nn.Parameter(torch.ones(())) for _ in range(3)]
    whole = run(None, scale=scales[0])
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=22, scale=scales[1])
    same(run(tmp_path / "saved", scale=scales[2]), whole)
    assert torch.equal(scales[2], scales[0]) and float(scales[0].detach()) != 1


def test_a_run_that_is_killed_again_and_again(tmp_path: Path, whole: Trained[Any]) -> None:
    deaths, finished = 0, None
    while finished is None:
        try:
            finished = run(tmp_path / "saved", kill_at=7)
        except Killed:
            deaths += 1
    assert deaths > 5
    same(finished, whole)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw"},
        {"controller_data": "val"},
        {"slim_at": "search_end"},
        {"controller_search": "budget", "controller_masked": 0.5, "controller": "auto"},
    ],
)
def test_with_other_settings(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update=options)
    with pytest.raises(Killed):
        run(tmp_path / "saved", settings, kill_at=25, own_generator=True)
    same(run(tmp_path / "saved", settings, own_generator=True), run(None, settings, own_generator=True))


@pytest.mark.long
@pytest.mark.parametrize("fail_at", [9, 10, 11, 12])
def test_a_step_under_a_mask_is_one_again(tmp_path: Path, fail_at: int) -> None:
    """Where the user's code fails in it, and the run goes on from before it."""
    settings = SETTINGS.model_copy(update={"controller_search": "budget", "controller_masked": 0.5})
    with pytest.raises(UserError):
        run(tmp_path / "saved", settings, kill_at=fail_at, by=ValueError)
    same(run(tmp_path / "saved", settings), run(None, settings))


def test_the_last_two_stay_and_hold_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=14)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == [
        f"saved/{name}/{file}"
        for name in ("000001-00000000", "000001-00000003")
        for file in ("state.json", "tensors.safetensors")
    ]


def test_another_run_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=9)
    with pytest.raises(UserError, match=r"of another run: settings was .*--force"):
        run(tmp_path / "saved", SETTINGS.model_copy(update={"flops": 0.6}))


def damage(folder: Path, file: str, content: bytes | None) -> None:
    for path in folder.rglob(file):
        path.write_bytes(path.read_bytes()[:100] if content is None else content)


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"format": "atograph checkpoint 1"}', b"\xff" * 64])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, file: str, content: bytes | None) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=9)
    damage(tmp_path, file, content)
    with pytest.raises(UserError, match="this checkpoint cannot be read"):
        run(tmp_path / "saved")


def test_a_checkpoint_of_which_some_bytes_have_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=9)
    for path in tmp_path.rglob("tensors.safetensors"):
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="cannot be read: its tensors are not those that were written"):
        run(tmp_path / "saved")


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path, whole: Trained[Any]) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "saved", kill_at=9)
    (tmp_path / "saved" / ".DS_Store").write_text("of the Finder")
    same(run(tmp_path / "saved"), whole)
    assert (tmp_path / "saved" / ".DS_Store").exists()


def test_what_no_checkpoint_can_hold_is_said(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path / "saved", {}, seconds=0)
    with pytest.raises(UserError, match="holds a set, which no checkpoint can hold"):
        saved.save(0, 1, {"batch": {1, 2}})
    assert not (tmp_path / "saved").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "saved", {}, seconds=0).save(0, 1, {})


def test_batches_that_no_checkpoint_can_hold_are_left_out() -> None:
    task = Task([])
    pool = Pool(task, TrainSettings(), Clock(1, 100), torch.device("cpu"))
    pool.batches = [(torch.ones(2), np.ones(2)), [torch.ones(2), {"text": "a", "length": 1}]]
    assert pool.state()["batches"] == pool.batches[1:]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "nested": [1, 2.5, None, True, "text", (float("inf"), {3: "three"})],
        "tensors": {"t": torch.arange(6).reshape(2, 3).t(), "empty": torch.empty(0), "scalar": torch.tensor(2.0)},
    }
    saved = Checkpoints(tmp_path, {"a": [1]}, seconds=0)
    saved.save(2, 3, state)
    found = saved.load()
    assert found is not None and found["nested"] == state["nested"]
    for name, value in state["tensors"].items():
        assert torch.equal(found["tensors"][name], value) and found["tensors"][name].dtype == value.dtype
    saved.clear()
    assert saved.load() is None


class Replaced(nn.Module):
    """Buffers that are not saved, that ``forward`` replaces, and that cannot be written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 12, 3, padding=1), nn.Linear(12, 10)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.register_buffer("ids", torch.arange(4).reshape(1, 4).expand(3, 4))
        self.mask = nn.Parameter(torch.full((3,), -torch.inf), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
            self.count += 0.01
        return self.head((self.conv(x) + self.count).relu().mean((2, 3)))


def run_replaced(folder: Path | None, slim_at: str = "zero", kill_at: int | None = None) -> Trained[Any]:
    torch.manual_seed(0)
    model, data, calls = Replaced(), Numbers(blobs(6)), []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.extend([None] * model.training)
        if len(calls) == kill_at:
            raise Killed
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    settings = SETTINGS.model_copy(update={"slim_at": slim_at})
    graph = atograph.trace(model, blobs(1)[0][0][:2])
    return auto_train_once(
        model, graph, Task(data, blobs(2, seed=1), loss=loss), settings, shrink=partial(small_module, graph),
        checkpoints=None if folder is None else EveryThird(folder, {}, seconds=0),
    )  # fmt: skip


class Numbers:
    """Batches in an order that generators of Python's and of numpy's draw."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.python, self.numpy = batches, random.Random(0), np.random.default_rng(0)
        self.old = np.random.RandomState(0)

    def __iter__(self) -> Any:
        for index in self.python.sample(range(len(self.batches)), len(self.batches)):
            x, y = self.batches[index]
            yield x + float(self.numpy.normal()) / 10 + float(self.old.rand()) / 10, y

    def __len__(self) -> int:
        return len(self.batches)


def test_buffers_that_are_replaced_are_those_of_the_dense_training() -> None:
    slim, dense = run_replaced(None), run_replaced(None, "never")
    assert slim.slim_from is not None
    for name in ("mean", "count", "ids", "mask"):
        torch.testing.assert_close(getattr(slim.model, name), getattr(dense.model, name))


@pytest.mark.parametrize("kill_at", [4, 14, 23, 29])
def test_all_generators_and_buffers_go_on(tmp_path: Path, kill_at: int) -> None:
    whole = run_replaced(None)
    with pytest.raises(Killed):
        run_replaced(tmp_path / "saved", kill_at=kill_at)
    again = run_replaced(tmp_path / "saved")
    same(again, whole)
    assert torch.equal(again.model.count, whole.model.count)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_named_tuples_keep_their_names(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path / "saved", {}, seconds=0)
    saved.save(0, 1, {"batch": Pair(torch.ones(2), torch.zeros(1))})
    found = saved.load()
    assert found is not None
    assert torch.equal(found["batch"].x, torch.ones(2)) and found["batch"]._fields == ("x", "y")


def resumed_with(folder: Path, make: Any, model: nn.Module | None = None, batches: int = 6) -> None:
    """Go on with another optimiser, model or amount of data than the run was started with."""
    model = model or TwoConvs()
    graph = atograph.trace(model, torch.zeros(2, 1, 8, 8))
    task = Task(blobs(batches), optimizer=make)
    auto_train_once(model, graph, task, SETTINGS, checkpoints=EveryThird(folder, {}, seconds=0))


class Extra(TwoConvs):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"make": lambda p: torch.optim.SGD(p, 0.1)},
            "optimiser was torch.optim.adam.Adam, and is torch.optim.sgd",
        ),
        ({"make": lambda p: torch.optim.Adam([{"params": p[:1]}, {"params": p[1:]}])}, "different number of parameter"),
        ({"model": Extra()}, "the checkpoint is of another training: "),
        ({"batches": 2}, "train_data: has fewer batches than when the run was started: epoch 1 was at step 3"),
    ],
    ids=["optimiser", "groups", "model", "data"],
)
def test_what_has_changed_since_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    calls = iter(range(1000))

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters)

    def killed(model: nn.Module, batch: Any) -> Tensor:
        if model.training and next(calls) == 4:
            raise Killed
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model = TwoConvs()
    graph = atograph.trace(model, torch.zeros(2, 1, 8, 8))
    with pytest.raises(Killed):
        auto_train_once(
            model, graph, Task(blobs(6), loss=killed, optimizer=adam), SETTINGS,
            checkpoints=EveryThird(tmp_path, {}, seconds=0),
        )  # fmt: skip
    with pytest.raises(UserError, match="Resume with what the run was started with") as raised:
        resumed_with(tmp_path, **{"make": adam, **change})
    assert message in str(raised.value)
