"""A slim copy of the user's module: cut, repaired, and checked against the slim program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from atograph.capture import batch_of
from atograph.copying import copy_of
from atograph.origins import Place
from atograph.passes.plan import Plan
from atograph.passes.program import Program
from atograph.repair.checks import Checks
from atograph.repair.comparisons import Comparisons
from atograph.repair.config import fit_config
from atograph.repair.corrections import Correction, correct_calls
from atograph.repair.dead_code import with_dead_code
from atograph.repair.needs import needs_of
from atograph.repair.other_forwards import repair_other_forwards
from atograph.repair.problem import Example, Problem, told
from atograph.repair.remembered import Slot
from atograph.repair.search import Call, Found, attributes, calls_of, corrections
from atograph.repair.tensors import correct_widths, named_state, replace_state
from atograph.repair.watching import Site


class NotRepaired(Exception):
    """The module's own code keeps a width that cannot be reached; the text says where.

    Attributes:
        problems: one by one.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(dict.fromkeys(problem.text for problem in problems)))
        self.problems = problems


@dataclass(frozen=True)
class Repaired:
    """A slim module.

    Attributes:
        module: of the user's own class, in the mode that the dense one is in.
        attributes: in words, the attributes of the user's modules that were set to another width.
        calls: the calls to torch that are made in another way, because no attribute holds what they need.
        notes: in words, what else there is to know.
    """

    module: nn.Module
    attributes: tuple[str, ...]
    calls: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def slim_module(
    model: nn.Module, dense: Program, slimmed: Program, plan: Plan, masked: Callable[[], nn.Module]
) -> Repaired:
    """A slim copy of the user's module, checked against the slim program, call by call.

    Args:
        model: the dense module; left as it is.
        dense: the program that was captured from it.
        slimmed: the slim program.
        plan: what it keeps.
        masked: makes the dense module with what the plan drops at zero.

    Raises:
        NotRepaired: the module does not run with its slim parameters, or does not agree with the program.
    """
    if any(isinstance(each, torch.jit.ScriptModule) for each in model.modules()):
        raise NotRepaired(Problem("a part of it is a ScriptModule, whose code cannot be changed"))
    checks = Checks(slimmed, _example_of(slimmed))
    module, repairs = _repaired(model, dense, slimmed, checks)
    wrong = [*repairs.wrong, *checks.problems(module)]
    if wrong and (whole := with_dead_code(model, dense, plan, checks.example)) is not None:
        module, repairs = _repaired(model, *whole, checks)
        wrong = [*repairs.wrong, *checks.problems(module)]
    notes = list[str]()
    if not wrong:
        wrong, notes = checks.in_training(module, masked())
    if wrong:
        raise NotRepaired(*repairs.doubts, *wrong)
    notes += repair_other_forwards(model, module, checks.example)
    attributes = (*repairs.attributes, *fit_config(model, module, checks.same))
    return Repaired(module, attributes, repairs.calls, tuple(notes))


def _example_of(slimmed: Program) -> Example:
    if any(tensor.is_meta for tensor in slimmed.state.values()):
        raise NotRepaired(Problem("the weights are on the meta device, so the module cannot be checked"))
    if slimmed.interface.example is None:
        raise NotRepaired(Problem("there are no example inputs to check the module with"))
    return slimmed.interface.example


class _Repairs(NamedTuple):
    """What was done to a module, and what could not be: see `Repaired` and `search.Found`."""

    attributes: tuple[str, ...]
    calls: tuple[Problem, ...]
    wrong: tuple[Problem, ...]
    doubts: tuple[Problem, ...]


def _repaired(model: nn.Module, dense: Program, slimmed: Program, checks: Checks) -> tuple[nn.Module, _Repairs]:
    """A copy of the dense module made slim, and what was done."""
    module = copy_of(model, shared=[value for name, value in named_state(model) if name in slimmed.state])
    return module, _repair(module, dense, slimmed, checks)


def _repair(module: nn.Module, dense: Program, slimmed: Program, checks: Checks) -> _Repairs:
    """Make a copy of the dense module slim: its tensors, then the attributes that hold widths, then single calls."""
    (args, kwargs), comparisons = checks.example, Comparisons()
    batch = batch_of(checks.example)

    def run(model: nn.Module) -> Any:
        return model(*args, **kwargs)

    try:
        calls, lost = calls_of(module, needs_of(dense, slimmed, batch or 1), run, comparisons)
    except Exception as error:
        raise NotRepaired(Problem(f"it does not run again with the example inputs: {told(error)}")) from error
    replace_state(module, slimmed)
    words = _set(attributes([wish for each in calls.values() for call in each for wish in call.wishes()]))
    for part in module.modules():
        correct_widths(part)
    found = corrections(module, calls, run, checks.samples, 10 * checks.close, comparisons)
    if more := {slot: value for slot, value in attributes(comparisons.wishes).items() if str(slot) not in words}:
        words |= _set(more)
        found = corrections(module, calls, run, checks.samples, 10 * checks.close, comparisons)
    for name, each in found.calls.items():
        correct_calls(module.get_submodule(name), each)
    return _Repairs(tuple(words.values()), _corrected(found, calls), tuple(found.wrong), (*found.doubts, *lost))


def _corrected(found: Found, calls: Mapping[Site, Sequence[Call]]) -> tuple[Problem, ...]:
    """The calls that are made in another way."""
    return tuple(
        _told(name, place, correction, calls[name, place])
        for name, each in found.calls.items()
        for place, times in each.items()
        for correction in dict.fromkeys(filter(None, times))
    )


def _told(name: str, place: Place, correction: Correction, calls: Sequence[Call]) -> Problem:
    line = calls[0].need.line
    text = f"{f'{name}: ' if name else ''}{place[-1]}{line and f' ({line})'} {correction}"
    return Problem(text, name, tuple(call.need.number for call in calls))


def _set(changed: Mapping[Slot, int]) -> dict[str, str]:
    """Set attributes; each with what was done in words."""
    words = {str(slot): f"{slot}: {slot.read()} → {value}" for slot, value in changed.items()}
    for slot, value in changed.items():
        slot.write(value)
    return words
