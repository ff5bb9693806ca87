"""Which rows of the op table random networks go through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from atograph.passes.ir.program import Program
from atograph.passes.rules import rule_for, targets

UNREACHED = {
    "aten.detach_.default": "in place, so it is another op before rules run",
    "aten._fused_moving_avg_obs_fq_helper_functional.default": "of modules for quantisation aware training",
    "aten._grouped_mm.default": "has no kernel for float64: the zoo's mixture of experts goes through it",
    "transformers.grouped_mm_fallback.default": "an op of transformers: the same",
    **dict.fromkeys(
        ("cond", "map_impl", "scan", "while_loop", "flex_attention"),
        "runs a function of the user's: tests/passes/test_control.py and tests/capture/test_regions.py go through it",
    ),
    **dict.fromkeys(
        (
            *(f"quantized_decomposed.{way}quantize_per_channel.default" for way in ("", "de")),
            *(
                f"quantized_decomposed.{way}quantize_per_tensor.{kind}"
                for way in ("", "de")
                for kind in ("default", "tensor", "tensor2")
            ),
        ),
        "takes float32 only: tests/capture/test_int8_programs.py goes through it",
    ),
}
"""Rows that no network in eval mode and float64 goes through."""


def row_name(target: object) -> str:
    """An op as `ROWS` calls it."""
    return str(target).removeprefix("aten.")


def rows_of(program: Program) -> set[str]:
    """The rows whose rules a program's ops have."""
    own = {row_name(target) for target in targets()}
    found = {node.target for node in program.graph.nodes if node.op == "call_function" and rule_for(node.target)}
    return {name if (name := row_name(target)) in own else row_name(torch.Tag.pointwise) for target in found}


def expected() -> set[str]:
    """The rows that random networks have to reach."""
    return {row_name(target) for target in targets()} - {row_name(target) for target in UNREACHED}


def every(table: Mapping[int, Iterable[str]]) -> list[tuple[int, str]]:
    """All steps of a table such as `ROWS`: rank and name."""
    return [(rank, name) for rank, rows in table.items() for name in rows]
