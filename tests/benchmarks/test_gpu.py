"""The benchmark of a GPU: its parts are kept, a call ends in time, and the next one goes on."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu import checks as gpu_checks
from benchmarks.gpu import command as gpu
from benchmarks.gpu.command import Kept, Part, Row, go_on, tables

WHERE = {"device": "some card", "torch": "2", "reduced": True}


def parts(made: list[str], *, slow: str = "") -> list[Part]:
    def part(kind: str, name: str) -> Part:
        def make() -> Row:
            made.append(name)
            if name == slow:
                time.sleep(60)
            if name == "wrong":
                raise ValueError("the card\nis on fire")
            return {"what": name, "ms": 1.5}

        return Part(kind, name, make)

    return [part("steps", "one"), part("steps", "wrong"), part("runs", "two"), part("runs", "three")]


def test_a_call_ends_in_time_and_the_next_one_goes_on(tmp_path: Path) -> None:
    made: list[str] = []
    file = tmp_path / "new" / "gpu.json"
    left = go_on(parts(made, slow="two"), Kept(file, WHERE), 0.5 / 60)
    assert left == ["runs: two", "runs: three"] and made == ["one", "wrong", "two"]
    made.clear()
    kept = Kept(file, WHERE)
    assert go_on(parts(made), kept, 1) == [] and made == ["three", "two"]  # what was too slow comes last
    assert tables(parts(made), kept).splitlines() == [
        "### steps", "", "| what | ms |", "|---|---|", "| one | 1.5 |", "",
        "### runs", "", "| what | ms |", "|---|---|", "| two | 1.5 |", "| three | 1.5 |", "",
        "### failed", "", "- steps: wrong: ValueError: the card",
    ]  # fmt: skip


def test_what_would_take_too_long_is_not_begun(tmp_path: Path) -> None:
    made: list[str] = []
    kept = Kept(tmp_path / "gpu.json", WHERE)
    kept.add("runs: two", {"what": "two", "ms": 1.5, "seconds": 100})
    kept.add_tried("steps: one", 60)
    assert go_on(parts(made), kept, 1) == ["steps: one", "runs: three"] and made == ["wrong"]


def test_parts_of_another_card_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    Kept(file, WHERE).add("steps: one", {"seconds": 1})
    with pytest.raises(SystemExit, match="give another --json"):
        Kept(file, {**WHERE, "device": "another card"})


@pytest.mark.long
def test_a_reduced_call_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, markdown = tmp_path / "gpu.json", tmp_path / "gpu.md"
    command = ["--device", "cpu", "--reduced", "--json", str(file), "--markdown", str(markdown)]
    gpu.main([*command, "--only", "checks: float32", "--only", "steps: *"])
    assert len(json.loads(file.read_text())["parts"]) == 2
    text = capsys.readouterr().out
    assert text.startswith("cpu (no GPU), torch ") and "| float32 | yes | loss " in text and "2 of 2 parts" in text
    assert markdown.read_text() in text and "| ResNet-20 | 16 | float32 | 0.5 | 1 |" in text


@pytest.mark.long
def test_a_run_that_stopped_is_gone_on_with() -> None:
    assert gpu_checks.resumed(Namespace(device="cpu")) == (True, "bit for bit")
