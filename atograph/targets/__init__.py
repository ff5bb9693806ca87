"""What a slim model is deployed to: one class a target, and the table of them that the certificate compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.targets.base import Target
    from atograph.targets.table import TARGETS, target

__all__ = ["TARGETS", "Target", "target"]

__getattr__, __dir__ = lazy(__name__, {"TARGETS": "table", "Target": "base", "target": "table"})
