"""The command line: one file a command, and how a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.cli.app import main

__all__ = ["main"]

__getattr__, __dir__ = lazy(__name__, {"main": "app"})
