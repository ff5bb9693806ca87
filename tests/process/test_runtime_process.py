"""A runtime whose package is not there, or does not load, is told before anything is done with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from atograph.passes.errors import UserError
from atograph.sessions.runtime_process import RuntimeProcess


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"Some needs the package not_there, which is not installed\. pip install not_there"
    ):
        RuntimeProcess("not_there.worker", "Some", "not_there").check()


def test_a_package_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_there").mkdir()
    (tmp_path / "half_there" / "__init__.py").touch()
    (tmp_path / "half_there" / "worker.py").write_text(
        "raise ImportError('libsome.so: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"half_there, which is installed and does not load: .*libsome\.so"):
        RuntimeProcess("half_there.worker", "Some", "half_there").check()
