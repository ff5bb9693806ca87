"""What modules give back, laid beside the slim program.

Code may go another way where a count has become one: a library leaves an axis out, or takes another op. Its calls are
then not those of the dense model, and what the module gives back has to tell whether it is right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from atograph.repair.observe.call_watch import CallSite
from atograph.repair.observe.problem import Problem
from atograph.values.structures import tensors_of

Time = tuple[CallSite, int, int]
"""One call: site, which run of its module, which time at the site in that run."""

Run = tuple[str, int]
"""A module by name, and which run of it."""


@dataclass
class Boundaries:
    """Of the dense model.

    Attributes:
        times: how often a call was made at each site in each run of its module.
        returned: run of a module → for each tensor that it gave back the call that made it, where there is one.
    """

    times: Counter[tuple[CallSite, int]] = field(default_factory=Counter)
    returned: dict[Run, list[Time | None]] = field(default_factory=dict)
    _makers: MutableMapping[torch.Tensor, Time] = field(default_factory=WeakTensorKeyDictionary)

    def clear(self) -> None:
        """Begin again."""
        self.times.clear()
        self.returned.clear()
        self._makers = WeakTensorKeyDictionary()

    def note(self, site: CallSite, run: int, result: object) -> None:
        """A call was made."""
        if isinstance(result, torch.Tensor):
            self._makers[result] = site, run, self.times[site, run]
        self.times[site, run] += 1

    def left(self, module: str, run: int, result: object) -> None:
        """A module has run."""
        self.returned[module, run] = [self._makers.get(tensor) for tensor in tensors_of(result)]


class OtherWays:
    """The runs of the slim model's modules that go another way than in the dense model, and what is odd in them.

    Args:
        dense: of the dense model.
        same: whether a tensor is what the slim program computes at a call; None where nobody knows.
    """

    def __init__(self, dense: Boundaries, same: Callable[[Time, torch.Tensor], bool | None]) -> None:
        self._dense, self._same = dense, same
        self._times: Counter[tuple[CallSite, int]] = Counter()
        self._odd: dict[Run, list[Problem]] = defaultdict(list)
        self._other: set[Run] = set()

    def call(self, site: CallSite, run: int) -> int:
        """Note a call; gives how many there were before it at this site in this run of the module."""
        time = self._times[site, run]
        self._times[site, run] += 1
        if time >= self._dense.times[site, run]:
            self.other(site, run)
        return time

    def other(self, site: CallSite, run: int) -> None:
        """This run of a module goes another way."""
        self._other.add((site[0], run))

    def is_other(self, site: CallSite, run: int) -> bool:
        """Whether this run of a module has gone another way so far."""
        return (site[0], run) in self._other

    def odd(self, site: CallSite, run: int, problem: Problem) -> None:
        """Something is odd in a run that goes another way."""
        self._odd[site[0], run].append(problem)

    def left(self, module: str, run: int, result: object) -> None:
        """A module has run: nothing is odd if it gives back what the slim program computes."""
        makers = self._dense.returned.get((module, run), [])
        tensors = tensors_of(result)
        if (module, run) in self._odd and len(makers) == len(tensors):
            same = [self._same(maker, x) for maker, x in zip(makers, tensors, strict=True) if maker is not None]
            if True in same and False not in same:
                del self._odd[module, run]

    @property
    def problems(self) -> Sequence[Problem]:
        """What is odd all the same."""
        return [problem for each in self._odd.values() for problem in each]
