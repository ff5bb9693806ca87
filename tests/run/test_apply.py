"""``atograph apply``: slim weights from any checkpoint, a piece at a time; refusals and failures leave files intact."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from decoder import Decoder, Sizes, tokens
from networks import NETWORKS, build, maker
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.files import shards
from atograph.files.checkpoint import INDEX, Checkpoint, Reader, Stored
from atograph.run import apply


def perturbed(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
    return model.eval()


def write_shards(folder: Path, state: Mapping[str, torch.Tensor], count: int = 3) -> Path:
    """As Hugging Face does."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(state)
    where = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: state[name].clone() for name in names[number::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


class Mixed(nn.Module):
    """Types, a lone number, a parameter that the program does not read, one that stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 10).to(torch.bfloat16), nn.Linear(10, 3).to(torch.float64)
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float16))
        self.unused = nn.Linear(2, 2)
        self.register_buffer("empty", torch.zeros(0, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x.to(torch.bfloat16))) * self.scale
        return self.b(y.double()) + self.empty.sum()


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    **{name: (maker(name), build(name)[1]) for name in NETWORKS},
    "decoder": (lambda: Decoder(Sizes()), tokens()),
    "tied": (lambda: Decoder(Sizes(tied=True)), tokens()),
    "mixed": (Mixed, torch.randn(2, 6)),
}


@cache
def made_slim(name: str) -> tuple[nn.Module, atograph.Slim, atograph.Graph]:
    """A model, what it becomes in memory, and the graph of the same model without weights."""
    make, inputs = MODELS[name]
    dense = perturbed(make())
    loaded = atograph.trace(dense, inputs)
    with atograph.without_weights():
        graph = atograph.trace(make().eval(), inputs)
    return dense, atograph.slim(loaded, loaded.plan(random=3)), graph


@pytest.mark.long
@pytest.mark.parametrize("pieces", [1, 10**9], ids=["row by row", "whole"])
@pytest.mark.parametrize("name", MODELS)
def test_the_slim_weights_are_those_of_the_loaded_model(
    name: str, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_PIECE", pieces)
    inputs = MODELS[name][1]
    dense, expected, graph = made_slim(name)
    weights = write_shards(tmp_path / "dense", dense.state_dict())
    applied = atograph.apply_plan(graph, expected.plan, weights, tmp_path / "slim", shard_size=1000)
    found, state = read(applied.folder), expected.passes_program.state
    read_by_program = {key: value for key, value in found.items() if key in state}
    assert read_by_program.keys() == state.keys() & dense.state_dict().keys()
    for key, value in read_by_program.items():
        assert value.dtype == state[key].dtype and torch.equal(value, state[key]), key
    assert (applied.slim.flops, applied.slim.params) == (expected.flops, expected.params)
    assert all(file.stat().st_size < 4000 or len(load_file(file)) == 1 for file in applied.files)
    module = atograph.load(applied.folder)
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), expected(inputs), rtol=0, atol=0)


def dense_and_plan(tmp_path: Path, name: str = "residual") -> tuple[nn.Module, atograph.Plan, Path]:
    model, inputs = build(name)
    perturbed(model)
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    return model, atograph.trace(model, inputs).plan(flops=0.5), tmp_path / "dense.safetensors"


def empty_graph(name: str = "residual") -> atograph.Graph:
    with atograph.without_weights():
        model, inputs = build(name)
    return atograph.trace(model, inputs)


def test_one_file_has_no_index_and_is_what_hugging_face_reads(tmp_path: Path) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    applied = atograph.apply_plan(empty_graph(), plan, weights, tmp_path / "slim")
    names = ["model.safetensors", "plan.json", "report.json", "slim.pt2"]
    assert sorted(path.name for path in applied.folder.iterdir()) == names
    with safe_open(applied.folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert atograph.Plan.from_json((applied.folder / "plan.json").read_text()) == plan
    report = json.loads((applied.folder / "report.json").read_text())
    assert report["left_out"] == [f"{n}.num_batches_tracked" for n in ("body.1", "body.4", "stem.1")]
    assert report["slim"]["params"] == applied.slim.params < report["dense"]["params"]
    assert report["program"] == "slim.pt2" and report["kept"]["g0"][1] == 8


def test_shards_come_with_an_index(tmp_path: Path) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    applied = atograph.apply_plan(empty_graph(), plan, weights, tmp_path / "slim", shard_size="500B")
    index = json.loads((applied.folder / INDEX).read_text())
    assert len(applied.files) > 2 and {file.name for file in applied.files} == set(index["weight_map"].values())
    assert all(name in load_file(applied.folder / file) for name, file in index["weight_map"].items())
    assert index["metadata"]["total_size"] == applied.report.slim.bytes
    assert Checkpoint.open(applied.folder).nbytes == applied.report.slim.bytes


@pytest.mark.parametrize("given", ["folder", "index", "single in a folder", "file"])
def test_weights_may_be_given_in_any_usual_way(given: str, tmp_path: Path) -> None:
    model, plan, file = dense_and_plan(tmp_path)
    sharded = write_shards(tmp_path / "shards", model.state_dict())
    lone = write_shards(tmp_path / "lone", model.state_dict(), count=1)
    (lone / INDEX).unlink()
    weights = {"folder": sharded, "index": sharded / INDEX, "single in a folder": lone, "file": file}[given]
    applied = atograph.apply_plan(empty_graph(), plan, str(weights), str(tmp_path / "slim"))
    assert torch.equal(read(applied.folder)["head.bias"], model.state_dict()["head.bias"])


@pytest.mark.parametrize("left_out", ["out.weight", "embed.weight", None])
def test_tied_weights_may_stand_under_any_of_their_names(left_out: str | None, tmp_path: Path) -> None:
    make, inputs = MODELS["tied"]
    dense = perturbed(make())
    graph = atograph.trace(dense, inputs)
    plan = graph.plan(random=0)
    state = {name: value.clone() for name, value in dense.state_dict().items() if name != left_out}
    save_file(state, tmp_path / "dense.safetensors")
    applied = atograph.apply_plan(graph, plan, tmp_path / "dense.safetensors", tmp_path / "slim")
    found = read(applied.folder)
    assert found.keys() == state.keys()
    slim = atograph.slim(graph, plan)
    for name in {"out.weight", "embed.weight"} - {left_out}:
        assert torch.equal(found[name], slim.passes_program.state["embed.weight"])
    with torch.no_grad():
        torch.testing.assert_close(atograph.load(applied.folder)(inputs), slim(inputs))


def test_a_plan_that_keeps_all_copies_the_weights(tmp_path: Path) -> None:
    model, _plan, weights = dense_and_plan(tmp_path)
    graph = empty_graph()
    applied = atograph.apply_plan(graph, graph.plan(kept={}), weights, tmp_path / "slim")
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in read(applied.folder).items())


def test_a_buffer_without_value_leaves_the_program_out(tmp_path: Path) -> None:
    make, inputs = MODELS["decoder"]
    dense = perturbed(make())
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    with torch.device("meta"):
        graph = atograph.trace(make().eval(), inputs)
    applied = atograph.apply_plan(graph, graph.plan(random=0), tmp_path / "dense.safetensors", tmp_path / "slim")
    assert applied.report.program.startswith("not written: frequencies is not in the weights")
    with pytest.raises(atograph.UserError, match=r"there is no slim\.pt2"):
        atograph.load(applied.folder)


# -- memory ------------------------------------------------------------------------------------------------------------

_LARGE = """
    import json, resource, sys
    from pathlib import Path

    import torch
    from torch import nn

    import atograph

    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(*((1024, 12288)[:: 1 if i % 2 else -1])[::-1], bias=False)
                                        for i in range(12))

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x))
            return x

    folder = Path(sys.argv[1])
    with torch.device("meta"):
        model = Large()
    where = {}
    for name, value in model.state_dict().items():  # sparse files: zeros that take no time to write
        file = f"model-{len(where) + 1:05}-of-00012.safetensors"
        size = value.numel() * 4
        entry = {name: {"dtype": "F32", "shape": list(value.shape), "data_offsets": [0, size]}}
        header = json.dumps(entry).encode()
        with (folder / file).open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            out.truncate(8 + len(header) + size)
        where[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    graph = atograph.trace(model, torch.randn(2, 1024))
    plan = graph.plan(random=0)
    atograph.slim(graph, plan).program  # what an export loads once is no part of the growth
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    applied = atograph.apply_plan(graph, plan, folder, folder / "slim", shard_size="100MB")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    print(json.dumps([applied.report.dense.bytes / 1e6, applied.report.slim.bytes / 1e6, len(applied.files), grown]))
"""


@pytest.mark.long
def test_a_checkpoint_need_not_fit_in_memory(tmp_path: Path) -> None:
    """604 MB in 12 shards; what the process has resident grows by a tenth of that."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_LARGE), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    dense, slim, files, grown = json.loads(found.stdout.splitlines()[-1])
    assert dense > 600 and 150 < slim < 310 and files >= 2
    assert grown < 150


# -- what does not fit is refused before anything is written -----------------------------------------------------------


def refused(tmp_path: Path, weights: Path, graph: atograph.Graph, plan: atograph.Plan) -> str:
    with pytest.raises(atograph.UserError) as refusal:
        atograph.apply_plan(graph, plan, weights, tmp_path / "runs" / "slim")
    assert not (tmp_path / "runs").exists()
    return str(refusal.value)


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (
        lambda s: [s.pop(name) for name in ("head.bias", "stem.0.weight")],
        "the weights do not fit the model: 2 missing: stem.0.weight, head.bias. Nothing was written.",
    ),
    "unexpected": (lambda s: s.update(other=torch.ones(1)), "1 unexpected: other."),
    "shape": (
        lambda s: s.update({"head.bias": torch.ones(7)}),
        "1 of another shape: head.bias (checkpoint [7], model [5]).",
    ),
    "type": (
        lambda s: s.update({"head.bias": torch.ones(5, dtype=torch.bfloat16)}),
        "1 of another type: head.bias (checkpoint bfloat16, model float32). Nothing was written. Make the model in "
        "that type: model.to(torch.bfloat16).",
    ),
    "several": (
        lambda s: (s.pop("head.bias"), s.update({f"x{i}": torch.ones(1) for i in range(5)})),
        "1 missing: head.bias; 5 unexpected: x",
    ),
}


@pytest.mark.parametrize("what", STATES)
def test_a_checkpoint_of_another_model_is_refused(what: str, tmp_path: Path) -> None:
    model, plan, _weights = dense_and_plan(tmp_path)
    change, message = STATES[what]
    state = dict(model.state_dict())
    change(state)
    message_found = refused(tmp_path, write_shards(tmp_path / "other", state), empty_graph(), plan)
    assert message in message_found and message_found.startswith(str(tmp_path / "other"))


def test_tensors_that_nothing_reads_may_be_missing(tmp_path: Path) -> None:
    model, plan, _weights = dense_and_plan(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    applied = atograph.apply_plan(empty_graph(), plan, write_shards(tmp_path / "d", state), tmp_path / "slim")
    assert applied.report.left_out == []


def test_a_plan_for_another_model_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    message = refused(tmp_path, weights, empty_graph("gated"), plan)
    assert message.startswith(
        "the plan is for another model. The first difference is group g0: `8 units  stem.0.weight[0]"
    )
    assert " in the plan, `12 units  expand.0.weight[0]" in message and message.endswith(" here.")


def test_another_classifier_is_told_apart_though_it_cannot_be_pruned() -> None:
    model, inputs = build("residual")
    plan = atograph.trace(model, inputs).plan(random=0)
    model.head = nn.Linear(8, 7)
    with pytest.raises(atograph.UserError) as refusal:
        atograph.slim(atograph.trace(model, inputs), plan)
    assert "group g3: `5 units  head.weight[0], head.bias[0]  frozen` in the plan, `7 units" in str(refusal.value)


def test_a_long_group_is_shown_where_it_differs() -> None:
    wide, wider = (atograph.trace(Decoder(Sizes(layers=n)).eval(), tokens()) for n in (5, 6))
    with pytest.raises(atograph.UserError) as refusal:
        atograph.slim(wider, wide.plan(random=0))
    assert "group g1: `... " in str(refusal.value) and len(str(refusal.value)) < 400


def damage(folder: Path, what: str) -> None:
    first = sorted(folder.glob("*.safetensors"))[0]
    index = json.loads((folder / INDEX).read_text())
    content = first.read_bytes()
    length = int.from_bytes(content[:8], "little")
    match what:
        case "cut off":
            first.write_bytes(content[:-3])
        case "header cut off":
            first.write_bytes(content[:20])
        case "no safetensors":
            first.write_bytes(b"PK\x03\x04" + bytes(100))
        case "no JSON":
            first.write_bytes(content[:8] + b"{" * length)
        case "no object":
            first.write_bytes((4).to_bytes(8, "little") + b"[1] ")
        case "wrong size":
            first.write_bytes(content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,'))
        case "missing":
            first.unlink()
        case "index lies":
            index["weight_map"]["head.bias"] = "model-00003-of-00003.safetensors"
        case "index leaves the folder":
            index["weight_map"]["head.bias"] = "../dense.safetensors"
        case "no index":
            index = {"weights": []}
        case "no files":
            index = {"weight_map": {}}
    if "index" in what or what == "no files":
        (folder / INDEX).write_text(json.dumps(index))


DAMAGE = {
    "cut off": r"model-00001-of-00003\.safetensors: the file is cut off: it ends in the middle of [\w.]+, after \d+",
    "header cut off": "model-00001-of-00003.safetensors: not a safetensors file, or cut off within its header",
    "no safetensors": "not a safetensors file, or cut off within its header",
    "no JSON": "not a safetensors file: ",
    "no object": "its header is no object",
    "wrong size": "the size of .* is wrong",
    "missing": r"index\.json: the shard model-00001-of-00003\.safetensors is missing",
    "index lies": r"the index says that head\.bias is in model-00003-of-00003\.safetensors, and it is not",
    "index leaves the folder": r"names the shard '\.\./dense\.safetensors', which is not beside it",
    "no index": "not an index of safetensors",
    "no files": "the checkpoint holds no tensor",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused(what: str, tmp_path: Path) -> None:
    model, plan, _weights = dense_and_plan(tmp_path)
    folder = write_shards(tmp_path / "shards", model.state_dict())
    damage(folder, what)
    with pytest.raises(atograph.UserError, match=DAMAGE[what]):
        Checkpoint.open(folder)
    refused(tmp_path, folder, empty_graph(), plan)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    model, _plan, _weights = dense_and_plan(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"")
    two = write_shards(tmp_path / "two", model.state_dict(), count=2)
    (two / INDEX).unlink()
    for path, message in {
        tmp_path / "nothing": "no such file or folder",
        tmp_path / "empty": "there are no safetensors in this folder",
        tmp_path / "weights.pt": "not a checkpoint of safetensors",
        two: "the folder holds 2 of",
    }.items():
        with pytest.raises(atograph.UserError, match=message):
            Checkpoint.open(path)


# -- failures on the way -----------------------------------------------------------------------------------------------


def earlier_run(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text('{"format": "atograph report 2"}')
    (folder / "model.safetensors").write_bytes(b"old")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_that_shrinks_meanwhile_leaves_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    before = earlier_run(tmp_path / "runs" / "slim")
    rows = Reader.rows

    def shrinking(reader: Reader, stored: Stored, start: int, stop: int) -> torch.Tensor:
        if stored.name == "stem.1.weight":
            os.truncate(weights, stored.start + 2)
        return rows(reader, stored, start, stop)

    monkeypatch.setattr(Reader, "rows", shrinking)
    with pytest.raises(atograph.UserError, match=r"dense\.safetensors: the file ends in the middle of stem\.1\.weight"):
        atograph.apply_plan(empty_graph(), plan, weights, tmp_path / "runs" / "slim", force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs" / "slim").iterdir()} == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["slim"]


def test_a_full_disk_leaves_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    before = earlier_run(tmp_path / "runs" / "slim")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(apply.ShardWriter, "write", full)
    with pytest.raises(atograph.UserError, match="slim: cannot write there: No space left on device"):
        atograph.apply_plan(empty_graph(), plan, weights, tmp_path / "runs" / "slim", force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs" / "slim").iterdir()} == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["slim"]


def test_a_disk_that_would_be_full_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    monkeypatch.setattr(apply.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 100})())
    assert "the disk is too full: " in refused(tmp_path, weights, empty_graph(), plan)


def test_the_dense_weights_are_never_replaced(tmp_path: Path) -> None:
    model, plan, _weights = dense_and_plan(tmp_path)
    earlier_run(tmp_path / "run")
    save_file(model.state_dict(), tmp_path / "run" / "model.safetensors")
    with pytest.raises(atograph.UserError, match="the dense weights lie in the folder that would be replaced"):
        atograph.apply_plan(empty_graph(), plan, tmp_path / "run", tmp_path / "run", force=True)


SIZES = [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("1.5K", 1500), ("12", 12), (12, 12), ("2TB", 2 * 10**12)]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert shards.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "5 GiB", "GB", 0])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(atograph.UserError, match="is no size"):
        shards.parse_size(text)


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_run_of_compress_loads_the_same_way(tmp_path: Path) -> None:
    model, inputs = build("residual")
    graph = atograph.trace(perturbed(model), inputs)
    slim = atograph.slim(graph, graph.plan(random=0))
    slim.save(tmp_path / "run")
    torch.testing.assert_close(atograph.load(tmp_path / "run")(inputs), slim(inputs), rtol=0, atol=0)


def test_a_folder_with_a_part_missing_does_not_load(tmp_path: Path) -> None:
    _model, plan, weights = dense_and_plan(tmp_path)
    for file, message in {
        "slim.pt2": r"there is no slim\.pt2",
        "report.json": "not a report of atograph",
        "model.safetensors": "there are no safetensors",
    }.items():
        folder = atograph.apply_plan(empty_graph(), plan, weights, tmp_path / file).folder
        (folder / file).unlink()
        with pytest.raises(atograph.UserError, match=message):
            atograph.load(folder)
    folder = atograph.apply_plan(empty_graph(), plan, weights, tmp_path / "other").folder
    state = load_file(folder / "model.safetensors")
    state.pop("head.bias")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        atograph.UserError, match=r"model\.safetensors: the weights do not fit slim\.pt2: 1 missing: head\.bias\."
    ):
        atograph.load(folder)


# -- the command -------------------------------------------------------------------------------------------------------

SPEC = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, computed):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        if computed:  # a constructor that computes with its parameters
            self.factor = float(self.a.weight.detach().abs().sum() * 0 + 1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def model():
    return Net(False)


def computed():
    return Net(True)


def broken():
    raise RuntimeError("no model today")


def example_inputs():
    return torch.randn(2, 4)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.py").write_text(SPEC)
    namespace: dict[str, Any] = {}
    exec(SPEC, namespace)
    torch.manual_seed(0)
    net = namespace["model"]()
    save_file(net.state_dict(), "dense.safetensors")
    Path("plan.json").write_text(atograph.trace(net, torch.randn(2, 4)).plan(flops=0.5).to_json())
    return tmp_path


def run(*arguments: str, spec: str = "spec.py") -> tuple[int, str, str]:
    command = ["apply", "plan.json", spec, "--weights", "dense.safetensors", "--out", "slim", *arguments]
    result = CliRunner().invoke(app, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_writes_and_says_what(place: Path) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "weights: 232 B in 4 tensors and 1 file",
        "slim: 120 B in 1 file; 51.7 % of the parameters, 50.0 % of the FLOPs",
        "written to slim",
    ]
    assert sorted(path.name for path in (place / "slim").iterdir()) == [
        "model.safetensors", "plan.json", "report.json", "slim.pt2"
    ]  # fmt: skip
    assert atograph.load("slim")(torch.randn(5, 4)).shape == (5, 2)
    assert run("--quiet", "--force", "--shard-size", "50") == (0, "", "")
    assert (place / "slim" / INDEX).exists() and not (place / "slim" / "model.safetensors").exists()


LLAMA = """import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)

def model():
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()

def example_inputs():
    return {"input_ids": torch.arange(6)[None], "use_cache": False}
"""


def test_what_transformers_loads_is_named(
    transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.py").write_text(LLAMA)
    source: dict[str, Any] = {}
    exec(LLAMA, source)
    net, call = source["model"](), source["example_inputs"]()
    net.save_pretrained("dense")
    Path("dense/tokenizer.json").write_text("{}")
    Path("dense/notes.txt").touch()
    Path("plan.json").write_text(atograph.trace(net, (), call).plan(flops=0.8, by="magnitude", uniform=True).to_json())
    done = CliRunner().invoke(app, ["apply", "plan.json", "spec.py", "--weights", "dense", "--out", "slim"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-3:] == [
        "LlamaForCausalLM.from_pretrained loads slim", "tokenizer: tokenizer.json", "written to slim"
    ]  # fmt: skip
    transformers.LlamaForCausalLM.from_pretrained("slim")


def test_a_constructor_that_needs_weights_gets_them(place: Path) -> None:
    code, _out, err = run(spec="spec.py:computed")
    assert code == 0 and err.startswith("warning: the model cannot be made without its weights (")
    assert err.endswith("), so it is made with them.\n")


REFUSALS: dict[str, tuple[Callable[[], Any], tuple[str, ...], str]] = {
    "a run is there": (lambda: earlier_run(Path("slim")), (), "slim: a run is there already."),
    "something else is there": (lambda: (Path("slim").mkdir(), Path("slim/mine").touch()), ("--force",), "no run of"),
    "no plan": (lambda: Path("plan.json").unlink(), (), "plan.json: cannot read the plan: No such file"),
    "half a plan": (
        lambda: Path("plan.json").write_text(Path("plan.json").read_text()[:100]), (),
        "plan.json: this is not a valid plan: ",
    ),
    "an edited plan": (
        lambda: Path("plan.json").write_text(Path("plan.json").read_text().replace("a.weight", "c.weight")), (),
        "the plan is for another model. The first difference is group g0: `8 units  c.weight[0]",
    ),
    "no weights": (lambda: Path("dense.safetensors").unlink(), (), "dense.safetensors: no such file or folder."),
    "half the weights": (lambda: os.truncate("dense.safetensors", 400), (), "dense.safetensors: the file is cut off"),
    "a size": (lambda: None, ("--shard-size", "big"), "`big` is no size."),
    "no file": (lambda: Path("spec.py").unlink(), (), "spec.py: no such file."),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_the_command_refuses_in_words(what: str, place: Path) -> None:
    prepare, options, message = REFUSALS[what]
    prepare()
    before = sorted(str(path) for path in place.rglob("*"))
    code, _out, err = run(*options)
    assert code == 2 and err.startswith("error: ") and message in err
    assert sorted(str(path) for path in place.rglob("*") if "__pycache__" not in str(path)) == before


def test_a_model_that_cannot_be_made_is_shown_as_the_users_error(place: Path) -> None:
    code, _out, err = run(spec="spec.py:broken")
    assert code == 2 and "no model today" in err and "RuntimeError was raised while calling broken()" in err
