"""Tables that torch makes for each file, made once: torch.onnx's of translations, torch.export's of composite ops."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import fx

from atograph.passes.torch_private import (
    export_utils,
    exported_program,
    fake_impls,
    onnx_decompositions,
    onnx_registration,
    onnx_type_promotion,
)


@contextmanager
def read_once() -> Iterator[None]:
    """Within it, ``torch.onnx.export`` starts from copies of tables that were made before, most of a small export.

    They are its table of translations, that of decompositions, and torch.export's of composite ops, which it makes anew
    for each namespace of ops, fifty times a file, and installs kernel by kernel, six thousand of them. Nor are the ops
    of a program run once more to find where types are promoted.
    """
    registry: Any = onnx_registration.ONNXRegistry
    own = vars(registry)["from_torchlib"]
    registry.from_torchlib = staticmethod(
        lambda **options: _copied(_table(own, registry, _with_torchvision(), **options))
    )
    try:
        with ExitStack() as stack:
            for module, name, quick in (
                (export_utils, "_materialize_cpp_cia_ops", cache),
                (onnx_decompositions, "create_onnx_friendly_decomposition_table", partial(partial, _decompositions)),
                (onnx_type_promotion, "TypePromotionTable", cache),
                (onnx_type_promotion._TypePromotionInterpreter, "run_node", partial(_with_values, onnx_type_promotion)),
                (exported_program, "_override_composite_implicit_decomp", partial(partial, _overridden)),
            ):
                stack.enter_context(in_place_of(module, name, quick))
            yield
    finally:
        registry.from_torchlib = own


@contextmanager
def in_place_of(module: ModuleType | type, name: str, quick: Callable[[Any], Any]) -> Iterator[None]:
    """Put something quicker, made from it, in place of a function, where this torch has it."""
    own = getattr(module, name, None)
    if own is None:
        yield
        return
    setattr(module, name, quick(own))
    try:
        yield
    finally:
        setattr(module, name, own)


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


def _with_values(passes: Any, own: Callable[..., Any]) -> Callable[..., Any]:
    """Promote the types of an op's arguments as torch.onnx does, and take the value that the op has in the program.

    It would run each op of the program once more for that.
    """

    def run_node(interpreter: Any, node: fx.Node) -> object:
        if node.op != "call_function" or "val" not in node.meta:
            return own(interpreter, node)
        with interpreter._set_current_node(node):
            rule = passes.get_type_promotion_rule(node, interpreter.type_promotion_table)
            if rule is not None:
                interpreter._maybe_promote_node(node, rule)
        return node.meta["val"]

    return run_node


def _decompositions(read: Any, translated: set[Any]) -> dict[Any, Any]:
    return dict(_read_decompositions(read, frozenset(translated), tuple(torch.ops._dir)))


@lru_cache(maxsize=4)
def _read_decompositions(read: Any, translated: frozenset[Any], _namespaces: tuple[str, ...]) -> Any:
    return read(translated)


_INSTALLED: dict[tuple[Any, Any], tuple[dict[Any, Any], dict[Any, Any], Any]] = {}
"""Composite op and what it becomes → its kernels before, its kernels then, and its rule for fake tensors then."""


@contextmanager
def _overridden(install: Any, composite: Mapping[Any, Any]) -> Iterator[None]:
    """Composite ops with other kernels within it: those that were installed before, as they were found then."""
    rules: dict[Any, Any] = fake_impls.op_implementations_dict
    before = {op: dict(op.py_kernels) for op in composite}
    known = {op: _INSTALLED.get((op, kernel)) for op, kernel in composite.items() if op not in rules}
    same = {op: entry for op, entry in known.items() if entry is not None and entry[0] == before[op]}
    with install({op: kernel for op, kernel in composite.items() if op not in same}):
        for op, kernel in composite.items():
            if op in same:
                _, kernels, rule = same[op]
                _put(op, kernels)
                rules[op] = rule
            elif op in rules:
                _INSTALLED[op, kernel] = before[op], dict(op.py_kernels), rules[op]
        try:
            yield
        finally:
            for op in same:
                _put(op, before[op])
                rules.pop(op, None)


def _put(op: Any, kernels: Mapping[Any, Any]) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()
