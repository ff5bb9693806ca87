"""Samples of what a program computes on the way, small enough to be kept for every op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.values.difference import end_of, overflows_of_one

_MOST = 4096

_ATEN = torch.ops.aten
_UNINITIALISED = {
    _ATEN.empty.memory_format, _ATEN.empty_like.default, _ATEN.empty_strided.default, _ATEN.empty_permuted.default,
    _ATEN.new_empty.default, _ATEN.new_empty_strided.default,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Some values of a tensor.

    A value at the end of its type (``-inf``, ``finfo.min``, and what is added to it) masks another one. It is no scale
    for the others, and is compared with itself: beside ``finfo.min`` an overflow to ``-inf`` is a rounding of it.

    Attributes:
        shape: of the tensor.
        largest: its largest absolute value, but for those at the end of the type.
        values: at most 4,096 of its values, evenly apart.
    """

    shape: torch.Size
    largest: float
    values: torch.Tensor

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Sample:
        """A sample of a tensor of floats."""
        flat = tensor.detach().flatten()
        size = flat.abs()
        # no number compares as false: neither it nor the end of the type is a scale
        largest = float(torch.where(size < end_of(flat.dtype), size, 0).max()) if flat.numel() else 0.0
        return cls(tensor.shape, largest, flat[:: max(1, flat.numel() // _MOST)].clone())

    def difference(self, other: Sample) -> float:
        """Largest absolute difference over the largest value; infinite for another shape.

        Where this one is not a number, the other may be anything: nobody has written there (`_Noting`).
        """
        if self.shape != other.shape:
            return float("inf")
        known = ~self.values.isnan()
        own, others = self.values[known], other.values[known]
        if not own.numel() or torch.equal(own, others):
            return 0.0
        own, others = overflows_of_one(own, others)
        larger, distance = torch.maximum(own.abs(), others.abs()), (own - others).abs()
        scale = torch.where(larger < end_of(self.values.dtype), max(self.largest, other.largest), larger)
        relative = torch.where((own == others) | (distance == 0), 0.0, distance / scale)
        return float(relative.nan_to_num(float("inf")).max())


def samples_of(
    program: Program, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[object, dict[int, Sample]]:
    """Run a program.

    Returns:
        its results; and of each call to torch that it was recorded from, by number, a sample of what the last op gives.
    """
    running = _Sampling(program)
    with torch.no_grad():
        return running(*args, **kwargs), running.found


class _Sampling(ProgramModule):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.found: dict[int, Sample] = {}

    def _results(self, program: Program, inputs: list[torch.Tensor]) -> Any:
        return _Noting(program, self.found).run(*inputs)


class _Noting(fx.Interpreter):
    """Memory that is not initialised holds no numbers here, and neither does what is computed with it."""

    def __init__(self, program: Program, found: dict[int, Sample]) -> None:
        super().__init__(program)
        self._found = found

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.target in _UNINITIALISED and result.is_floating_point():
            result = torch.full_like(result, float("nan"))
        if "call" in n.meta and isinstance(result, torch.Tensor) and result.is_floating_point():
            self._found[n.meta["call"][1]] = Sample.of(result)
        return result
