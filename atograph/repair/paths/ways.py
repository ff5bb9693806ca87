"""What the slim program is on another path of a model's code: the model captured there, and cut by the same plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

from torch import nn

from atograph.capture.to_program import capture
from atograph.capture.tracing import run_without_data
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import BATCH
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.plan import Plan
from atograph.repair.calls.comparisons import Comparisons
from atograph.repair.calls.needs import Need, for_batch, needs_of
from atograph.repair.calls.search import Call, Found, calls_of, corrections
from atograph.repair.observe.call_watch import CallSite
from atograph.repair.observe.problem import Problem
from atograph.repair.observe.samples import Sample, samples_of
from atograph.repair.observe.traced_ints import Wish
from atograph.repair.paths.dead_code import cut_alike, with_state_of
from atograph.repair.paths.paths import Path
from atograph.values.batch_size import batch_of
from atograph.values.structures import copied


class OtherCut(Exception):
    """On this path the plan cannot cut the same parameters."""


class Sampled(Protocol):
    """What has samples of what a program computes, made when they are first asked for."""

    @property
    def samples(self) -> Mapping[int, Sample]:
        """By the number of the call."""


@dataclass(frozen=True)
class _Samples:
    samples: Mapping[int, Sample]


@dataclass(frozen=True)
class Way:
    """A path with what the program is on it.

    Attributes:
        path: the path.
        dense, slim: the program there, before and after the cut.
        example: what the slim one is run with.
        whole: what the dense one is run with: state has another width there.
        sampled: what has, as ``samples``, what the slim program computes at each call.
    """

    path: Path
    dense: Program
    slim: Program
    example: Example
    whole: Example
    sampled: Sampled
    _needs: dict[int, Mapping[CallSite, Sequence[Need]]] = field(default_factory=dict, repr=False, compare=False)

    def needs(self, batch: int) -> Mapping[CallSite, Sequence[Need]]:
        """What calls have to become, as `needs_of`, for a batch; the programs are laid beside each other once."""
        if batch not in self._needs:
            self._needs[batch] = for_batch(self._laid_beside, batch)
        return self._needs[batch]

    @cached_property
    def _laid_beside(self) -> Mapping[CallSite, Sequence[Need]]:
        return needs_of(self.dense, self.slim)

    def run(self, module: nn.Module) -> object:
        """Call the slim module along the path."""
        return self._call(module, self.example)

    def _run_whole(self, model: nn.Module) -> object:
        return self._call(model, self.whole)

    def _call(self, model: nn.Module, example: Example) -> object:
        args, kwargs = copied(example)
        with self.path.on(model):
            return model(*args, **kwargs)

    def calls(
        self, model: nn.Module, comparisons: Comparisons, *, data: bool = True
    ) -> tuple[dict[CallSite, list[Call]], list[Problem]]:
        """Lay the calls of the dense model beside their needs, as `calls_of`; without ``data`` on tensors without."""
        run = self._run_whole if data else partial(self._run_without_data, batch=None)
        return calls_of(model, self.needs(batch_of(self.example) or 1), run, comparisons)

    def _run_without_data(self, model: nn.Module, batch: int | None) -> None:
        with self.path.on(model):
            run_without_data(model, *self.whole, batch=batch)

    def wishes_as_traced(self, model: nn.Module) -> list[Wish] | None:
        """What attributes have to be where code goes another way on tensors without data, as when it was traced.

        None where it does not run like this.
        """
        run = partial(self._run_without_data, batch=batch_of(self.whole))
        try:
            calls, _lost = calls_of(model, self.needs(BATCH), run, Comparisons())
        except Exception:  # what torch.export has captured may not run like this
            return None
        return wishes_of(calls)

    def corrections(
        self,
        module: nn.Module,
        calls: Mapping[CallSite, list[Call]],
        close: float,
        comparisons: Comparisons,
        *,
        sampled: bool = True,
    ) -> Found:
        """Which calls of the slim module need a correction, as `search.corrections`; ``sampled``: what they give is
        laid beside what the program does."""
        samples = self.sampled.samples if sampled else {}
        return corrections(module, calls, self.run, samples, close, comparisons)


def wishes_of(calls: Mapping[CallSite, list[Call]]) -> list[Wish]:
    """What the attributes that calls read have to be."""
    return [wish for each in calls.values() for call in each for wish in call.wishes()]


def way_along(path: Path, masked: nn.Module, dense: Program, plan: Plan, example: Example, whole: Example) -> Way:
    """The program on another path.

    Args:
        path: where to go.
        masked: the dense model, masked; left as it is.
        dense: the program that the plan was made for.
        plan: what is kept there.
        example: what to run the slim program with.
        whole: what to run the dense one with.

    Raises:
        OtherCut: what the plan takes apart goes together there.
        UserError: it cannot be captured there.
    """
    with path.on(masked):
        captured = capture(masked, *whole, dynamic=dense.interface.asked, dead=bool(dense.interface.dead))
    captured = with_state_of(dense, captured)
    there = Pipeline.parse("gather-shuffles,infer-axes,find-groups").run(captured)
    slim = cut_alike(dense, plan, there)
    if slim is None:
        raise OtherCut("the plan takes units apart that go together there")
    return Way(path, there, slim, example, whole, _Samples(samples_of(slim, *example)[1]))
