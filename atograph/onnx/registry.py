"""Tables that torch makes for each file, made once: torch.onnx's of translations, torch.export's of composite ops."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

from atograph.passes.torch_private import export_utils, onnx_registration


@contextmanager
def read_once() -> Iterator[None]:
    """Within it, ``torch.onnx.export`` starts from a copy of the table that was read before, half of a small export.

    torch.export's table is that of all composite ops, made anew for each namespace of ops, fifty times a file.
    """
    registry: Any = onnx_registration.ONNXRegistry
    own = vars(registry)["from_torchlib"]
    registry.from_torchlib = staticmethod(
        lambda **options: _copied(_table(own, registry, _with_torchvision(), **options))
    )
    tables: Any = export_utils
    composite = getattr(tables, "_materialize_cpp_cia_ops", None)
    if composite is not None:
        tables._materialize_cpp_cia_ops = cache(composite)
    try:
        yield
    finally:
        registry.from_torchlib = own
        if composite is not None:
            tables._materialize_cpp_cia_ops = composite


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
