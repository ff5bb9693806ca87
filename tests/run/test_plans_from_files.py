"""Plans by any criterion of a model whose weights stay in the files of a checkpoint."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder import Decoder, Sizes, tokens
from networks import build, maker
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.files.checkpoint import INDEX, Checkpoint
from atograph.files.mapped import MappedFiles, tensors_aside
from atograph.files.shards import Entry, Shard, ShardWriter, shards_of, write_index
from atograph.files.writing import CannotWrite
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.errors import UserError

COUNT = 3


def perturbed(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    model = make().eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
    return model


def in_files(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """Two shards and an index, or one file where there is one tensor."""
    entries = [Entry(name, value.dtype, tuple(value.shape)) for name, value in state.items()]
    shards = shards_of(entries, sum(entry.nbytes for entry in entries) // 2 + 1)
    folder.mkdir(exist_ok=True)
    for shard in shards:
        save_file({entry.name: state[entry.name].detach().clone() for entry in shard.entries}, folder / shard.file)
    write_index(folder, shards)
    return folder


class Largest(Criterion):
    """One's own: the largest gradient of all parameters, added to the norm; it does not go through `Units.sums`."""

    name = "largest-gradient-of-a-test"
    needs = frozenset({"gradients"})

    def observe(self, values: Mapping[str, Tensor]) -> None:
        most = max(float(value.abs().max()) for value in values.values())
        norms = self.units.squared_norms()
        self.seen.add(norms + most * len(values), torch.ones_like(norms, dtype=torch.bool))

    def importance(self) -> Tensor:
        assert self.seen.mean is not None
        return self.seen.mean


class Recurrent(nn.Module):
    """Its layer keeps its weights in a list as well; a block is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(x)[0])
        return found


def half(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: make().to(torch.bfloat16)


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "decoder": (lambda: Decoder(Sizes()), tokens()),
    "tied": (lambda: Decoder(Sizes(tied=True)), tokens()),
    "bfloat16": (half(lambda: Decoder(Sizes())), tokens()),
    "residual": (maker("residual"), build("residual")[1]),
    "recurrent": (Recurrent, torch.randn(2, 5, 4)),
}


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    out: Tensor = model(batch)
    return out.float().square().mean()


def empty_graph(name: str) -> atograph.Graph:
    make, inputs = MODELS[name]
    with atograph.without_weights():
        return atograph.trace(make().eval(), inputs)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_loaded_model_bit_for_bit(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    dense, empty = perturbed(make), empty_graph(name)
    loaded, weights = atograph.trace(dense, inputs), in_files(tmp_path / "dense", dense.state_dict())
    data = [inputs, inputs]
    for by in ("magnitude", "taylor", "activation", "lamp", "fpgm", Largest):
        options: dict[str, Any] = {"by": by, "data": data, "loss": loss}
        expected, found = loaded.scores(**options), empty.scores(weights=weights, **options)
        assert found.keys() == expected.keys() != set()
        assert all(torch.equal(found[group], score) for group, score in expected.items()), by
        assert any(score.std() > 0 for score in found.values())
        plan = empty.plan(flops=0.6, weights=weights, **options)
        assert plan == loaded.plan(flops=0.6, **options)
    assert empty.model is not None
    assert all(value.is_meta for value in [*empty.model.parameters(), *empty.program.state.values()] if value.ndim > 1)


def test_less_precise_weights_are_scored_in_float32() -> None:
    """In bfloat16 a sum of 4096 products near one another is off by a percent; in float32 it is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4096, 8), nn.ReLU(), nn.Linear(8, 1)).to(torch.bfloat16)
    x = torch.rand(4, 4096, dtype=torch.bfloat16)
    (found,) = atograph.trace(model, x).scores("taylor", data=[x], loss=loss).values()
    loss(model, x).backward()
    first = [value for value in model[0].parameters() if value.grad is not None]
    exact = sum((value.double() * value.grad.double()).reshape(8, -1).sum(1) for value in first)  # type: ignore[union-attr]
    assert isinstance(exact, Tensor)
    torch.testing.assert_close(found / found.sum(), exact.square() / exact.square().sum(), rtol=1e-4, atol=0)


def test_no_gradient_stays_in_memory_and_weights_are_views_of_the_files(tmp_path: Path) -> None:
    dense, empty = perturbed(MODELS["decoder"][0]), empty_graph("decoder")
    weights = in_files(tmp_path / "dense", dense.state_dict())
    held: list[int] = []
    sizes: set[int] = set()

    def watched(model: nn.Module, batch: Tensor) -> Tensor:
        parameters = [*model.parameters()]
        sizes.update(each.untyped_storage().nbytes() for each in parameters)
        for each in parameters:  # called after the one that takes the gradient away
            each.register_post_accumulate_grad_hook(
                lambda _: held.append(sum(other.grad is not None for other in parameters))
            )
        return loss(model, batch)

    empty.scores("taylor", data=[tokens()], loss=watched, weights=weights)
    assert held and not any(held)
    assert sizes == {path.stat().st_size for path in weights.glob("*.safetensors")}


class Again(nn.Module):
    """Its layer's gradient comes in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = x + (checkpoint(self.layer, x, use_reentrant=True) if x.requires_grad else self.layer(x)).relu()
        found: Tensor = self.head(x)
        return found


def test_gradients_that_come_in_parts_are_added_up(tmp_path: Path) -> None:
    dense, x = perturbed(Again), torch.randn(4, 3)
    with atograph.without_weights():
        empty = atograph.trace(Again().eval(), x)
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    options: dict[str, Any] = {"by": "taylor", "data": [x], "loss": loss}
    expected = atograph.trace(dense, x).scores(**options)
    found = empty.scores(weights=tmp_path / "dense.safetensors", **options)
    assert all(torch.equal(found[group], score) for group, score in expected.items())


def test_a_loaded_model_has_its_own_weights_again(tmp_path: Path) -> None:
    model, inputs = build("residual")
    own = {name: value.clone() for name, value in model.state_dict().items()}
    kept = dict(model.named_parameters())
    graph = atograph.trace(model, inputs)
    before = graph.scores()
    other = perturbed(maker("residual"))
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    elsewhere = graph.scores(weights=tmp_path / "other.safetensors")
    assert any(not torch.equal(before[group], score) for group, score in elsewhere.items())
    assert all(torch.equal(before[group], score) for group, score in graph.scores().items())
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert all(parameter is kept[name] for name, parameter in model.named_parameters())


class Tabled(nn.Module):
    """A table that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("table", torch.arange(6.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.a(x) + self.table)
        return found


def never(model: nn.Module, batch: object) -> Tensor:
    raise AssertionError("the model ran")


Change = Callable[[dict[str, Tensor]], object]

WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda state: state.pop("b.weight"), "1 missing: b.weight"),
    "unexpected": (lambda state: state.update({"c.weight": torch.ones(2)}), "1 unexpected: c.weight"),
    "shape": (lambda state: state.update({"b.weight": torch.ones(2, 7)}), "b.weight (checkpoint [2, 7], model [2, 6])"),
    "type": (lambda state: state.update({"a.bias": torch.ones(6).half()}), "a.bias (checkpoint float16, model"),
}  # fmt: skip


@pytest.mark.parametrize("by", ["magnitude", "taylor", "activation"])
@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_of_another_model_is_refused_before_anything_runs(what: str, by: str, tmp_path: Path) -> None:
    change, named = WRONG[what]
    state = dict(Tabled().state_dict())
    change(state)
    save_file(state, tmp_path / "dense.safetensors")
    with atograph.without_weights():
        graph = atograph.trace(Tabled(), torch.ones(2, 4))
    with pytest.raises(UserError) as error:
        graph.plan(0.5, by=by, data=[torch.ones(2, 4)], loss=never, weights=tmp_path / "dense.safetensors")
    assert named in str(error.value) and "Nothing was looked at" in str(error.value)
    assert graph.model is not None and all(value.is_meta for value in graph.model.parameters())


def test_what_runs_needs_all_values_and_what_does_not_run_only_those_that_it_reads(tmp_path: Path) -> None:
    save_file(Tabled().state_dict(), tmp_path / "dense.safetensors")
    with torch.device("meta"):
        graph = atograph.trace(Tabled(), torch.ones(2, 4))
    options: dict[str, Any] = {"weights": tmp_path / "dense.safetensors", "data": [torch.ones(2, 4)], "loss": never}
    assert graph.plan(0.5, **options).kept
    for by in ("taylor", "activation"):
        with pytest.raises(UserError, match=r"table has no values.*\n?.*without_weights"):
            graph.plan(0.5, by=by, **options)
    recurrent, state = empty_graph("recurrent"), dict(Recurrent().state_dict())
    state.pop("unused.weight")  # the program does not read it, the loss could
    save_file(state, tmp_path / "fewer.safetensors")
    options = {"weights": tmp_path / "fewer.safetensors", "data": [MODELS["recurrent"][1]], "loss": never}
    assert recurrent.plan(0.8, **options).kept
    with pytest.raises(UserError, match=r"unused\.weight has no values"):
        recurrent.plan(0.8, by="taylor", **options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"random": 0}, "weights= is for plans by a criterion"),
        ({"kept": {"g0": [0]}}, "weights= is for plans by a criterion"),
        ({"flops": 0.5, "by": "taylor"}, "the criterion 'taylor' looks at gradients, for which it needs data"),
        ({"flops": 0.5, "weights": "nowhere"}, "no such file or folder"),
    ],
)
def test_what_weights_do_not_go_with(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    weights = in_files(tmp_path / "dense", perturbed(MODELS["residual"][0]).state_dict())
    with pytest.raises(UserError) as error:
        empty_graph("residual").plan(**{"weights": weights, **options})
    assert why in str(error.value)


def test_a_plan_without_weights_says_how_to_name_them() -> None:
    with pytest.raises(UserError, match='weights="FILE or FOLDER"'):
        empty_graph("residual").plan(0.5)


def test_no_room_for_gradients_shows_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    weights = in_files(tmp_path / "dense", perturbed(MODELS["residual"][0]).state_dict())
    with pytest.raises(CannotWrite, match=r"(?s)No space left on device.*TMPDIR names another folder"):
        empty_graph("residual").plan(0.5, by="taylor", data=[torch.ones(1)], loss=never, weights=weights)


def test_tensors_of_every_type_and_place_are_mapped(tmp_path: Path) -> None:
    """One that does not lie at a multiple of its size is copied; rows that are chosen are those alone."""
    values = {"odd": torch.arange(3, dtype=torch.uint8), "wide": torch.arange(6.0).view(3, 2).to(torch.float64),
              "none": torch.zeros(0, 4), "one": torch.tensor(1.5, dtype=torch.bfloat16)}  # fmt: skip
    entries = tuple(Entry(name, value.dtype, tuple(value.shape)) for name, value in values.items())
    shard = Shard("model.safetensors", entries)
    with ShardWriter(tmp_path, shard) as writer:
        for entry in entries:
            writer.write(entry, iter([values[entry.name]]))
    stored, files = Checkpoint.open(tmp_path).tensors, MappedFiles()
    for name, value in values.items():
        found = files.tensor(stored[name])
        assert found.dtype == value.dtype and torch.equal(found, value), name
    chosen = replace(stored["wide"], shape=(2, 2), chosen=(0, 2))
    assert torch.equal(files.tensor(chosen), values["wide"][[0, 2]])
    aside = tensors_aside(values)
    for name, value in values.items():
        assert torch.equal(aside[name], torch.zeros_like(value))
        aside[name].copy_(value)
    assert all(torch.equal(aside[name], value) for name, value in values.items())
    assert not (tmp_path / INDEX).exists()


SPEC = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(stem, nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))

def train_data():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 4) for _ in range(3)]

def val_data():
    return train_data()[:1]

def metric(net, batch):
    return -float(nn.functional.cross_entropy(net(batch[0]), batch[1]))
"""


def command(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(each) for each in arguments])
    return found.exit_code, found.output


def test_a_sweep_from_files_is_that_of_the_loaded_model_and_its_plans_cut_the_files(tmp_path: Path) -> None:
    spec, dense = tmp_path / "net.py", tmp_path / "dense.safetensors"
    spec.write_text(SPEC)
    source: dict[str, Any] = {}
    exec(SPEC, source)
    model = perturbed(source["model"])
    save_file(model.state_dict(), dense)
    asked = ("sweep", spec, "--flops", "0.8,0.5", "--method", "taylor,magnitude,activation")
    for option in ("--init", "--weights"):
        there = tmp_path / option
        code, output = command(*asked, option, dense, "--plans", there, "--json", there / "sweep.json")
        assert code == 0, output
    loaded, files = (tmp_path / option for option in ("--init", "--weights"))
    names = sorted(path.name for path in loaded.iterdir())
    assert names == sorted(path.name for path in files.iterdir()) and "taylor-0.5.json" in names
    for name in names:  # the metric of every masked network, too
        assert (loaded / name).read_text() == (files / name).read_text(), name
    assert json.loads((files / "sweep.json").read_text())["rows"][0]["point"]["metric"] < 0

    code, output = command("apply", files / "taylor-0.5.json", spec, "--weights", dense, "--out", tmp_path / "slim")
    assert code == 0, output
    plan = atograph.Plan.from_json((files / "taylor-0.5.json").read_text())
    x, small = source["train_data"]()[0][0], atograph.load(tmp_path / "slim")
    torch.testing.assert_close(small(x), atograph.mask(model, plan)(x))


def test_the_sensitivity_from_files_is_that_of_the_loaded_model(tmp_path: Path) -> None:
    spec, dense = tmp_path / "net.py", tmp_path / "dense.safetensors"
    spec.write_text(SPEC)
    source: dict[str, Any] = {}
    exec(SPEC, source)
    save_file(perturbed(source["model"]).state_dict(), dense)
    for option in ("--init", "--weights"):
        asked = ("sensitivity", spec, "--flops", "0.5", option, dense, "--batches", "2")
        code, output = command(*asked, "--json", tmp_path / f"{option}.json")
        assert code == 0, output
    loaded, files = ((tmp_path / f"{option}.json").read_text() for option in ("--init", "--weights"))
    assert loaded == files and "knapsack" in files


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--weights", "nowhere"), "nowhere: no such file or folder"),
        (("--latency",), "--latency exports the dense network, and --weights leaves it in its files"),
        (("--init", "dense.safetensors"), "--init loads weights, and --weights leaves them in their files"),
        (("--experts", "0.5"), "--experts and --keep-tokens compare the model before and after in memory"),
    ],
)
def test_what_a_sweep_from_files_does_not_go_with(options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPEC)
    save_file({"a": torch.ones(1)}, tmp_path / "dense.safetensors")
    code, output = command("sweep", tmp_path / "net.py", "--weights", tmp_path / "dense.safetensors", *options)
    assert code != 0 and why in " ".join(output.split())


def test_a_sweep_in_python_leaves_the_model_without_weights(tmp_path: Path) -> None:
    graph, inputs = empty_graph("residual"), MODELS["residual"][1]
    weights = in_files(tmp_path / "dense", perturbed(MODELS["residual"][0]).state_dict())
    data = [inputs]
    found = atograph.sweep(graph, 0.6, by="taylor", data=data, val_data=data, loss=loss, weights=weights,
                           metric=lambda model, batch: float(loss(model, batch)), metric_mode="min")  # fmt: skip
    assert found.report.rows[0].point is not None and found.report.rows[0].point.metric is not None
    assert graph.model is not None and all(value.is_meta for value in graph.model.parameters())
    with pytest.raises(UserError, match="latency is measured of networks that are exported"):
        atograph.sweep(graph, 0.6, weights=weights, latency=True)
