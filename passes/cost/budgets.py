"""Budgets: the shares of the dense model's costs that a plan may keep, one or several of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from atograph.passes.cost.cost import CostModel
from atograph.passes.cost.share import share_of
from atograph.passes.errors import UserError


@dataclass(frozen=True)
class Budgets:
    """What a plan may cost.

    Attributes:
        shares: ``flops``, ``params``, ``bytes`` (of activations, at their peak), or a cost that was added to the cost
            model → the largest share of the dense model's to keep.
        cost: of the program.
        dense: what is limited → its value for the dense model.
    """

    shares: Mapping[str, float]
    cost: CostModel
    dense: Mapping[str, float]

    @classmethod
    def of(cls, cost: CostModel, **shares: float | None) -> Budgets:
        """The budgets that are given.

        Raises:
            UserError: none is, or one is no share, or the model has none of what it limits.
        """
        given = {what: share_of(share, what) for what, share in shares.items() if share is not None}
        if not given:
            raise UserError("a plan within a budget takes flops=, params=, bytes= or latency=, or several of them.")
        dense = {what: cost.of(what) for what in given}
        for what, total in dense.items():
            if not total:
                raise UserError(f"this model has no {what} to reduce.")
        return cls(given, cost, dense)

    def kept(self, counts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """For each budget the share of the dense cost that some counts keep; of the kind of the counts."""
        return {what: self.cost.of(what, counts) / total for what, total in self.dense.items()}

    def used(self, counts: Mapping[str, Any] | None = None) -> Any:
        """How much of the tightest budget some counts use: they are within all of them up to 1."""
        parts = [kept / self.shares[what] for what, kept in self.kept(counts).items()]
        if any(isinstance(part, torch.Tensor) for part in parts):
            return torch.stack([torch.as_tensor(part) for part in parts]).max()
        return max(parts)
