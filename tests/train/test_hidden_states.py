"""Hidden states: which are compared, at which units, and what a run makes of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder import Decoder, Sizes, tokens
from fakes import TwoConvs, blobs
from networks import NETWORKS, build
from test_train_resume import Killed, run, same
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.slimming.index_map import small_module
from atograph.train import Task, Teacher, auto_train_once, dense_training
from atograph.train.losses.blocks import Outputs, blocks_of
from atograph.train.losses.untrained import looks_untrained
from atograph.train.settings import settings_of
from atograph.values.eval_mode import copy_of


class Block(nn.Module):
    """A residual one."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(width, inner), nn.BatchNorm1d(inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.norm(self.up(x)).relu_())


class Blocks(nn.Module):
    """[N, 4] -> 3 classes; ``wide`` blocks lie in a list, and a last one beside it."""

    def __init__(self, wide: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, width), nn.ModuleList(Block(width, 12) for _ in range(wide))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.relu_())


def batches(count: int = 6, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(32, 4, generator=generator) for _ in range(count)]
    return [(x.to(dtype), (x[:, 0] > 0).long() + (x[:, 1] > 0).long()) for x in xs]


def test_blocks_are_the_items_of_lists_and_else_the_layers() -> None:
    assert blocks_of(Blocks()) == ["blocks.0", "blocks.1", "blocks.2"]
    assert blocks_of(nn.Sequential(Blocks(), nn.Linear(3, 3))) == ["0.blocks.0", "0.blocks.1", "0.blocks.2"]
    assert blocks_of(nn.Sequential(nn.Sequential(Block(4, 4), nn.ReLU()), nn.Sequential(Block(4, 4)))) == ["0", "1"]
    assert blocks_of(TwoConvs()) == ["conv1", "bn1", "conv2", "bn2"]
    assert blocks_of(Blocks(), ["blocks.[01]", "stem"]) == ["stem", "blocks.0", "blocks.1"]
    with pytest.raises(UserError, match="the teacher has no module 'layer4"):
        blocks_of(Blocks(), ["layer4.*"])
    with pytest.raises(UserError, match="it is one layer"):
        blocks_of(nn.Linear(2, 2))


def outputs_of(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _m, _a, out, name=name: found.__setitem__(name, out.clone()))
        for name in names
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["blocks", "two convolutions", "decoder", *NETWORKS])
def test_a_slim_block_gives_what_the_masked_one_gives_at_the_units_that_stay(name: str) -> None:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "blocks": lambda: (Blocks(), torch.randn(3, 4)),
        "two convolutions": lambda: (TwoConvs(), torch.randn(3, 1, 8, 8)),
        "decoder": lambda: (Decoder(Sizes()), tokens()),
    }
    model, x = given[name]() if name in given else build(name)
    model, x = model.double(), x if x.dtype == torch.long else x.double()
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0)
    names = blocks_of(model)
    masked, slim = (
        outputs_of(each, names, x) for each in (atograph.mask(model, plan), atograph.slim(graph, plan).module)
    )
    cuts = Outputs(graph.program).cuts({name: value.shape for name, value in masked.items()}, plan)
    assert cuts.keys() == masked.keys()
    assert any(cut is not None for each in cuts.values() for cut in each), "some of them lose units"
    for each, value in masked.items():
        for dim, cut in enumerate(cuts[each]):
            value = value if cut is None else value.index_select(dim, torch.from_numpy(cut))
        torch.testing.assert_close(slim[each], value, rtol=1e-9, atol=1e-12)


def test_the_difference_is_the_squared_one_over_the_variance_of_the_teachers() -> None:
    torch.manual_seed(0)
    teacher, student = Blocks(), Blocks()
    names, batch = blocks_of(teacher), batches(1)[0]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    both = [outputs_of(each, names, batch[0]) for each in (student, teacher)]
    wanted = sum(
        (both[0][name] - both[1][name]).square().mean() / both[1][name].var(correction=0) for name in names
    ) / len(names)
    found = Teacher(teacher, 0.3, hidden=0.7)(loss, student, batch) - Teacher(teacher, 0.3)(loss, student, batch)
    torch.testing.assert_close(found, 0.7 * wanted, rtol=1e-4, atol=1e-5)
    one = Teacher(teacher, 0.0, hidden=1.0, layers=["blocks.1"])(loss, student, batch) - loss(student, batch)
    name = "blocks.1"
    wanted = (both[0][name] - both[1][name]).square().mean() / both[1][name].var(correction=0)
    torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_left_out_and_told_once() -> None:
    torch.manual_seed(0)
    told: list[str] = []
    teacher = Teacher(Blocks(4), hidden=1.0, tell=told.append)
    student = Blocks(3)
    student.blocks[1] = nn.Sequential(nn.Linear(8, 9), nn.Linear(9, 8))
    student.blocks[2] = nn.Linear(8, 8)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    for _ in range(2):
        teacher(loss, student, batches(1)[0]).backward()
    assert told == ["hidden states that are not compared with the teacher's: blocks.3 (the network has no such module)"]
    with pytest.warns(UserWarning, match=r"blocks.0 \(its output is \[32, 8\], and the teacher's \[32, 6\]\)"):
        Teacher(Other(), hidden=1.0, layers=["blocks.0", "stem"])(loss, student, batches(1)[0])
    with pytest.raises(UserError, match="no hidden state can be compared") as error:
        Teacher(Other(), hidden=1.0)(loss, student, batches(1)[0])
    assert "distill_layers" in (error.value.hint or "")


class Other(nn.Module):
    """A foreign teacher: a stem of the same size, and blocks of another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 8), nn.ModuleList([nn.Sequential(nn.Linear(8, 6))])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks[0](self.stem(x)))


class Several(nn.Module):
    """A block that gives a state of its own beside its output, as a layer with a cache does."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.up(x).relu()
        return x + self.down(inner), inner


class OfSeveral(nn.Module):
    """[N, 4] -> 3 classes, by two such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(4, 8), nn.ModuleList([Several(), Several()]), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x, _state = block(x)
        return self.head(x)


def test_blocks_of_several_outputs_have_no_hidden_state() -> None:
    """Which of them it would be nobody knows: their first layers are named instead."""
    torch.manual_seed(0)
    data = batches()
    with pytest.raises(
        UserError, match=r"blocks.0, blocks.1 \(it .* gives no tensor of numbers, or several\)"
    ) as error:
        trained(OfSeveral(), data, flops=0.5, distill_hidden=1.0)
    assert "distill_layers" in (error.value.hint or "")
    trained(OfSeveral(), data, flops=0.5, distill_hidden=1.0, distill_layers=["blocks.*.down"])


def trained(model: nn.Module, data: Any, loss: Any = None, **options: Any) -> nn.Module:
    """The slim module of a run."""
    settings = settings_of({"epochs": 6, "device": "cpu", "lr": 0.05, "distill": True, **options})
    graph = atograph.trace(model, data[0][0][:2])
    run = auto_train_once(model, graph, Task(data, data, loss=loss), settings, shrink=partial(small_module, graph))
    assert (run.slim_from is None) == (settings.slim_at == "never")
    return small_module(graph, run.plan).module


@pytest.mark.parametrize("method", ["ato", "progressive", "magnitude"])
def test_the_slim_module_learns_what_the_masked_one_would(method: str) -> None:
    """In float64, step by step, whichever of the two is trained; and hidden states change what is learned."""
    torch.manual_seed(0)
    model = Blocks().double()
    data = batches(dtype=torch.float64)
    dense_training(model, Task(data), settings_of({"epochs": 4, "device": "cpu", "lr": 0.05}))
    common = {"method": method, "flops": 0.5, "distill_hidden": 1.0}
    slim, dense, without = (
        trained(copy_of(model), data, **{**common, **options}).state_dict()
        for options in ({}, {"slim_at": "never"}, {"distill_hidden": 0.0})
    )
    for name, value in slim.items():
        torch.testing.assert_close(value, dense[name], rtol=1e-9, atol=1e-12)
    assert any(not torch.equal(value, without[name]) for name, value in slim.items())


def test_hidden_states_alone_bring_a_network_back_to_its_teacher() -> None:
    """Where the task's own loss says nothing, what was cut gives what its teacher gives, by its blocks alone."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return 0 * net(batch[0]).sum()

    torch.manual_seed(0)
    model, data = Blocks(), batches()
    dense_training(model, Task(data), settings_of({"epochs": 8, "device": "cpu", "lr": 0.05}))
    x = torch.cat([x for x, _y in data])
    wanted = model.eval()(x).detach()
    common = {"method": "magnitude", "flops": 0.6, "epochs": 12, "distill_weight": 0.0}
    far, near = (
        (trained(copy_of(model), data, **common, distill_hidden=weight, loss=loss).eval()(x) - wanted).square().mean()
        for weight in (0.0, 5.0)
    )
    assert near < 0.5 * far


def test_a_step_under_a_mask_is_compared_at_the_units_that_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the controller searches, steps may train under masks that it draws, which are no plan yet."""
    torch.manual_seed(0)
    model, data = Blocks(), batches()
    group = atograph.trace(model, data[0][0][:2]).groups.named("blocks.0.up").name
    seen: list[Any] = []
    added = Teacher.added

    def noted(teacher: Teacher, *others: Any) -> Tensor:
        plan = teacher._hidden._plan()
        rows = model.blocks[0].up.weight.abs().sum(1).nonzero().flatten().tolist()
        seen.append((None if plan is None else [*plan.kept[group]], rows))
        return added(teacher, *others)

    monkeypatch.setattr(Teacher, "added", noted)
    trained(model, data, flops=0.5, distill_hidden=1.0, controller_masked=0.5, controller_min_steps=0)
    search = seen[4 : int(0.35 * len(seen))]
    masked = [(kept, rows) for kept, rows in search if kept is not None]
    assert 0.3 < len(masked) / len(search) < 0.7 and any(len(rows) < 12 for _kept, rows in masked)
    assert all(kept == rows for kept, rows in masked)
    assert all(len(rows) == 12 for kept, rows in search if kept is None)


@pytest.mark.parametrize("method", ["ato", "progressive"])
@pytest.mark.parametrize("kill_at", [9, 26])
@pytest.mark.long
def test_a_killed_run_goes_on_with_its_hidden_states(tmp_path: Path, method: str, kill_at: int) -> None:
    settings = settings_of(
        {"flops": 0.4, "epochs": 5, "device": "cpu", "distill": True, "distill_hidden": 0.5, "method": method}
    )
    with pytest.raises(Killed):
        run(tmp_path / "saved", settings, kill_at=kill_at)
    same(run(tmp_path / "saved", settings), run(None, settings))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_hidden": 1.0}, "distill_hidden is about a teacher"),
        ({"distill": True, "distill_layers": ["stem"]}, "distill_hidden is 0"),
        ({"distill": True, "distill_hidden": 1.0, "compile": True}, "compile leaves no blocks"),
        ({"ema": 1.5}, "ema"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        settings_of({"flops": 0.5, **options})
    if message == "ema":
        assert "ema=0.99" in (error.value.hint or "")


@pytest.mark.parametrize("make", [TwoConvs, Blocks, lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))])
def test_a_network_that_was_never_trained_shows(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    assert looks_untrained(model)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert not looks_untrained(model)


def test_a_wider_teacher_is_told_by_its_sizes() -> None:
    """Which units stand where is known of the network, so that is not the reason."""
    with pytest.raises(
        UserError, match=r"conv1, bn1 \(its output is \[32, 8, 8, 8\], and the teacher's \[32, 12, 8, 8\]"
    ):
        atograph.compress(
            TwoConvs(), blobs(2), teacher=TwoConvs(12), distill_hidden=0.1, flops=0.5, epochs=1, device="cpu"
        )
