"""Which units of a program stay, and what follows for dims and tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atograph.passes.analysis.branches import Branches
from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, Indices, axes_of, evaluate, kept_indices
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan


class Kept:
    """Which units of each axis stay, and what follows for dims.

    Args:
        kept: the units of each axis that loses some.
        axes: of the program.
        branches: of the program; without it, none may lose all of its units.

    Attributes:
        rest: what is left where axes lose all of their units; None where none does.
    """

    def __init__(self, kept: dict[Axis, Indices], axes: Axes, branches: Branches | None = None) -> None:
        self._kept, self.axes = kept, axes
        emptied = [axis for axis, units in kept.items() if not len(units)]
        self.rest = branches.without(emptied) if branches is not None and emptied else None

    @classmethod
    def by(cls, plan: Plan, program: Program) -> Kept:
        """What a plan keeps of a program.

        Raises:
            UserError: the plan does not fit the program.
        """
        groups = program.fact(Groups)
        plan.check(groups)
        kept = {
            group.axis: np.asarray(plan.kept[group.name], dtype=np.int64)
            for group in groups.prunable
            if len(plan.kept.get(group.name, range(group.size))) < group.size
        }
        return cls(kept, groups.axes, groups.branches)

    def __bool__(self) -> bool:
        """Whether any unit goes."""
        return bool(self._kept)

    def shrinks(self, dim: Dim) -> bool:
        """Whether the dim loses any index."""
        return any(axis in self._kept for axis in axes_of(self.axes.resolve(dim)))

    def size(self, dim: Dim) -> int:
        """The dim's new size."""
        return evaluate(self.axes.resolve(dim), lambda a: len(self._kept[a]) if a in self._kept else a.size)

    def indices(self, dim: Dim) -> Indices:
        """The indices along the dim that stay."""
        resolved = self.axes.resolve(dim)
        return kept_indices(resolved, lambda a: self._kept[a] if a in self._kept else np.arange(a.size))

    def cuts(self, shape: Sequence[Dim]) -> tuple[Indices | None, ...]:
        """For each dim the indices that stay; None where all of them do."""
        return tuple(self.indices(dim) if self.shrinks(dim) else None for dim in shape)

    def state_cuts(self, program: Program) -> dict[str, tuple[Indices | None, ...]]:
        """The `cuts` of each state tensor of a program whose axes have been inferred, by name."""
        return {name: self.cuts(self.axes.shape(node)) for node, name in program.state_nodes()}

    def slice(self, tensor: torch.Tensor, shape: Sequence[Dim]) -> torch.Tensor:
        """The part of a state tensor that stays; a parameter stays a parameter."""
        sliced = tensor.detach()
        for index, kept in enumerate(self.cuts(shape)):
            if kept is not None:
                sliced = sliced.index_select(index, torch.from_numpy(kept).to(tensor.device))
        if sliced is tensor or sliced.shape == tensor.shape:
            return tensor
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        return torch.nn.Parameter(sliced, requires_grad=tensor.requires_grad) if is_parameter else sliced
