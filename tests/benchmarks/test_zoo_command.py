"""The zoo benchmark's own parts: table, verdicts, files, processes that hang or die; and one real row."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common.below import write_below
from benchmarks.common.processes import Processes, Stopped
from benchmarks.exact import difference, movement, other_inputs
from benchmarks.peers import torch_pruning as torch_pruning_peer
from benchmarks.zoo import command as zoo
from benchmarks.zoo import table as zoo_table
from benchmarks.zoo.part import Record, first_line
from benchmarks.zoo.rows import Row, Rows, measure_row
from benchmarks.zoo.summary import summary
from benchmarks.zoo.verdict import (
    depth_verdict,
    onnx_excused,
    onnx_verdict,
    peer_verdict,
    reachable,
    verdict,
    why_unreachable,
)


def plan(**changes: Any) -> Row:
    found = {
        "difference": 3e-16, "moved": 0.5, "alive": 0.1, "kept": 0.29, "predicted": 100, "counted": 100,
        "degenerate": False, "at_one_unit": 0,
    }  # fmt: skip
    return found | changes


def row(name: str = "hf:one", **changes: Any) -> Row:
    seconds = {
        "build": 0.1, "capture": 0.4, "analysis": 0.03, "plan": 0.01, "rewrite": 0.1, "analysis warm": 0.02,
    }  # fmt: skip
    part = {
        "seconds": seconds, "nodes": 1234, "unknown": {}, "groups": 3, "units": 96, "share": 0.99,
        "smallest": 0.01, "frozen": {"model output": 2}, "float32_inside": False,
        "random": plan(), "magnitude": plan(),
    }  # fmt: skip
    return {"model": name, "atograph": part | changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "exact"),
        ({"random": plan(difference=1e-7)}, "random half: differs by 1.0e-07"),
        ({"random": plan(difference=1e-7), "float32_inside": True}, "exact"),
        ({"random": plan(difference=2e-6), "float32_inside": True}, "random half: differs by 2.0e-06"),
        ({"random": plan(difference=float("nan"))}, "random half: differs by nan"),
        ({"magnitude": plan(moved=1e-9)}, "0.3 of the FLOPs: moved the output by 1.0e-09 only"),
        ({"magnitude": plan(alive=0.0)}, "0.3 of the FLOPs: the slim output does not depend on the input"),
        ({"magnitude": plan(counted=99)}, "0.3 of the FLOPs: FLOPs predicted 100, counted 99"),
        ({"magnitude": {"refused": "out of reach"}}, "exact"),
        ({"magnitude": {"error": "InternalError: x"}}, "0.3 of the FLOPs: InternalError: x"),
        ({"no_float64": "RuntimeError: no kernel"}, "in float32 only (RuntimeError: no kernel)"),
        ({"error": "more than 5 s", "stage": "capture"}, "capture: more than 5 s"),
    ],
)
def test_verdict(changes: Row, expected: str) -> None:
    assert verdict(row(**changes)) == expected


def test_a_row_without_plans_is_not_exact() -> None:
    assert verdict({"model": "x"}) == "random half: not measured; 0.3 of the FLOPs: not measured"


def test_reachable_needs_more_than_one_unit_somewhere() -> None:
    assert reachable(row())
    degenerate = row(magnitude=plan(degenerate=True))
    assert not reachable(degenerate)
    assert why_unreachable(degenerate) == "one unit is left of every group"
    refused = row(magnitude={"refused": "Too much."})
    assert not reachable(refused)
    assert why_unreachable(refused) == "Too much. Frozen groups: model output (2)."


def test_onnx_failure_is_excused_where_the_dense_model_fails_too() -> None:
    assert onnx_verdict({"onnx": {"differences": {"2": 1e-7, "3": 2e-7}}}) == "2.0e-07"
    assert onnx_verdict({"onnx": {"error": "E: no", "dense": "agrees"}}) == "FAILS: E: no"
    assert onnx_verdict({"onnx": {"differences": {"2": 0.1}, "dense": "agrees"}}) == "FAILS: 1.0e-01"
    assert onnx_verdict({"onnx": {"error": "more than 5 s", "killed": "timeout"}}) == "FAILS: more than 5 s"
    excused = {"onnx": {"error": "E: no", "dense": "E: neither"}}
    assert onnx_excused(excused)
    assert onnx_verdict(excused) == "dense as well: E: neither"


def test_peer_verdict() -> None:
    assert peer_verdict({"torch-pruning": {"outcome": "ran"}}) == "ran"
    assert peer_verdict({"torch-pruning": {"error": "KeyError", "stage": "prune"}}) == "failed"
    assert peer_verdict({"torch-pruning": {"error": "more than 5 s", "killed": "timeout"}}) == "timeout"


def test_table_and_summary() -> None:
    failed = {"model": "tv:two", "atograph": {"seconds": {}, "error": "KeyError: a|b", "stage": "capture"}}
    other = row("hf:three", float32_inside=True, random=plan(difference=5e-8), unknown={"aten.odd.default": 2})
    other["torch-pruning"] = {"outcome": "ran", "total": 1.2, "seconds": {}}
    other["module"] = {"slim": True, "why_not": "", "attributes": 4, "calls": 0, "seconds": {"module": 0.06}}
    failed["module"] = {"slim": False, "why_not": "two.py:3: view", "attributes": 0, "calls": 0, "seconds": {}}
    other["onnx"] = {"differences": {"2": 1e-7, "3": 2e-7}}
    text = zoo_table.markdown([row(), failed, other])
    lines = text.splitlines()
    widths = {len(line) for line in lines[:5]}
    assert len(widths) == 1, "one line a row"
    header, first, second, third = (
        dict(enumerate(line.strip("|").split("|"))) for line in (lines[0], lines[2], lines[3], lines[4])
    )
    cells = {title.strip(): (first[i].strip(), second[i].strip(), third[i].strip()) for i, title in header.items()}
    assert cells["model"] == ("hf:one", "tv:two", "hf:three")
    assert cells["verdict"] == ("exact", "capture: KeyError: a/b", "exact")
    assert cells["nodes"] == ("1,234", "", "1,234")
    assert cells["analysis ms, warm"] == ("20", "", "20")
    assert cells["0.3 reached"] == ("yes", "", "yes")
    assert cells["module"] == ("", "no", "yes") and cells["attributes set"] == ("", "0", "4")
    assert cells["times faster"] == ("", "", "2.2")
    assert "2 of 3 exact." in text
    assert "Largest relative difference in float64: 3.0e-16 (allowed: 1e-09)." in text
    assert "compute something in float32 all the same: 5.0e-08 (allowed: 1e-06)." in text
    assert "Where it prunes to the end, atograph is faster on 1 of 1 (100%), by a median of 2.2 times." in text
    assert (
        "A slim module on 1 of 2, on 1 of them without a corrected call" in text and "- tv:two: two.py:3: view" in text
    )
    assert "- hf:three: aten.odd.default ×2" in text
    assert "- tv:two: capture: KeyError: a|b" in text


def test_summary_of_nothing() -> None:
    assert summary([]).startswith("0 of 0 exact.")


DEPTH = {
    "may_go": 4, "emptied": 2, "difference": 1e-12, "moved": 0.5, "alive": 0.5, "predicted": 7, "counted": 7,
    "kept": 0.5, "slim": True, "why_not": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "exact"),
        ({"difference": 1e-8}, "differs by 1.0e-08"),
        ({"difference": 1e-8, "float32_inside": True}, "exact"),
        ({"counted": 8}, "FLOPs predicted 7, counted 8"),
        ({"moved": 0.0}, "moved the output by 0.0e+00 only"),
        ({"error": "no answer within 240 s", "stage": "module"}, "exact"),
        ({"emptied": 0}, "nothing went"),
    ],
    ids=str,
)
def test_without_branches(changes: dict[str, Any], expected: str) -> None:
    assert depth_verdict({"model": "one", "depth": DEPTH | changes}) == expected


def test_without_branches_in_words() -> None:
    rows: list[Row] = [
        {"model": "one", "depth": DEPTH},
        {"model": "two", "depth": DEPTH | {"slim": False, "why_not": "its code"}},
        {"model": "three", "depth": {"may_go": 0}},
        {"model": "four", "depth": {"error": "ValueError: no", "stage": "proof", "may_go": 2, "emptied": 1}},
    ]
    assert depth_verdict(rows[2]) == "nothing may go"
    assert depth_verdict(rows[3]) == "proof: ValueError: no"
    text = zoo_table.markdown(rows)
    assert "Of 4 models 1 have no branch that may go." in text
    assert "2 of the 3 others are exact, and the module comes back on 1." in text
    assert "- two: its code" in text


def test_markdown_keeps_what_stands_above_its_marker(tmp_path: Path) -> None:
    file = tmp_path / "coverage.md"
    file.write_text(f"# By hand\n\n{zoo_table.MARKER}\n\nold table\n", encoding="utf-8")
    for _ in range(2):
        write_below(file, zoo_table.MARKER, zoo_table.markdown([row()]))
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# By hand\n\n{zoo_table.MARKER}\n\n| model ")
    assert "old table" not in text
    assert text.count(zoo_table.MARKER) == 1


def test_markdown_without_a_marker_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.md"
    file.write_text("precious\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        zoo.main(["--markdown", str(file)])
    assert "has no line" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "precious\n"


def test_a_missing_peer_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo, "installed", lambda: False)
    with pytest.raises(SystemExit):
        zoo.main(["--compare", "torch-pruning"])
    assert torch_pruning_peer.INSTALL in capsys.readouterr().err


def python(code: str) -> Any:
    """A command that runs Python code with the part's name, the model's and the file as ``sys.argv[1:]``."""
    return lambda part, model, found: [sys.executable, "-c", code, part, model, str(found)]


WRITES = "import sys, json; json.dump({'seconds': {}, 'of': sys.argv[1]}, open(sys.argv[3], 'w'))"


def test_a_part_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """The process that it started holds a lock for as long as it lives."""
    lock, held = tmp_path / "lock", tmp_path / "held"
    grandchild = (
        f"import fcntl, pathlib, time; lock = open({str(lock)!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        f"pathlib.Path({str(held)!r}).touch(); time.sleep(600)"
    )
    code = (
        "import json, pathlib, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        f"while not pathlib.Path({str(held)!r}).exists(): time.sleep(0.01)\n"
        "json.dump({'seconds': {'build': 1.0}, 'stage': 'capture'}, open(sys.argv[3], 'w'))\n"
        "time.sleep(600)\n"
    )
    found = measure_row("x", ["atograph"], 4.0, Processes(), python(code))
    assert found["atograph"]["seconds"] == {"build": 1.0}
    assert found["atograph"]["killed"] == "timeout"
    assert verdict(found) == "capture: more than 4 s"
    with lock.open("w") as file:
        for _ in range(600):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)
    raise AssertionError("the process that it started is still there")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.abort()", "died: SIGABRT"),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("pass", "found nothing"),
    ],
)
def test_a_part_that_dies_is_a_row(code: str, expected: str) -> None:
    found = measure_row("x", ["atograph"], 60.0, Processes(), python(code))
    assert found["model"] == "x"
    assert verdict(found) == expected


def test_a_failing_part_leaves_the_others() -> None:
    code = f"import sys\nif sys.argv[1] == 'onnx': sys.exit('broken')\n{WRITES}"
    found = measure_row("x", ["atograph", "onnx"], 60.0, Processes(), python(code))
    assert found["atograph"] == {"seconds": {}, "of": "atograph"}
    assert found["onnx"]["error"] == "broken"


def test_stopped_processes_start_nothing() -> None:
    processes = Processes()
    processes.stop()
    with pytest.raises(Stopped):
        processes.run([sys.executable, "-c", "pass"], 5.0)


def test_rows_are_written_as_they_come_and_resumed(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "zoo.json"
    rows = Rows(file, ["a", "b", "c"])
    rows.add({"model": "c", "atograph": {"nodes": 1}})
    rows.add({"model": "a", "atograph": {"nodes": 2}})
    assert [r["model"] for r in json.loads(file.read_text(encoding="utf-8"))] == ["a", "c"]
    assert [path.name for path in file.parent.iterdir()] == ["zoo.json"], "no half-written file beside it"

    again = Rows(file, ["a", "b", "c"])
    again.load()
    assert again.missing("a", ["atograph", "onnx"]) == ["onnx"]
    assert again.missing("b", ["atograph"]) == ["atograph"]
    again.add({"model": "a", "onnx": {"differences": {}}})
    assert again.listed[0] == {"model": "a", "atograph": {"nodes": 2}, "onnx": {"differences": {}}}


def test_resume_measures_only_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = pytest.importorskip("benchmarks.models", reason="the zoo's packages are not installed")
    monkeypatch.setattr(models, "NAMES", ("hf:one", "hf:two", "tv:three"))
    measured: list[tuple[str, list[str]]] = []

    def measure_all(work: dict[str, list[str]], rows: Rows, _limit: float, _jobs: int) -> bool:
        for name, parts in work.items():
            measured.append((name, parts))
            rows.add(row(name) | {"module": {}})
        return True

    monkeypatch.setattr(zoo, "measure_all", measure_all)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    file = tmp_path / "zoo.json"
    zoo.main(["--only", "hf:one", "--json", str(file)])
    zoo.main(["--only", "hf:*", "--json", str(file), "--resume"])
    assert measured == [("hf:one", ["atograph", "module"]), ("hf:two", ["atograph", "module"])]

    rows = Rows(file, models.NAMES)
    rows.load()
    rows.add({"model": "hf:two", "atograph": {"error": "broken"}})
    measured.clear()
    zoo.main(["--json", str(file), "--resume", "--failed"])
    assert [name for name, _parts in measured] == ["hf:two", "tv:three"]


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zoo.json"
    rows = Rows(file, ["a", "b"])
    add = rows.add

    def interrupted(new: Row) -> None:
        add(new)
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "add", interrupted)
    code = f"import sys, time\nif sys.argv[2] == 'b': time.sleep(60)\n{WRITES}"
    started = time.perf_counter()
    assert not zoo.measure_all({"a": ["atograph"], "b": ["atograph"]}, rows, 60.0, 2, python(code))
    assert time.perf_counter() - started < 30
    assert [r["model"] for r in json.loads(file.read_text(encoding="utf-8"))] == ["a"]


def test_record_keeps_the_stage_that_failed(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    record = Record(file)
    with record.stage("build"):
        pass
    with pytest.raises(ValueError, match="no"), record.stage("capture"):
        raise ValueError("no")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found["seconds"]) == ["build"]
    assert found["stage"] == "capture"
    assert first_line(ValueError("\n \x1b[96mone\x1b[0m\ntwo")) == "ValueError: one"
    assert first_line(ValueError()) == "ValueError"


def tensors(*values: Any) -> Sequence[torch.Tensor]:
    return [torch.as_tensor(value) for value in values]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (tensors([1.0, 2.0]), tensors([1.0, 1.5]), 0.25),
        (tensors([1, 2]), tensors([1, 2]), 0.0),
        (tensors([1, 2]), tensors([1, 3]), float("inf")),
        (tensors([True]), tensors([False]), float("inf")),
        (tensors([-float("inf"), 2.0]), tensors([-float("inf"), 1.0]), 0.5),
        (tensors([float("nan"), 2.0]), tensors([float("nan"), 2.0]), 0.0),
        (tensors([float("nan"), 2.0]), tensors([0.0, 2.0]), float("inf")),
        (tensors([2.0]), tensors([float("nan")]), float("inf")),
        (tensors([2j]), tensors([1j]), 0.5),
        ([], [], 0.0),
    ],
)
def test_difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], expected: float) -> None:
    assert difference(a, b) == expected


def test_movement_looks_at_floats_first() -> None:
    assert movement(tensors([1, 2], [4.0]), tensors([1, 3], [2.0])) == 0.5
    assert movement(tensors([1, 2]), tensors([1, 3])) == 0.5


def test_other_inputs_leave_masks_alone() -> None:
    ids, mask, image = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 1, 0]]), torch.tensor([[1.0, 2.0]])
    (other_image,), other = other_inputs(((image,), {"ids": ids, "mask": mask, "flag": None}))
    assert other["ids"].tolist() == [[5, 3, 4]]
    assert other["mask"] is mask
    assert other["flag"] is None
    torch.testing.assert_close(other_image, torch.tensor([[2.7, 1.4]]))


@pytest.mark.long
def test_a_real_row() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: no real row of the zoo is measured")
    pytest.importorskip("timm", reason="timm is not installed: no real row of the zoo is measured")
    found = measure_row("hf:bert", ["atograph", "module"], 300.0, Processes())
    assert verdict(found) == "exact"
    part = found["atograph"]
    assert part["random"]["difference"] <= 1e-9
    assert part["random"]["moved"] > 1e-2
    assert part["groups"] >= 5
    assert part["unknown"] == {}
    assert reachable(found)
    assert found["module"]["slim"] and found["module"]["attributes"] and found["module"]["calls"]
    assert zoo_table.markdown([found]).startswith("| model ")
