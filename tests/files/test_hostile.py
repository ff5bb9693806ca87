"""Files that are damaged, swapped, endless or made to do harm: refused by what they say, before anything is made."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import file_attacks, json_attacks, safetensors, tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import command, make_run
from safetensors.torch import save_file

import atograph
from atograph.files.checkpoint import INDEX, Checkpoint
from atograph.files.plan_file import read_plan
from atograph.latency.table import LatencyRecord
from atograph.program.load import load_safetensors
from atograph.report.applied import load_report
from atograph.run.export import _costs, export_run
from atograph.spec.spec import load_spec
from atograph.train.saved.checkpoints import Checkpoints

MOST = 64 * 2**20
"""Bytes of memory that a refusal may take: the longest header that is read is a tenth of it."""

LATENCY = {
    "format": "atograph latency 1", "fingerprint": "0", "batch": 1, "threads": 1, "dense": 1.5, "layers": {"a": [1.0]},
    "rounding": {"flops=0.5": {"8": {"latency": 0.5, "flops": 0.5}}}, "plans": {"0": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its dense weights in one file and in shards, a table of latencies and a checkpoint."""
    folder = tmp_path_factory.mktemp("hostile")
    make_run(folder)
    state = load_spec(str(folder / "net.py")).model().state_dict()
    save_file(state, folder / "net.safetensors")
    (folder / "shards").mkdir()
    names = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(state)}
    for file in set(names.values()):
        save_file({name: value for name, value in state.items() if names[name] == file}, folder / "shards" / file)
    (folder / "shards" / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "latency.json").write_text(json.dumps(LATENCY))
    Checkpoints(folder / "saved", {"seed": 1}, 0).save(1, 2, {"weights": dict(state), "history": [{"loss": 1.0}]})
    weights, out = ("--weights", folder / "net.safetensors"), ("--out", folder / "applied")
    code, output = command("apply", folder / "run/plan.json", folder / "net.py", *weights, *out)
    assert code == 0, output
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place", ignore=shutil.ignore_patterns("__pycache__", "report.html")))


def load_saved(folder: Path) -> Any:
    return Checkpoints(folder, {"seed": 1}, 0).load()


STATE = "saved/000001-00000002/state.json"

Read = Callable[[Path], Any]

READERS: dict[str, tuple[str, Read, str]] = {
    "plan": ("run/plan.json", lambda place: read_plan(place / "run/plan.json"), "plan"),
    "report": ("run/report.json", lambda place: load_report(place / "run"), "report"),
    "report, for its costs": ("run/report.json", lambda place: _costs(place / "run"), "report"),
    "report of apply": (
        "applied/report.json",
        lambda place: load_report(place / "applied"),
        "not a report of atograph",
    ),
    "latencies": ("latency.json", lambda place: LatencyRecord.load(place / "latency.json"), "not a latency table"),
    "index": (f"shards/{INDEX}", lambda place: Checkpoint.open(place / "shards"), ""),
    "checkpoint": (STATE, lambda place: load_saved(place / "saved"), "this checkpoint cannot be read: "),
}
"""Kind of file → where it is, what reads it, and what a refusal says."""

LOADING: dict[str, tuple[str, Read, str]] = {
    "names": ("applied/report.json", lambda place: atograph.load(place / "applied"), ""),
    "report of another run": ("run/report.json", lambda place: export_run(place / "run"), ""),
}
"""The same where what they say is used beside a program."""

BINARY: dict[str, tuple[str, Read]] = {
    "weights": ("net.safetensors", lambda place: Checkpoint.open(place / "net.safetensors")),
    "weights of a run": ("run/slim.safetensors", lambda place: load_safetensors(place / "run/slim.safetensors")),
    "a shard": ("shards/model-0.safetensors", lambda place: Checkpoint.open(place / "shards")),
    "program": ("run/slim.pt2", lambda place: atograph.load(place / "run")),
    "tensors of a checkpoint": (STATE.replace("state.json", "tensors.safetensors"),
                                lambda place: load_saved(place / "saved")),
}  # fmt: skip

FORMS = {"infinite", "not a number", "too large a number"}
"""What a checkpoint may hold: a loss, say."""


def refused(read: Callable[[], Any], message: str, where: Path | None = None) -> None:
    """It is, in one paragraph, without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(atograph.UserError) as refusal:
            read()
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    text = str(refusal.value)
    assert message in text and "\n" not in text and len(text) < 700, text
    assert where is None or str(where) in text, text


def listing(folder: Path) -> set[tuple[str, int]]:
    return {(str(path.relative_to(folder)), path.lstat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", READERS)
def test_json_that_is_none(place: Path, kind: str) -> None:
    name, read, message = READERS[kind]
    path = place / name
    read(place)
    before = listing(place)
    for attack, content in json_attacks(path).items():
        whole = path.read_bytes()
        path.write_bytes(content)
        refused(lambda: read(place), "" if attack in FORMS else message, path.parent)
        path.write_bytes(whole)
    assert listing(place) == before


@pytest.mark.parametrize("kind", [*READERS, *BINARY])
def test_what_is_no_file(made: Path, tmp_path: Path, kind: str) -> None:
    name, read = READERS[kind][:2] if kind in READERS else BINARY[kind]
    for number, attack in enumerate(file_attacks(made / name)):
        place = tmp_path / str(number)
        shutil.copytree(made, place, ignore=shutil.ignore_patterns("__pycache__", "report.html"))
        file_attacks(place / name)[attack]()
        before = listing(place)
        refused(lambda place=place: read(place), "")
        assert listing(place) == before, attack
        shutil.rmtree(place)


def put(*keys: Any, to: Any) -> Callable[[Any], None]:
    """Sets one value somewhere in JSON."""

    def change(value: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return change


SLICE = ("zeroing", "g0", 0)

WRONG: list[tuple[str, Callable[[Any], None], str]] = [
    *(("plan", put("version", to=value), "version: ") for value in ("1", True, 1.0, None, 2, -1, 10**400)),
    *(("plan", put("sizes", "g0", to=value), "sizes.g0: ") for value in ("16", True, 0, -16, 16.0, [])),
    ("plan", put("sizes", "g0", to=10**18), "a slice of 0.weight does not fit group g0"),
    ("plan", put("kept", "g0", to=[0, 0]), "not increasing indices"),
    ("plan", put("kept", "g0", to=[10**30]), "not increasing indices"),
    ("plan", put("kept", "g0", 0, to="2"), "kept.g0.0: "),
    ("plan", put("kept", "../g1", to=[0]), "name different groups"),
    ("plan", put("zeroing", "g0", to=None), "zeroing.g0: "),
    ("plan", put(*SLICE, "length", to=2), "units lie outside of the dimension"),
    ("plan", put(*SLICE, "outer", to=10**18), "units lie outside of the dimension"),
    ("plan", put(*SLICE, "stride", to=-1), "stride: "),
    ("plan", put(*SLICE, "positions", to=[0] * 16), "units overlap"),
    ("plan", put(*SLICE, "path", to="/etc/passwd"), "path: Extra inputs are not permitted"),
    ("plan", put("coupled", to=[["g0"]]), "coupled.0"),
    ("report", put("format", to="atograph report 99"), "does not match any of the expected tags"),
    ("report", put("dense", "flops", to="5"), "dense.flops: "),
    ("report", put("dense", "flops", to=-5), "dense.flops: "),
    ("report", put("dense", "flops", to=True), "dense.flops: "),
    ("report", put("spec", to=["net.py"]), "spec: "),
    ("report", put("certificate", to={}), "certificate: "),
    ("report, for its costs", put("slim", "params", to=1.5), "slim.params: "),
    ("report of another run", put("plan", to="0" * 16), "do not belong together: report.json is of the plan 000"),
    ("names", put("renamed", to=None), "renamed: "),
    ("report of apply", put("renamed", "5.bias", to=7), "renamed.5.bias: "),
    ("names", put("renamed", "5.bias", to="../5.bias"), "1 missing: ../5.bias"),
    ("latencies", put("dense", to=-1.0), "dense: "),
    ("latencies", put("batch", to=0), "batch: "),
    ("latencies", put("layers", "a", 0, to="1"), "layers.a.0: "),
    ("latencies", put("rounding", "flops=0.5", to={}), "rounding.flops=0.5: "),
    ("latencies", put("rounding", "flops=0.5", "8", "flops", to=0.0), "rounding.flops=0.5.8.flops: "),
    ("latencies", put("rounding", "flops=0.5", "-8", to={"latency": 1.0, "flops": 1.0}), "rounding.flops=0.5.-8"),
    *(("index", put("weight_map", "5.bias", to=file), f"names the shard {file!r}, which is not beside it")
      for file in ("../net.safetensors", "/etc/passwd", "x/../../net.safetensors", "run/slim.safetensors")),
    *(("index", put("weight_map", "5.bias", to=file), "is missing") for file in ("..", "", "model\0.safetensors")),
    ("index", put("weight_map", "5.bias", to=5), "weight_map.5.bias: "),
    ("index", put("weight_map", to=[]), "weight_map: "),
    ("checkpoint", put("format", to="atograph checkpoint 1"), "format: Input should be 'atograph checkpoint 2'"),
    ("checkpoint", put("identity", to=[]), "identity: "),
    ("checkpoint", put("identity", "seed", to=2), "of another run: seed was 2 there, and is 1 now"),
    ("checkpoint", put("sha256", to="0" * 64), "its tensors are not those that were written"),
    ("checkpoint", put("state", to=[1]), "its state is a list"),
    ("checkpoint", put("state", to={"dict": [], "list": []}), "this checkpoint cannot be read"),
    ("checkpoint", put("state", to={"dict": [[{"list": []}, 1]]}), "this checkpoint cannot be read: unhashable"),
    ("checkpoint", put("state", to={"tensor": "no such"}), "this checkpoint cannot be read"),
    ("checkpoint", put("state", to={"tensor": {"a": 1}}), "this checkpoint cannot be read"),
    ("checkpoint", put("state", to={"named": ["a(): import os", ["x"], [1]]}), "valid identifiers"),
    ("checkpoint", put("state", to={"object": ["os", "system"]}), "its state is a tuple"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "message"), WRONG)
def test_json_that_says_something_wrong(place: Path, kind: str, change: Callable[[Any], None], message: str) -> None:
    name, read, _message = {**READERS, **LOADING}[kind]
    value = json.loads((place / name).read_text())
    change(value)
    (place / name).write_text(json.dumps(value))
    before = listing(place)
    refused(lambda: read(place), message, place)
    assert listing(place) == before


HEADERS: dict[str, tuple[bytes, str]] = {
    "a header of 2^60": (safetensors(b"{}", length=2**60), "not a safetensors file"),
    "a header of 100 MB": (safetensors(b"{}", length=10**8), "not a safetensors file"),
    "eight bytes": (bytes(8), "not a safetensors file"),
    "four bytes": (bytes(4), "not a safetensors file"),
    "nested": (safetensors(b"[" * 100_000), "it is nested too deeply"),
    "a name twice": (safetensors(b'{"a": ' + json.dumps(tensor()).encode() + b', "a": '
                                 + json.dumps(tensor()).encode() + b"}", bytes(8)), "'a' stands in it twice"),
    "no tensor": (safetensors({}), "holds no tensor"),
    "10^12 numbers": (safetensors({"a": tensor([10**12], [0, 4 * 10**12])}, bytes(8)), "cut off"),
    "an overflow": (safetensors({"a": tensor([2**33, 2**33], [0, 8])}, bytes(8)), "the size of a is wrong"),
    "negative": (safetensors({"a": tensor([-2], [0, -8])}, bytes(8)), "nothing sensible about a"),
    "no order": (safetensors({"a": tensor([2], [8, 0])}, bytes(8)), "the size of a is wrong"),
    "a shape of text": (safetensors({"a": tensor(["2"])}, bytes(8)), "nothing sensible about a"),
    "a shape of truth": (safetensors({"a": tensor([True], [0, 4])}, bytes(4)), "nothing sensible about a"),
    "half a number": (safetensors({"a": tensor([2.0])}, bytes(8)), "nothing sensible about a"),
    "offsets of three": (safetensors({"a": tensor(offsets=[0, 8, 8])}, bytes(8)), "nothing sensible about a"),
    "more to say": (safetensors({"a": tensor() | {"path": "/etc/passwd"}}, bytes(8)), "nothing sensible about a"),
    "another type": (safetensors({"a": tensor(dtype="OBJECT")}, bytes(8)), "is of the type OBJECT"),
    "overlap": (safetensors({"a": tensor(), "b": tensor(offsets=[4, 12])}, bytes(12)), "b does not begin where"),
    "a hole": (safetensors({"a": tensor(), "b": tensor(offsets=[16, 24])}, bytes(24)), "b does not begin where"),
    "more than there is": (safetensors({"a": tensor()}, bytes(80)), "72 bytes at its end are of no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HEADERS)
def test_headers_that_lie(attack: str, tmp_path: Path) -> None:
    content, message = HEADERS[attack]
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    refused(lambda: Checkpoint.open(path), message, path)
    if attack != "no tensor":
        refused(lambda: load_safetensors(path), message, path)


def test_a_plan_of_another_model_is_refused_before_a_mask_of_it_is_made(place: Path) -> None:
    plan = json.loads((place / "run/plan.json").read_text())
    plan["sizes"]["g0"] = 10**15
    for part in plan["zeroing"]["g0"]:
        part |= {"size": 10**15, "length": 10**15, "stride": 10**15}
    (place / "run/plan.json").write_text(json.dumps(plan))
    large = read_plan(place / "run/plan.json")
    model = load_spec(str(place / "net.py")).model()
    refused(lambda: atograph.mask(model, large), "the plan has 1000000000000000 at dimension 0")
    graph = atograph.trace(model, torch.randn(2, 1, 8, 8))
    refused(lambda: atograph.slim(graph, large), "the plan is for another model")


def test_text_of_a_file_does_not_command_the_terminal(place: Path) -> None:
    plan = json.loads((place / "run/plan.json").read_text())
    plan["sizes"]["\x1b[2J\u202e"] = "x"
    (place / "run/plan.json").write_text(json.dumps(plan))
    with pytest.raises(atograph.UserError, match=r"sizes\.\\u001b\[2J\\u202e: ") as refusal:
        read_plan(place / "run/plan.json")
    assert "\x1b" not in str(refusal.value)


def test_a_run_does_not_bring_the_code_that_is_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "run" / "evil.py").write_text("open('was run', 'w')")
    report = json.loads((place / "run/report.json").read_text())
    for spec in ("run/evil.py", "run/../run/evil.py:model", str(place / "run" / "evil.py"), "x" * 5000, "a\0.py"):
        (place / "run/report.json").write_text(json.dumps(report | {"spec": spec}))
        code, output = command("verify", "run")
        assert code == 2 and output.count("error: ") == 1 and "Traceback" not in output, output
    assert not (place / "was run").exists()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inside for found in places(item, (*path, key)))]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**18, -(10**30), 10**400, 2**63])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "/dev/zero", "\0", "\ud800", "__class__", "0.weight"]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=6,
)


@pytest.mark.long
@pytest.mark.parametrize("kind", READERS)
def test_json_that_was_changed_at_random(made: Path, tmp_path: Path, kind: str) -> None:
    """It is refused, or something valid: no other exception."""
    name, read, _message = READERS[kind]
    place = Path(shutil.copytree(made, tmp_path / "place", ignore=shutil.ignore_patterns("report.html")))
    value = json.loads((place / name).read_text())
    where = places(value)

    @settings(max_examples=120, deadline=None, derandomize=True, database=None,
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(changes=st.lists(st.tuples(st.sampled_from(where), ANYTHING, st.booleans()), min_size=1, max_size=3))
    def check(changes: list[tuple[tuple[Any, ...], Any, bool]]) -> None:
        changed = json.loads(json.dumps(value))
        for path, new, gone in changes:
            try:
                inside = changed
                for key in path[:-1]:
                    inside = inside[key]
                if gone and path:
                    del inside[path[-1]]
                elif path:
                    inside[path[-1]] = new
                else:
                    changed = new
            except (KeyError, IndexError, TypeError):  # an earlier change took it away
                continue
        (place / name).write_text(json.dumps(changed))
        try:
            found = read(place)
        except atograph.UserError as error:
            assert not any(char in str(error) for char in "\x1b\0\ud800")
        else:
            assert found is not None

    check()
