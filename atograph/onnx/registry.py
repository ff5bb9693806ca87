"""torch.onnx's table of translations, read once for a process: torch reads its 500 functions anew for each file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from atograph.passes.torch_private import onnx_registration


@contextmanager
def read_once() -> Iterator[None]:
    """Within it, ``torch.onnx.export`` starts from a copy of the table that was read before, half of a small export."""
    registry: Any = onnx_registration.ONNXRegistry
    own = vars(registry)["from_torchlib"]
    registry.from_torchlib = staticmethod(
        lambda **options: _copied(_table(own, registry, _with_torchvision(), **options))
    )
    try:
        yield
    finally:
        registry.from_torchlib = own


@lru_cache(maxsize=4)
def _table(read: classmethod[Any, Any, Any], registry: Any, _torchvision: bool, **options: Any) -> Any:
    return read.__get__(None, registry)(**options)


def _with_torchvision() -> bool:
    """Whether torchvision's ops are there: a table that was read before they were lacks them."""
    return "torchvision" in sys.modules


def _copied(table: Any) -> Any:
    """A table of its own for one export, which adds translations to it."""
    copied = type(table)()
    vars(copied).update(vars(table))
    copied.functions = {target: list(functions) for target, functions in table.functions.items()}
    return copied
