"""Samples of what a program computes on the way, small enough to be kept for every op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from atograph.passes.program import Program
from atograph.passes.run import ProgramModule

_MOST = 4096


@dataclass(frozen=True)
class Sample:
    """Some values of a tensor.

    Attributes:
        shape: of the tensor.
        largest: its largest absolute value.
        values: at most 4,096 of its values, evenly apart.
    """

    shape: torch.Size
    largest: float
    values: torch.Tensor

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Sample:
        """A sample of a tensor of floats."""
        flat = tensor.detach().flatten()
        largest = float(flat.abs().max()) if flat.numel() else 0.0
        return cls(tensor.shape, largest, flat[:: max(1, flat.numel() // _MOST)].clone())

    def difference(self, other: Sample) -> float:
        """Largest absolute difference over the largest value; infinite for another shape."""
        if self.shape != other.shape:
            return float("inf")
        if not self.values.numel() or torch.equal(self.values, other.values):
            return 0.0
        difference = float((self.values.double() - other.values.double()).abs().nan_to_num(float("inf")).max())
        return difference / max(self.largest, other.largest)


def samples_of(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[int, Sample]]:
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

    def _results(self, program: Program, inputs: list[Any]) -> Any:
        return _Noting(program, self.found).run(*inputs)


class _Noting(fx.Interpreter):
    def __init__(self, program: Program, found: dict[int, Sample]) -> None:
        super().__init__(program)
        self._found = found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if "call" in n.meta and isinstance(result, torch.Tensor) and result.is_floating_point():
            self._found[n.meta["call"][1]] = Sample.of(result)
        return result
