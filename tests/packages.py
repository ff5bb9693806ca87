"""Other packages' trainers as fixtures: tests that need one are skipped where it is not installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def torchvision() -> None:
    """Both packages import it, if it is there; with a CPU torch it needs help."""
    with contextlib.suppress(ImportError):
        import benchmarks.models.torchvision_models  # noqa: F401


@pytest.fixture(scope="module")
def lightning(torchvision: None) -> ModuleType:
    module: ModuleType = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    return module


@pytest.fixture(scope="module")
def transformers(torchvision: None) -> ModuleType:
    pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer needs")
    module: ModuleType = pytest.importorskip("transformers", reason="transformers is not installed")
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of ``examples/``, as if it had been started there."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield lambda name: __import__(name)
    for name in ("digits", "lightning_digits", "trainer_digits"):
        sys.modules.pop(name, None)
