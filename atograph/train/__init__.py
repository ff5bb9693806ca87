"""Auto-Train-Once: train a model and find its mask in one run. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.train.hook import Pruning
    from atograph.train.loop import DenseTrained, Trained, auto_train_once, dense_training
    from atograph.train.losses.distilled import Teacher
    from atograph.train.losses.perplexity import Perplexity
    from atograph.train.methods.method import Method, method
    from atograph.train.progress import EpochRow, Progress, Silent
    from atograph.train.pruning.masks import UnitMap
    from atograph.train.saved.seeding import seed_everything
    from atograph.train.settings import TrainSettings
    from atograph.train.task import Task

__all__ = [
    "DenseTrained",
    "EpochRow",
    "Method",
    "Perplexity",
    "Progress",
    "Pruning",
    "Silent",
    "Task",
    "Teacher",
    "TrainSettings",
    "Trained",
    "UnitMap",
    "auto_train_once",
    "dense_training",
    "method",
    "seed_everything",
]

_HOMES = {
    "DenseTrained": "loop",
    "EpochRow": "progress",
    "Method": "methods.method",
    "Perplexity": "losses.perplexity",
    "Progress": "progress",
    "Pruning": "hook",
    "Silent": "progress",
    "Task": "task",
    "Teacher": "losses.distilled",
    "TrainSettings": "settings",
    "Trained": "loop",
    "UnitMap": "pruning.masks",
    "auto_train_once": "loop",
    "dense_training": "loop",
    "method": "methods.method",
    "seed_everything": "saved.seeding",
}

__getattr__, __dir__ = lazy(__name__, _HOMES)
