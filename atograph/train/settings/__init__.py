"""Every choice of the training: its fields, how they are read, the table of methods."""

from __future__ import annotations

from atograph.train.settings.fields import TrainSettings
from atograph.train.settings.reading import needs_data, settings_of

__all__ = ["TrainSettings", "needs_data", "settings_of"]
