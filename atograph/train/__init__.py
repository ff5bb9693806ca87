"""Auto-Train-Once: train a model and find its mask in one run. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atograph.train.loop import DenseTrained, Trained, auto_train_once, dense_training
    from atograph.train.progress import EpochRow, Progress, Silent
    from atograph.train.seeding import seed_everything
    from atograph.train.settings import TrainSettings
    from atograph.train.task import Task

__all__ = [
    "DenseTrained",
    "EpochRow",
    "Progress",
    "Silent",
    "Task",
    "TrainSettings",
    "Trained",
    "auto_train_once",
    "dense_training",
    "seed_everything",
]

_HOME = {
    "DenseTrained": "loop",
    "EpochRow": "progress",
    "Progress": "progress",
    "Silent": "progress",
    "Task": "task",
    "TrainSettings": "settings",
    "Trained": "loop",
    "auto_train_once": "loop",
    "dense_training": "loop",
    "seed_everything": "seeding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
