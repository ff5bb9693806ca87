"""Ops evaluated on single numbers: what becomes of a zero, and where something infinite comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite, isnan

import torch
from torch import fx
from torch.fx.node import Target

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.infinities import infinities
from atograph.passes.ir.program import Program


class Numbers:
    """Elementwise ops of a program on numbers in place of tensors.

    Args:
        program: with its axes inferred.
        axes: these.
    """

    def __init__(self, program: Program, axes: Axes) -> None:
        self._zero_at_zero: dict[fx.Node, bool] = {}
        self._infinite: dict[tuple[Target, str], bool] = {}
        self._infinities = infinities(program, axes, self.evaluate)

    def evaluate(self, node: fx.Node, numbers: Mapping[fx.Node, float]) -> float | None:
        """The op itself on numbers; None where it does not give one number."""

        def value(argument: fx.Node) -> torch.Tensor | None:
            captured = argument.meta.get("val")
            if argument not in numbers or not isinstance(captured, torch.Tensor):
                return None
            return torch.tensor(numbers[argument], dtype=captured.dtype)

        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return None
        try:
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)  # integers hold nothing infinite
            with torch.no_grad():
                result = node.target(*args, **kwargs)  # type: ignore[operator]
            return float(result) if isinstance(result, torch.Tensor) and result.numel() == 1 else None
        except Exception:  # an op that does not run on real scalars is simply not known to be constant
            return None

    def keeps_zero(self, node: fx.Node, operands: Iterable[fx.Node]) -> bool:
        """Whether an op gives zero where all of its operands are zero, as a sum does."""
        if node not in self._zero_at_zero:
            self._zero_at_zero[node] = self.evaluate(node, dict.fromkeys(operands, 0.0)) == 0.0
        return self._zero_at_zero[node]

    def blows_up(self, node: fx.Node, numbers: Mapping[fx.Node, float]) -> bool:
        """Whether some operands make something infinite of whatever the others are, as divisors do: seen on ones."""
        skeleton = fx.map_arg((node.args, node.kwargs), lambda n: numbers.get(n, "unknown"))
        key = (node.target, repr(skeleton))
        if key not in self._infinite:
            ones = dict.fromkeys(node.all_input_nodes, 1.0)
            result, usual = self.evaluate(node, ones | dict(numbers)), self.evaluate(node, ones)
            known = result is not None and usual is not None
            self._infinite[key] = known and not isfinite(result) and isfinite(usual)  # type: ignore[arg-type]
        return self._infinite[key]

    def must_not_be_zero(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether a zero of an operand of an elementwise op makes something infinite, or no number."""
        if self.blows_up(node, {operand: 0.0}):
            return True
        others = [other for other in node.all_input_nodes if other in self._infinities and other is not operand]
        ones = dict.fromkeys(node.all_input_nodes, 1.0) | {operand: 0.0}
        results = (self.evaluate(node, ones | {other: sign}) for other in others for sign in self._infinities[other])
        return any(result is not None and isnan(result) for result in results)
