"""Shared by all tests: one thread (results and timings do not depend on the machine), and the flag for golden files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest_plugins = ["packages"]

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew; then read the diff")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    if hasattr(config, "workerinput"):  # one process of many tests
        import warm  # noqa: F401


class Golden:
    """Compares text with a file of ``tests/golden``."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check(self, name: str, text: str) -> None:
        path = GOLDEN / name
        if self.update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}: run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: run pytest --update-golden and read the diff"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.config.getoption("--update-golden"))
