"""A run's folder: all or nothing, and nothing of anyone else's ever replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from atograph.files.run_folder import RunFolder
from atograph.passes.errors import UserError

OURS = '{"format": "atograph report 2"}'


def make_run(folder: Path, plan: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(OURS)
    (folder / "plan.json").write_text(plan)
    return folder


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_run_appears_at_the_end_and_complete(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "digits"
    with RunFolder(out) as folder:
        (folder / "report.json").write_text(OURS)
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
        (folder / "sub" / "a.txt").chmod(0o600)
        assert not out.exists() and folder.parent == out.parent and folder.name.startswith(".digits.")
    assert content(out) == {"report.json": OURS, "sub/a.txt": "a"}
    assert names(out.parent) == ["digits"]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").write_text("")
    assert out.stat().st_mode == plain.stat().st_mode
    assert (out / "sub" / "a.txt").stat().st_mode == (plain / "file").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, UserError])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), RunFolder(tmp_path / "a" / "b" / "run") as folder:
        (folder / "half").write_text("half")
        raise error("stop")
    assert names(tmp_path) == []


def test_a_failure_leaves_the_earlier_run_and_its_neighbours(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run")
    (tmp_path / "neighbour").write_text("n")
    before = content(tmp_path)
    with pytest.raises(KeyboardInterrupt), RunFolder(out, force=True) as folder:
        (folder / "plan.json").write_text("half")
        raise KeyboardInterrupt
    assert content(tmp_path) == before


def test_force_replaces_the_whole_run(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run")
    (out / "log.csv").write_text("old log")
    with RunFolder(out, force=True) as folder:
        (folder / "report.json").write_text(OURS)
        assert content(out)["plan.json"] == "old"
    assert content(out) == {"report.json": OURS}
    assert names(tmp_path) == ["run"]


def test_an_empty_folder_is_used_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with RunFolder(tmp_path / "link") as folder:
        (folder / "report.json").write_text(OURS)
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "real") == {"report.json": OURS}


def _no_run(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    return tmp_path / "out"


def _report_of_another(tmp_path: Path) -> Path:
    out = _no_run(tmp_path)
    (out / "report.json").write_text('{"format": "something else"}')
    return out


def _report_no_json(tmp_path: Path) -> Path:
    out = _no_run(tmp_path)
    (out / "report.json").write_text("[")
    return out


def _file(tmp_path: Path) -> Path:
    (tmp_path / "out").write_text("text")
    return tmp_path / "out"


REFUSED = [
    (_no_run, True, "the folder is not empty and holds no run of atograph"),
    (_report_of_another, True, "the folder is not empty and holds no run of atograph"),
    (_report_no_json, True, "the folder is not empty and holds no run of atograph"),
    (_file, True, "is a file, not a folder for a run."),
    (lambda tmp_path: make_run(tmp_path / "out"), False, "a run is there already. Replace it with --force"),
]


@pytest.mark.parametrize(("make", "force", "message"), REFUSED)
def test_what_is_never_replaced(tmp_path: Path, make, force: bool, message: str) -> None:
    out = make(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError) as caught:
        RunFolder(out, force=force)
    assert str(caught.value).startswith(f"{out}: {message}")
    assert content(tmp_path) == before


def test_the_working_directory_is_not_pulled_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_run(tmp_path / "run"))
    with pytest.raises(UserError, match="holds the working directory"):
        RunFolder(Path(), force=True)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"nothing can be written into .*file: Not a directory"):
        RunFolder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="nothing can be written into /"):
        RunFolder(Path("/proc/run") if Path("/proc").exists() else Path("/dev/null/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_appeared_meanwhile_stays_and_the_work_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError) as caught, RunFolder(out) as folder:
        (folder / "plan.json").write_text("new")
        make_run(out)
    assert content(out)["plan.json"] == "old"
    kept = next(path for path in tmp_path.iterdir() if path != out)
    assert kept.name.startswith("run.") and not folder.exists()
    assert str(caught.value).endswith(f"It is complete in {kept}; move it yourself.")
    assert content(kept) == {"plan.json": "new"}


def test_a_failed_swap_puts_the_earlier_run_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_run(tmp_path / "run")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith(".replaced"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError, match="No space left on device"), RunFolder(out, force=True) as folder:
        (folder / "plan.json").write_text("new")
    assert content(out)["plan.json"] == "old"
    (kept,) = (path for path in tmp_path.iterdir() if path != out)
    assert content(kept) == {"plan.json": "new"}
