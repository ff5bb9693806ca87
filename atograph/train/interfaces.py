"""What the training needs to know of a graph: structural types, so that tests need no compiler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from atograph.passes.criteria.units import Group
from atograph.passes.ir.polynomial import Counts, Number
from atograph.passes.ir.program import Program
from atograph.passes.plan.fitting import Rounding
from atograph.train.processes.replicas import Replicas
from atograph.train.schedule import Clock
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


class Cost(Protocol):
    """FLOPs as a function of how many units stay."""

    def flops(self, kept: Counts) -> Number:
        """Total FLOPs at ``kept`` units per group (a number or a 0-dim tensor; missing: all)."""


class Budgets(Protocol):
    """What a plan may cost."""

    def used(self, counts: Counts, /) -> Number:
        """How much of the tightest budget some counts of kept units use: within all of them up to 1."""

    def check_gradients(self) -> None:
        """Refuse those that have no gradient in the counts."""


class Plan(Protocol):
    """Which units stay."""

    @property
    def kept(self) -> Mapping[str, tuple[int, ...]]:
        """Unit indices per group; a group that is missing keeps all of them."""


P = TypeVar("P", bound=Plan)
P_contra = TypeVar("P_contra", bound=Plan, contravariant=True)
P_co = TypeVar("P_co", bound=Plan, covariant=True)


class Chooser(Protocol):
    """What decides which units stay (`pruning.selection.Selection`)."""

    def choose(
        self,
        graph: Graph[P],
        scores: Mapping[str, Tensor],
        shares: Mapping[str, float],
        *,
        last: bool,
        within: Mapping[str, Sequence[int]] | None,
        **how: Any,
    ) -> P:
        """The plan of a moment of the training."""


class Training(Protocol):
    """The run that a model is trained in."""

    @property
    def model(self) -> nn.Module:
        """What the steps train."""

    def train_on(self, model: nn.Module) -> None:
        """Let them train another one, on the device already."""

    def evaluate(self, data: Iterable[object] | None) -> float | None:
        """The metric of the model over ``data``; None without data, or where it makes no sense."""

    @property
    def replicas(self) -> Replicas:
        """The processes that train together."""

    @property
    def dense(self) -> nn.Module:
        """The model that was given."""

    @property
    def settings(self) -> TrainSettings:
        """Every choice."""

    @property
    def selection(self) -> Chooser:
        """What decides which units stay."""

    @property
    def clock(self) -> Clock:
        """How long it takes."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def task(self) -> Task:
        """The loss of a batch, and what the model is measured with."""

    def tell(self, text: str) -> None:
        """Something that the user should know at once."""

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Of the parameters of ``model``; none: they are not known, and the dense model is trained to the end."""


class Graph(Protocol[P_co]):
    """A traced model."""

    @property
    def prunable(self) -> Sequence[Group]:
        """The groups whose units may go."""

    @property
    def program(self) -> Program:
        """The captured program, with its facts; asked for by criteria that need it."""

    @property
    def flops(self) -> int:
        """FLOPs of the dense model on a batch of one."""

    @property
    def limits(self) -> Mapping[str, Sequence[int]]:
        """Group → the units that may stay; of groups that are missing all."""

    @property
    def cost(self) -> Cost:
        """The cost model."""

    def budgets(self, **shares: float) -> Budgets:
        """Budgets by name, as shares of the dense model's costs."""

    def plan(self, *, kept: Mapping[str, Iterable[int]]) -> P_co:
        """The plan that keeps these units."""

    def plan_from_scores(
        self,
        scores: Mapping[str, Tensor],
        *,
        floor: float = ...,
        round_to: Rounding | None = ...,
        measured: bool = ...,
        within: Mapping[str, Sequence[int]] | None = ...,
        **budgets: float,
    ) -> P_co:
        """Keep the highest scores, Tensor[size] per group, within budgets as predicted, or measured if that can be; of
        the units of an earlier plan only, where one is given."""
