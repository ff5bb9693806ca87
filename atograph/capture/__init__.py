"""From a model and example inputs to a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.capture.to_program import capture

__all__ = ["capture"]

__getattr__, __dir__ = lazy(__name__, {"capture": "to_program"})
