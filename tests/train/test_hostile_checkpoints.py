"""Checkpoints that were changed by someone who knows how to: refused, and no step is made from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_train_resume import Killed, run

from atograph import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "saved"
    with pytest.raises(Killed):
        run(folder, kill_at=9)
    return folder


def entry(packed: Any, *names: str) -> list[Any]:
    """The pair of a name and its value within a packed state."""
    for name in names:
        packed = packed["dict"] if isinstance(packed, dict) else packed[1]["dict"]
        packed = next(pair for pair in packed if pair[0] == name)
    return packed


def to(value: Any, *names: str) -> Callable[[Any], None]:
    def change(packed: Any) -> None:
        entry(packed, *names)[1] = value

    return change


def without(name: str) -> Callable[[Any], None]:
    return lambda packed: packed["dict"].remove(entry(packed, name))


def of_process(value: Any, *names: str) -> Callable[[Any], None]:
    """The same of what the first process keeps for itself."""
    return lambda packed: to(value, *names)(entry(packed, "processes")[1]["list"][0])


CHANGES: dict[str, Callable[[Any], None]] = {
    **{f"no {name}": without(name) for name in ("weights", "optimizer", "history", "steps", "compute", "processes")},
    "no process": to({"list": []}, "processes"),
    "a number of processes": to(1, "processes"),
    "another optimiser": to("os.system", "optimizer's class"),
    "weights of text": to("weights", "weights"),
    "no weight": to({"dict": []}, "weights"),
    "a history of text": to("history", "history"),
    "a row of something else": to({"list": [{"dict": [["path", "/etc/passwd"]]}]}, "history"),
    "an optimiser of nothing": to({"dict": []}, "optimizer"),
    "no place": of_process(None, "position"),
    "a negative place": of_process(-5, "position", "epoch"),
    "a place of text": of_process("1", "position", "step"),
    "no plan": of_process({"dict": []}, "hook", "kept"),
    "units that are not there": of_process({"dict": [["g0", {"list": [10**18]}]]}, "hook", "kept"),
    "no mask": of_process(None, "hook", "mask"),
    "a random state of text": of_process("state", "random", "python"),
    "no random state": of_process({"dict": []}, "random"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_state_that_was_changed(what: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "saved"))
    for path in folder.glob("*/state.json"):
        about = json.loads(path.read_text())
        CHANGES[what](about["state"])
        path.write_text(json.dumps(about))
    before = sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))
    with pytest.raises(UserError, match=r"of another training|cannot be read|has the units") as refusal:
        run(folder)
    assert "\n" not in str(refusal.value)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
