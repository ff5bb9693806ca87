"""A metric over all of the validation data, and what a metric of the user's keeps in its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.spec.spec import load_spec
from atograph.train.task import Task

_CPU = torch.device("cpu")


class MeanRecall:
    """The mean over classes of the share found of each: not the mean of any batches'."""

    def __init__(self) -> None:
        self.measured = 0
        self.reset()

    def reset(self) -> None:
        self.right, self.all = torch.zeros(2), torch.zeros(2)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        right = outputs.argmax(1) == targets
        for which in range(2):
            self.right[which] += (right & (targets == which)).sum()
            self.all[which] += (targets == which).sum()

    def compute(self) -> Tensor:
        self.measured += 1
        return (self.right / self.all.clamp(min=1)).mean()


class ByModel(MeanRecall):
    def update(self, model: nn.Module, batch: Any) -> None:  # type: ignore[override]
        super().update(model(batch[0]), batch[1])


class Fixed(nn.Module):
    """Gives back its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _uneven() -> list[tuple[Tensor, Tensor]]:
    """Class 0: 1 of 1 and 0 of 3 right; class 1: 2 of 2. Mean recall 0.625; the mean over batches is 0.4 to 0.5."""
    one, two = torch.eye(2)
    return [
        (torch.stack([one, two, two]), torch.tensor([0, 1, 1])),
        (torch.stack([two, two, two]), torch.tensor([0, 0, 0])),
    ]


@pytest.mark.parametrize("metric", [MeanRecall(), MeanRecall, ByModel(), ByModel])
def test_it_is_of_the_whole_data(metric: Any) -> None:
    task = Task(_uneven(), _uneven(), metric=metric)
    for _ in range(2):  # it is reset each time
        assert task.evaluate(Fixed(), _uneven(), _CPU) == pytest.approx(0.625)
    assert task.metric_name == (metric if isinstance(metric, type) else type(metric)).__name__
    assert task.check(Fixed(), _CPU) == 3
    assert task.evaluate(Fixed(), None, _CPU) is task.evaluate(Fixed(), [], _CPU) is None


def test_every_process_sees_all_of_it() -> None:
    task = Task(_uneven(), _uneven(), metric=MeanRecall())
    half = task.on(lambda data, _even: list(data)[:1])
    assert len(list(half.train_data)) == 1 and len(list(half.val_data or ())) == 2


@pytest.mark.parametrize(("attribute", "value", "said"), [
    ("compute", lambda: {"a": 1}, r"compute\(\) must return one number or None"),
    ("compute", lambda: 1 / 0, r"the metric's compute\(\) fails: ZeroDivisionError.*test_dataset_metric.py"),
    ("update", lambda outputs, targets: outputs + torch.ones(77), "the model or the metric rejects this batch"),
])  # fmt: skip
def test_what_is_wrong_is_told(attribute: str, value: Any, said: str) -> None:
    metric = MeanRecall()
    setattr(metric, attribute, value)
    with pytest.raises(UserError, match=said):
        Task(_uneven(), metric=metric).evaluate(Fixed(), _uneven(), _CPU)


def test_without_targets_it_takes_the_batch_itself() -> None:
    with pytest.raises(UserError, match="needs targets") as error:
        Task([], metric=MeanRecall()).evaluate(Fixed(), [torch.eye(2)], _CPU)
    assert error.value.hint is not None and "update(self, model, batch)" in error.value.hint


def test_those_of_torchmetrics_are_some(torchvision: None) -> None:
    classification = pytest.importorskip("torchmetrics.classification", reason="torchmetrics is not installed")
    recall = classification.MulticlassRecall(num_classes=2, average="macro")
    task = Task(_uneven(), _uneven(), metric=recall)
    assert task.evaluate(Fixed(), _uneven(), _CPU) == pytest.approx(0.625)
    assert task.metric_name == "MulticlassRecall"


def test_all_forms_are_measured_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    data = blobs(2)
    result = atograph.compress(
        TwoConvs(), data, val_data=data, metric=MeanRecall, flops=0.6, epochs=1, method="magnitude"
    )
    metrics = result.report.metrics
    assert metrics.name == "MeanRecall" and metrics.masked is not None
    assert metrics.masked == pytest.approx(metrics.slim) == pytest.approx(metrics.onnx)
    assert "the metric differs" not in capsys.readouterr().err


def test_a_metric_that_never_forgets_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    calls = list[int]()

    def growing(model: nn.Module, batch: Any) -> float:
        calls.append(1)
        return float(len(calls))

    data = blobs(1)
    atograph.compress(TwoConvs(), data, val_data=data, metric=growing, flops=0.6, epochs=1, method="magnitude")
    assert "the metric differs between forms of one network" in capsys.readouterr().err


_FILE = """
import torch
from torch import nn

READ, SEEN, COUNT, CACHE = [], [], 0, {}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.calls = nn.Linear(4, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.head(x)

def model(): return Net()

def train_data(): return [(torch.randn(2, 4), torch.tensor([0, 1]))] * 2

class Reader:
    def __iter__(self):
        for batch in train_data():
            READ.append(1)
            yield batch

def val_data(): return Reader()

def metric(model, batch):
    global COUNT
    COUNT += 1
    SEEN.append(float(model(batch[0]).sum()))
    return 0.5
"""


def test_what_metric_and_reader_keep_in_their_file_stays(tmp_path: Path) -> None:
    (tmp_path / "remembering.py").write_text(_FILE)
    spec = load_spec(str(tmp_path / "remembering.py"))
    module, model = spec.module, spec.model()
    task = Task(spec.train_data(), spec.val_data(), metric=spec.metric)
    task.check(model, _CPU)
    assert (module.COUNT, len(module.SEEN)) == (0, 0)  # a trial leaves nothing
    for times in (1, 2):
        task.evaluate(model, task.val_data, _CPU)
        assert (module.COUNT, len(module.SEEN), len(module.READ)) == (2 * times, 2 * times, 2 * times)
    assert model.calls == 0  # the model's own state is put back


@pytest.mark.parametrize("lines", ["metric = Share()", "metric = Share", "class metric(Share): pass"])
def test_a_file_may_have_one(tmp_path: Path, lines: str) -> None:
    share = "\n\nclass Share:\n    def reset(self): self.n = 0\n    def update(self, outputs, targets): self.n += len("
    share += "targets)\n    def compute(self): return self.n\n\n"
    (tmp_path / "sharing.py").write_text(_FILE + share + lines)
    spec = load_spec(str(tmp_path / "sharing.py"))
    task = Task(spec.train_data(), metric=spec.metric)
    assert task.evaluate(spec.model(), task.train_data, _CPU) == 4
