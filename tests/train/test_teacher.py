"""What a teacher says, moving averages of the weights, and clipped gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from test_train_resume import SETTINGS, Killed, run, same
from torch import Tensor, nn
from torch.nn import functional

import atograph
from atograph.passes.errors import UserError
from atograph.run import steps
from atograph.run.job import Job
from atograph.train import Task, Teacher, dense_training
from atograph.train.averaging import Average
from atograph.train.diverged import Diverged
from atograph.train.settings import settings_of


class Table(nn.Module):
    """It gives the same logits for every input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + 0 * x.sum()


def distance(student: Tensor, teacher: Tensor, targets: Tensor | None, temperature: float = 2.0) -> Tensor:
    """What a teacher adds, alone."""
    taught = Teacher(Table(teacher), weight=1.0, temperature=temperature)
    batch = torch.zeros(1) if targets is None else (torch.zeros(1), targets)
    return taught(lambda model, batch: model(torch.zeros(1)).sum(), Table(student), batch)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``[..., C]``: T² · KL(teacher ‖ student), written down."""
    p = (teacher / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - (student / temperature).log_softmax(-1))).sum(-1)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 2), (4, 7, 5)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_that_of_the_classes(shape: tuple[int, ...], temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape), torch.randn(shape)
    dim = 2 if len(shape) == 3 else 1
    targets = torch.zeros(shape[:dim] + shape[dim + 1 :], dtype=torch.long)
    each = divergence(student.movedim(dim, -1), teacher.movedim(dim, -1), temperature)
    torch.testing.assert_close(distance(student, teacher, targets, temperature), each.mean())


def test_what_is_not_counted_teaches_nothing() -> None:
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    each = divergence(student, teacher, 2.0)
    torch.testing.assert_close(distance(student, teacher, targets), each[targets != -100].mean())


def test_class_probabilities_are_classes_and_other_numbers_are_none() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    each = divergence(student, teacher, 2.0)
    torch.testing.assert_close(distance(student, teacher, torch.rand(4, 5).softmax(1)), each.mean())
    squared = (student - teacher).square().mean() / teacher.var(correction=0)
    for targets in (torch.randn(4, 5), None):
        torch.testing.assert_close(distance(student, teacher, targets), squared)


def test_outputs_that_are_all_alike_have_no_variance() -> None:
    student = torch.randn(4, 5)
    assert float(distance(student, torch.zeros(4, 5), None)) == pytest.approx(float(student.square().mean()))
    assert distance(student, torch.full((4, 5), 3.0), None).isfinite()
    assert distance(torch.tensor([[2.0]]), torch.tensor([[1.0]]), None) == 1.0


def test_where_two_dimensions_may_be_that_of_the_classes() -> None:
    """As many tokens as classes: of a dict, as transformers take them, the classes come last; else second."""
    student, teacher, targets = torch.randn(2, 5, 5), torch.randn(2, 5, 5), torch.zeros(2, 5, dtype=torch.long)
    taught = Teacher(Table(teacher), weight=1.0)
    found = taught(lambda model, batch: model(torch.zeros(1)).sum(), Table(student), {"labels": targets})
    torch.testing.assert_close(found, divergence(student, teacher, 2.0).mean())
    second = divergence(student.movedim(1, -1), teacher.movedim(1, -1), 2.0).mean()
    torch.testing.assert_close(distance(student, teacher, targets), second)


def test_a_loss_that_writes_into_the_logits_changes_nothing_for_the_teacher() -> None:
    student, teacher, targets = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])

    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch[0])
        logits[:, 4] = -1e9
        return functional.cross_entropy(logits, batch[1])

    found = Teacher(Table(teacher), weight=1.0)(loss, Table(student), (torch.zeros(1), targets))
    torch.testing.assert_close(found, divergence(student, teacher, 2.0).mean())


def test_the_weight_divides_the_loss() -> None:
    student, teacher, targets = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    taught = Teacher(Table(teacher), weight=0.25)
    loss = taught(lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]), Table(student),
                  (torch.zeros(1), targets))  # fmt: skip
    own = functional.cross_entropy(student, targets)
    torch.testing.assert_close(loss, 0.75 * own + 0.25 * divergence(student, teacher, 2.0).mean())


@pytest.mark.parametrize(
    ("loss", "teacher", "message"),
    [
        (lambda model, batch: model.logits.sum(), Table(torch.randn(4, 5)), "the loss does not call the model"),
        (lambda model, batch: model(batch).sum(), Table(torch.randn(4, 6)), r"output is \[4, 6\], and the model's \[4"),
        (lambda model, batch: model(batch).sum(), nn.Linear(2, 2), "the teacher rejects what the model is called with"),
    ],
)
def test_what_cannot_teach_is_refused(loss: Any, teacher: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Teacher(teacher)(loss, Table(torch.randn(4, 5)), torch.zeros(1))


def test_a_class_that_is_ruled_out_teaches_nothing() -> None:
    """Logits of minus infinity, as masks give them: of such a class neither network says anything, p log p is 0."""
    student, teacher, targets = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    rest = divergence(student[:, :4], teacher[:, :4], 2.0).mean()
    for logits in (student, teacher):
        logits[:, 4] = -torch.inf
    for own in (student, torch.randn(4, 5)):  # one that rules it out as well, and one that has yet to learn it
        table = Table(own)
        loss = Teacher(Table(teacher), weight=1.0)(
            lambda model, batch: model(batch[0])[:, :4].sum(), table, (torch.zeros(1), targets)
        )
        loss.backward()
        assert table.logits.grad is not None and table.logits.grad.isfinite().all()
        assert loss.isfinite() and (own is not student or torch.isclose(loss, rest))


class Says(TwoConvs):
    """A teacher that says something else from one of its calls on."""

    def __init__(self, factor: float, calls: int) -> None:
        super().__init__()
        self.factor, self.calls = factor, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        return super().forward(x) * (1.0 if self.calls >= 0 else self.factor)


def broken(part: nn.Module) -> TwoConvs:
    """A teacher with another head."""
    net = TwoConvs()
    net.head = part  # type: ignore[assignment]
    return net


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda x: x, r"the teacher is a function, and not a torch.nn.Module"),
        (TwoConvs().to("meta"), r"a teacher needs the values of its weights, but .* meta device"),
        (broken(nn.Linear(3, 3)), "the teacher rejects what the model is called with"),
        (
            broken(nn.Linear(16, 7)),
            r"the teacher's output is \[\d+, 7\], and the model's",
        ),
        (broken(nn.LazyLinear(7)), "layers that were never called"),
        (Says(torch.nan, 0), "the teacher's outputs are not finite, on the first batch"),
    ],
)
def test_a_run_asks_its_teacher_before_it_begins(teacher: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "trace", lambda job: pytest.fail("the teacher is tried first"))
    with pytest.raises(UserError, match=message):
        atograph.compress(TwoConvs(), blobs(), teacher=teacher, flops=0.5, epochs=1, device="cpu")


@pytest.mark.parametrize(
    ("teacher", "said"), [(None, "teacher: the model as it comes, by 25 %"), (TwoConvs(), "teacher: TwoConvs of 1,442")]
)
def test_a_run_says_who_teaches(
    teacher: nn.Module | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "rehearse", lambda *_args: None)
    monkeypatch.setattr(steps.Run, "train", lambda *_args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        atograph.compress(
            TwoConvs(), blobs(), teacher=teacher, distill=True, distill_weight=0.25, flops=0.5, epochs=1, quiet=False
        )
    assert said in capsys.readouterr().out


def test_a_loss_that_is_no_number_is_traced_back_to_the_teacher_or_to_an_empty_batch() -> None:
    with pytest.raises(Diverged, match=r"step 3: .* a loss of nan \(the teacher's outputs are not finite\)"):
        trained(distill=True, teacher=Says(torch.nan, 2))
    x, y = blobs()[0]
    data = [(x, y), (x[:0], y[:0])]
    with pytest.raises(Diverged, match=r"step 2: .* a loss of nan \(this batch holds no sample\)"):
        dense_training(TwoConvs(), Task(data), settings_of({"epochs": 1, "device": "cpu"}))


def trained(**options: Any) -> TwoConvs:
    torch.manual_seed(0)
    model = TwoConvs()
    teacher = options.pop("teacher", None)
    settings = settings_of({"epochs": 3, "device": "cpu", "lr": 0.05, **options})
    dense_training(model, Task(blobs(), blobs(2, seed=1), teacher=teacher), settings)
    return model


def differs(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return any(not torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_a_run_learns_from_its_teacher() -> None:
    """With all of the weight on a teacher whose labels are shifted by one, the student learns those."""
    teacher = trained(epochs=12)
    with torch.no_grad():
        teacher.head.weight.copy_(teacher.head.weight.roll(1, 0))
        teacher.head.bias.copy_(teacher.head.bias.roll(1, 0))
    student = trained(distill=True, distill_weight=1.0, teacher=teacher, epochs=12)
    x, y = (torch.cat(each) for each in zip(*blobs(2, seed=1), strict=True))
    said = student.eval()(x).argmax(1)
    assert (said == teacher.eval()(x).argmax(1)).float().mean() > 0.7 > 0.2 > (said == y).float().mean()
    assert teacher.head.weight.requires_grad, "the run has a teacher of its own"


def test_the_model_as_it_came_is_the_teacher_where_there_is_no_other() -> None:
    assert differs(trained(distill=True), trained())
    assert not differs(trained(distill=True, distill_weight=0.0), trained())


def test_clipped_gradients_step_no_further() -> None:
    torch.manual_seed(0)
    before = TwoConvs()
    after = trained(clip=1e-6, epochs=1, weight_decay=0.0)
    moved = max(float((p - q).abs().max()) for p, q in zip(before.parameters(), after.parameters(), strict=True))
    assert (
        moved
        < 1e-4
        < max(
            float((p - q).abs().max()) for p, q in zip(before.parameters(), trained(epochs=1).parameters(), strict=True)
        )
    )


def test_the_average_is_that_of_the_steps() -> None:
    model, average = nn.Linear(1, 1), Average(0.9)
    values, expected, wanted = [1.0, 3.0, -2.0, 4.0], None, []
    for number, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        average.add(model, settled=True)
        kept = min(0.9, (1 + number) / (10 + number))
        expected = value if expected is None else kept * expected + (1 - kept) * value
        wanted.append(expected)
    with average.in_place(model):
        assert float(model.weight) == pytest.approx(expected)
    assert float(model.weight) == 4.0
    average.add(model, settled=False)
    with average.in_place(model):
        assert float(model.weight) == 4.0, "nothing is averaged before the network is the one that comes out"
    average.add(model, settled=True)
    average.hand_over(model)
    assert float(model.weight) == 4.0 and len(wanted) == 4


class Last(nn.Module):
    """It keeps the outputs of its last batch, which may be smaller than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.last = (self.weight * x).detach()
        return self.weight * x


def test_buffers_of_any_shape_are_those_of_now() -> None:
    model, average = Last(), Average(0.5)
    for value, size in ((1.0, 4), (3.0, 2), (5.0, 4)):
        nn.init.constant_(model.weight, value)
        model(torch.ones(size))
        average.add(model, settled=True)
    average.hand_over(model)
    assert 1.0 < float(model.weight) < 5.0 and model.last.shape == (4,)


@pytest.mark.long
@pytest.mark.parametrize("method", ["ato", "progressive", "taylor"])
def test_the_average_is_what_is_measured_and_handed_over(method: str) -> None:
    """Pruned, its masked units are exactly zero, and the slim model is the average."""
    torch.manual_seed(0)
    model = TwoConvs()
    result = atograph.compress(
        model, blobs(), val_data=blobs(2, seed=1), flops=0.5, method=method, epochs=6, device="cpu", ema=0.9
    )
    assert result.report.float64 is not None and result.report.float64 < 1e-9
    assert result.report.metrics.masked == result.history[-1].metric == result.report.metrics.slim
    torch.manual_seed(0)
    other = TwoConvs()
    atograph.compress(other, blobs(), val_data=blobs(2, seed=1), flops=0.5, method=method, epochs=6, device="cpu")
    assert differs(model, other)


@pytest.mark.long
@pytest.mark.parametrize("kill_at", [9, 22, 35])
def test_a_killed_run_goes_on_with_its_average_and_its_teacher(tmp_path: Path, kill_at: int) -> None:
    settings = SETTINGS.model_copy(update={"ema": 0.9, "distill": True, "clip": 1.0})
    with pytest.raises(Killed):
        run(tmp_path / "saved", settings, kill_at=kill_at)
    same(run(tmp_path / "saved", settings), run(None, settings))


def test_a_loop_of_ones_own_clips_by_itself() -> None:
    with pytest.raises(UserError, match="a loop makes its steps by itself"):
        atograph.AutoTrainOnce(TwoConvs(), torch.randn(2, 1, 8, 8), steps=4, flops=0.5, clip=1.0)


def test_a_run_does_not_go_on_with_another_teacher(tmp_path: Path) -> None:
    """Such as the model itself, half-trained, where it was the teacher as it came."""
    teachers = [nn.Sequential(nn.Linear(8, 4)) for _ in range(2)]
    data = [(torch.randn(4, 8), torch.arange(4)) for _ in range(3)]

    def train(teacher: nn.Module, stop: bool) -> None:
        calls: list[None] = []

        def loss(net: nn.Module, batch: Any) -> Tensor:
            calls.extend([None] * net.training)
            if stop and len(calls) == 8:
                raise KeyboardInterrupt
            return nn.functional.cross_entropy(net(batch[0]), batch[1])

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        atograph.compress(
            model, data, loss=loss, teacher=teacher, flops=0.5, epochs=5, device="cpu", out=tmp_path / "run",
            resume=not stop, checkpoint_seconds=0,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train(teachers[0], stop=True)
    with pytest.raises(UserError, match="the teacher is another network"):
        train(teachers[1], stop=False)
    train(teachers[0], stop=False)
