"""ONNX files that ONNX Runtime's optimiser cannot get wrong: ops that it fuses to something else are kept apart.

It recognises pairs and chains of ops by their types. A `Max` of a single input between two of them computes nothing,
and is no part of any pattern. What is between two ops that are known to go wrong together is written so in every file
(`KNOWN`); of others, the dense model's file tells before the training (`find`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir

from atograph.files.durable import weights_beside

Pair = tuple[str, str]
"""The types of two ops, of which the second reads the first."""

KNOWN: frozenset[Pair] = frozenset({("Pad", "MaxPool")})
"""Fused wrongly by ONNX Runtime 1.31: a maximum takes its own padding for minus infinity, and that of `Pad` is lost."""

_FRACTIONS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


def keep_apart(model: ir.Model, pairs: Collection[Pair]) -> None:
    """Put a `Max` of one input between the ops of each pair, wherever one reads the other."""
    for node in list(model.graph.all_nodes()):
        for place, value in enumerate(node.inputs):
            producer = None if value is None else value.producer()
            if value is None or producer is None or (producer.op_type, node.op_type) not in pairs:
                continue
            if value.dtype not in _FRACTIONS:
                continue
            between = ir.node("Max", [value])
            between.outputs[0].shape, between.outputs[0].type = value.shape, value.type
            assert node.graph is not None
            node.graph.insert_before(node, between)
            node.replace_input_with(place, between.outputs[0])


def pairs_of(path: Path) -> list[Pair]:
    """All pairs of ops in a file between which there is a value that `keep_apart` can copy."""
    values = {
        (value.producer().op_type, node.op_type): None  # type: ignore[union-attr]
        for node in ir.load(path).graph.all_nodes()
        for value in node.inputs
        if value is not None and value.producer() is not None and value.dtype in _FRACTIONS
    }
    return [pair for pair in values if "Constant" not in pair and "Max" not in pair]


def copy_apart(source: Path, target: Path, pairs: Collection[Pair]) -> Path:
    """Write a copy of a file in which pairs of ops are kept apart."""
    model = ir.load(source)
    keep_apart(model, pairs)
    ir.save(model, target, external_data=weights_beside(target).name if weights_beside(source).exists() else None)
    return target


T = TypeVar("T")


def find(choices: Iterable[T], right: Callable[[Collection[T]], bool]) -> list[T]:
    """The choices without which something is not right, by halving: none more than needed.

    Args:
        choices: all that there are, such as pairs of ops.
        right: whether some of them do, such as keeping these apart; a choice more never harms.

    Returns:
        Some of ``choices``; none where not even all of them do.
    """
    left, needed = list(choices), list[T]()
    if not right(left):
        return []
    while not right(needed):
        low, high = 0, len(left)  # with the first ``high`` of them it is right, with the first ``low`` it is not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if right([*left[:middle], *needed]) else (middle, high)
        needed.append(left[high - 1])
        left = left[: high - 1]
    return needed
