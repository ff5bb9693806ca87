"""Shared by all tests: one thread (results and timings do not depend on the machine), and the flag for golden files."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator

import pytest
import torch

from atograph.terminal import progress_line

pytest_plugins = ["packages", "browsing"]

NEVER = 1e6
"""Seconds that no test takes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew; then read the diff")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that runs them in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    progress_line.LONG = NEVER  # whatever a command prints, a slow machine adds no line to it
    if hasattr(config, "workerinput"):  # one process of many tests
        import warm  # noqa: F401


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The modules of all tests, and the libraries that they import, are no garbage: no collection looks at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
