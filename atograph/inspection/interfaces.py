"""What views and wishes need to know of a graph: structural types, so that `Graph` may import both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self

from torch import nn

from atograph.passes.analysis.groups import Groups
from atograph.passes.ir.program import Program


class Traced(Protocol):
    """A captured model with its groups, as `atograph.graph.graph.Graph`."""

    @property
    def program(self) -> Program:
        """The captured program, with every analysis among its facts."""

    @property
    def model(self) -> nn.Module | None:
        """The module that was traced; None if there was none."""

    @property
    def groups(self) -> Groups:
        """One group per axis of the parameters."""

    @property
    def flops(self) -> int:
        """FLOPs for a batch of one."""

    @property
    def params(self) -> int:
        """Number of parameters that the program reads."""

    @property
    def bytes(self) -> int:
        """Peak memory of the activations for a batch of one."""

    @property
    def notes(self) -> list[str]:
        """What one should know of the program, a sentence each."""


class Steerable(Protocol):
    """A graph that gives another one where its groups are told to stay or to go together."""

    @property
    def program(self) -> Program:
        """The captured program, with every analysis among its facts."""

    @property
    def model(self) -> nn.Module | None:
        """The module that was traced; None if there was none."""

    @property
    def groups(self) -> Groups:
        """One group per axis of the parameters."""

    def coupled(self, pairs: Iterable[tuple[str, str]], /) -> Self:
        """The same graph with pairs of groups made one."""

    def with_groups(self, groups: Groups, /) -> Self:
        """The same graph with wishes about its groups."""
