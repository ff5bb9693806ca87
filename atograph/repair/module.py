"""A slim copy of the user's module: cut, repaired, and checked against the slim program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from atograph.capture.recording.origins import CallInSource
from atograph.passes.errors import AtographError
from atograph.passes.ir.interface import Example
from atograph.passes.ir.outputs import left_out_text
from atograph.passes.ir.program import Program
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.sizes import BATCH
from atograph.passes.plan.plan import Plan
from atograph.repair.calls.comparisons import Comparisons
from atograph.repair.calls.corrections import Correction, correct_calls
from atograph.repair.calls.in_regions import counts_in_regions
from atograph.repair.calls.needs import count_of_layer
from atograph.repair.calls.search import Call, Found, attributes, joined
from atograph.repair.checks import Checks
from atograph.repair.kept_tensors import cut_constants, old_widths, replace_kept
from atograph.repair.observe.call_watch import CallSite
from atograph.repair.observe.problem import Problem, told
from atograph.repair.observe.traced_ints import Slot, Wish
from atograph.repair.paths.dead_code import with_dead_code
from atograph.repair.paths.other_forwards import repair_other_forwards
from atograph.repair.paths.paths import Path, paths_of, unlike
from atograph.repair.paths.ways import OtherCut, Way, way_along, wishes_of
from atograph.repair.saving import say_in_configuration
from atograph.repair.tensors import correct_widths, named_state, replace_state
from atograph.values.eval_mode import copy_of
from atograph.values.state_cut import StateCut


class NotRepaired(Exception):
    """The module's own code keeps a width that cannot be reached; the text says where.

    Attributes:
        problems: one by one.
    """

    def __init__(self, *problems: Problem) -> None:
        texts = list(dict.fromkeys(problem.text for problem in problems))
        super().__init__(
            "; ".join(each for each in texts if not any(each in other for other in texts if each != other))
        )
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
    model: nn.Module,
    dense: Program,
    slimmed: Program,
    plan: Plan,
    masked: Callable[[], nn.Module],
    within: Callable[[], nn.Module] | None = None,
) -> Repaired:
    """A slim copy of the user's module, checked against the slim program, call by call.

    Where calls cannot be repaired, the widths are those that its configuration makes, if one says what the plan keeps.

    Args:
        model: the dense module; left as it is.
        dense: the program that was captured from it.
        slimmed: the slim program.
        plan: what it keeps.
        masked: makes a copy of the dense module with what the plan drops at zero.
        within: gives what runs as that copy does, and is no copy; it is asked first.

    Raises:
        NotRepaired: the module does not run with its slim parameters, or does not agree with the program, or on
            another path of its code not with the masked model.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise NotRepaired(Problem("all of it is a ScriptModule, whose code cannot be changed"))
    checks, masked = checks_of(dense, slimmed, plan, within), cache(masked)
    ratios = {Fraction(count, plan.sizes[name]) for name, count in plan.counts.items()}
    try:
        return _by_calls(model, dense, slimmed, plan, masked, checks, ratios)
    except NotRepaired:
        made = _by_configuration(model, dense, slimmed, masked, checks, ratios)
        if made is None:
            raise
        return made


def _by_calls(
    model: nn.Module,
    dense: Program,
    slimmed: Program,
    plan: Plan,
    masked: Callable[[], nn.Module],
    checks: Checks,
    ratios: Collection[Fraction],
) -> Repaired:
    """A slim copy whose attributes and calls were set so that each call gives what it does in the slim program.

    Raises:
        NotRepaired: as `slim_module`.
    """
    example, whole = checks.example, checks.whole
    ways = [Way(Path(), dense, slimmed, example, whole, checks)]
    repaired, wrong = _without_search(model, ways[0]), list[Problem]()
    if repaired is None:
        repaired = _searched_by_calls(model, ways[0], checks)
    if repaired is None or repaired.wrong or not checks.calls_the_same(repaired.module):
        repaired = _repaired(model, ways, checks)
        wrong = _wrong(repaired, checks)
    if wrong and (alive := with_dead_code(model, dense, plan, whole)) is not None:
        ways = [Way(Path(), alive.dense, alive.slim, example, whole, checks)]
        repaired = _repaired(model, ways, checks)
        wrong = _wrong(repaired, checks)
    for path in paths_of(model, whole) if wrong else ():  # slim code may go the way that only these show
        try:
            ways.append(way_along(path, masked(), dense, plan, example, whole))
            repaired = _repaired(model, ways, checks)
        except (NotRepaired, OtherCut, AtographError):
            continue
        wrong = _wrong(repaired, checks)
        if not wrong:
            break
    notes = [*_of_left_out(dense), *_checked(repaired, wrong, checks, masked, ways[0])]
    repaired = _along_paths(model, repaired, ways, (dense, plan), checks, masked)
    module = repaired.module
    notes += repair_other_forwards(model, module, example, whole)
    odd = f"{repaired.odd}, which no configuration can say" if repaired.odd else ""
    attributes = (*repaired.attributes, *say_in_configuration(model, module, checks.same, ratios, odd))
    return Repaired(module, attributes, repaired.calls, tuple(notes))


def _by_configuration(
    model: nn.Module,
    dense: Program,
    slimmed: Program,
    masked: Callable[[], nn.Module],
    checks: Checks,
    ratios: Collection[Fraction],
) -> Repaired | None:
    """A slim copy with the numbers that its configuration makes of the widths, on all paths of its code.

    It is right where code does something else at the slim sizes: a model of as many heads of keys as of queries does
    not repeat keys any more. None where no configuration says the widths, or the copy computes something else.
    """
    module = _copied(model, [Way(Path(), dense, slimmed, checks.example, checks.whole, checks)])
    kept, words = _cut(module, [(dense, slimmed)], [])
    said = say_in_configuration(model, module, checks.same, ratios)
    if kept or not said or checks.problems(module):
        return None
    wrong, notes = checks.in_training(module, masked)
    paths = paths_of(model, checks.whole)
    if wrong or (paths and unlike(paths, module, masked(), checks)):
        return None
    notes = [*_of_left_out(dense), *notes, *repair_other_forwards(model, module, checks.example, checks.whole)]
    return Repaired(module, (*words.values(), *said), (), tuple(notes))


def _scripted(model: nn.Module) -> list[Problem]:
    """The parts of a model that are ScriptModules, as what may be in the way."""
    parts = [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    outer = [name for name in parts if not any(name.startswith(f"{other}.") for other in parts)]
    return [Problem(f"{name} is a ScriptModule, whose code cannot be changed", name) for name in outer]


def _wrong(repaired: _Attempt, checks: Checks) -> list[Problem]:
    return [*repaired.wrong, *checks.problems(repaired.module)]


def _checked(
    repaired: _Attempt, wrong: list[Problem], checks: Checks, masked: Callable[[], nn.Module], way: Way
) -> list[str]:
    """What is to be told of a module that computes what the program does, in training as well.

    Raises:
        NotRepaired: it does not, for what is ``wrong`` or in training.
    """
    notes = list[str]()
    if not wrong:
        wrong, notes = checks.in_training(repaired.module, masked)
    if wrong:
        kept = old_widths(repaired.module, way.dense, way.slim)
        others = (*_uncut(way.dense), *_scripted(repaired.module), *_followed(way.dense))
        raise NotRepaired(*repaired.doubts, *wrong, *others, *kept)
    return notes


def _uncut(program: Program) -> list[Problem]:
    """What may be in the way of a module that was made slim without the code of what is left out."""
    names = left_out_text(program.interface)
    text = f"{names}: left out, and its code cannot be cut as the plan cuts the rest"
    return [Problem(text)] if names and program.interface.dead else []


def _followed(program: Program) -> list[Problem]:
    """The ops of control flow of a program, as what may be in the way: only numbers of layers are set for them."""
    names = sorted({str(node.target).removesuffix("_impl") for node in Regions(program.graph, program).controls})
    text = f"calls within {' and '.join(names)} cannot be made otherwise, because Dynamo follows the code"
    return [Problem(text)] if names else []


def _of_left_out(program: Program) -> list[str]:
    """What is to be told of outputs of the module that the program does not return."""
    names = left_out_text(program.interface)
    return [f"left out, so cut along where it has to be, and not compared: {names}"] if names else []


def _along_paths(
    model: nn.Module,
    repaired: _Attempt,
    ways: list[Way],
    cut: tuple[Program, Plan],
    checks: Checks,
    masked: Callable[[], nn.Module],
) -> _Attempt:
    """Repair a module again, as often as there is a path of its code on which it is wrong, for that path as well.

    Raises:
        NotRepaired: it stays wrong on a path.
    """
    paths = paths_of(model, checks.whole)
    while wrong := unlike(paths, repaired.module, masked(), checks) if paths else {}:
        done = {each.path for each in ways}
        path = next((path for path in wrong if path not in done), None)
        if path is None:
            raise NotRepaired(*wrong.values())
        try:
            ways.append(way_along(path, masked(), *cut, checks.example, checks.whole))
            repaired = _repaired(model, ways, checks)
            _checked(repaired, _wrong(repaired, checks), checks, masked, ways[0])
        except (NotRepaired, OtherCut, AtographError) as reason:
            raise NotRepaired(wrong[path], Problem(str(reason))) from reason
    return repaired


def checks_of(dense: Program, slimmed: Program, plan: Plan, within: Callable[[], nn.Module] | None = None) -> Checks:
    """What a slim program computes, to hold a module against; ``within`` as in `slim_module`.

    Raises:
        NotRepaired: there is nothing to run it with.
    """
    example, state = _example_of(slimmed), StateCut(plan, dense)
    whole = state.started(dense.interface.example) if state else example
    return Checks(slimmed, example, whole, state.outputs, within)


def _example_of(slimmed: Program) -> Example:
    if any(tensor.is_meta for tensor in slimmed.state.values()):
        raise NotRepaired(Problem("the weights are on the meta device, so the module cannot be checked"))
    if slimmed.interface.example is None:
        raise NotRepaired(Problem("there are no example inputs to check the module with"))
    return slimmed.interface.example


class _Attempt(NamedTuple):
    """A module on its way to be slim, with what was done to it and what could not be: see `Repaired` and
    `search.Found`; ``odd`` is a call that gets more than other sizes."""

    module: nn.Module
    attributes: tuple[str, ...]
    calls: tuple[Problem, ...]
    odd: str
    wrong: tuple[Problem, ...]
    doubts: tuple[Problem, ...]


def _without_search(model: nn.Module, way: Way) -> _Attempt | None:
    """A copy of the dense module with its slim tensors and the attributes that hold widths, told without any numbers.

    None where calls have to be made in another way, or where that cannot be told.
    """
    needs = [(site, need) for site, each in way.needs(BATCH).items() for need in each if need.changed]
    if any(need.ops or need.keywords or need.function or need.impossible for _site, need in needs):
        return None
    module, programs = _copied(model, [way]), [(way.dense, way.slim)]
    told = [count_of_layer(module, site, need) for site, need in needs]
    wishes = way.wishes_as_traced(module) if None in told else [wish for wish in told if wish is not None]
    if wishes is None:
        return None
    kept, words = _cut(module, programs, wishes)
    return _Attempt(module, (*words.values(), *kept), (), next(iter(kept), ""), (), ())


def _searched_by_calls(model: nn.Module, way: Way, checks: Checks) -> _Attempt | None:
    """A copy of the dense module made slim as `_repaired` does it, by the calls that it makes, whatever they give.

    None where that does not go on tensors without data, or where the calls are others there.
    """
    interface = way.slim.interface
    if interface.fixed or interface.decided or interface.left_out:
        return None
    try:
        return _repaired(model, [way], checks, by_calls=True)
    except NotRepaired:
        return None


def _copied(model: nn.Module, ways: Sequence[Way]) -> nn.Module:
    """A copy of the dense module, which shares with it what is to be replaced."""
    in_the_program = [value for name, value in named_state(model) if name in ways[0].slim.state]
    return copy_of(model, shared=[*in_the_program, *cut_constants(model, [(way.dense, way.slim) for way in ways])])


def _cut(
    module: nn.Module, programs: Sequence[tuple[Program, Program]], wishes: Sequence[Wish]
) -> tuple[list[str], dict[str, str]]:
    """Put slim tensors and numbers into a copy; in words, which tensors it keeps are new, and which attributes."""
    replace_state(module, programs[0][1])
    kept = replace_kept(module, programs)
    words = _set(attributes([*wishes, *counts_in_regions(module, *programs[0])]))
    for part in module.modules():
        correct_widths(part)
    return kept, words


def _repaired(model: nn.Module, ways: Sequence[Way], checks: Checks, *, by_calls: bool = False) -> _Attempt:
    """A copy of the dense module made slim: its tensors, then the attributes that hold widths, then single calls.

    Args:
        model: the dense module.
        ways: its paths.
        checks: what the slim program computes.
        by_calls: look at the calls alone, of the dense module on tensors without data, and not at what they give.

    Raises:
        NotRepaired: the dense module does not run again; ``by_calls`` also if it calls something else.
    """
    module, programs = _copied(model, ways), [(way.dense, way.slim) for way in ways]
    calls, lost, wishes, comparisons = [], list[Problem](), list[Wish](), [Comparisons() for _ in ways]
    for way, seen in zip(ways, comparisons, strict=True):
        try:
            each, missed = way.calls(module, seen, data=not by_calls)
        except Exception as error:
            raise NotRepaired(Problem(f"it does not run again with the example inputs: {told(error)}")) from error
        if missed and by_calls:
            raise NotRepaired(*missed)
        calls.append(each)
        wishes += wishes_of(each)
        if missed:
            wishes += way.wishes_as_traced(module) or []
            lost += missed
    kept, words = _cut(module, programs, wishes)

    def search() -> list[Found]:
        return [
            way.corrections(module, known, 10 * checks.close, seen, sampled=not by_calls)
            for way, known, seen in zip(ways, calls, comparisons, strict=True)
        ]

    found = search()
    compared = [wish for seen in comparisons for wish in seen.wishes]
    if more := {slot: value for slot, value in attributes(compared).items() if str(slot) not in words}:
        words |= _set(more)
        found = search()
    corrected = list(_corrected(found, calls))
    for name, places in joined(found).items():
        part = module.get_submodule(name)
        if not isinstance(part, torch.jit.ScriptModule):
            correct_calls(part, places)
    odd = [call.text for call, correction in corrected if not correction.only_sizes]
    return _Attempt(
        module,
        (*words.values(), *kept),
        calls=tuple(dict.fromkeys(call for call, _ in corrected)),
        odd=next(iter([*odd, *kept]), ""),
        wrong=tuple(problem for each in found for problem in each.wrong),
        doubts=(*(problem for each in found for problem in each.doubts), *lost),
    )


def _corrected(
    found: Sequence[Found], calls: Sequence[Mapping[CallSite, Sequence[Call]]]
) -> Iterator[tuple[Problem, Correction]]:
    """The calls that are made in another way, on any path; those of the first one with their numbers."""
    for index, (on_path, known) in enumerate(zip(found, calls, strict=True)):
        for name, each in on_path.calls.items():
            for place, times in each.items():
                for correction in dict.fromkeys(filter(None, times)):
                    call = _told(name, place, correction, known[name, place])
                    yield (call if index == 0 else replace(call, calls=())), correction


def _told(name: str, place: CallInSource, correction: Correction, calls: Sequence[Call]) -> Problem:
    line = calls[0].need.line
    text = f"{f'{name}: ' if name else ''}{place[-1]}{line and f' ({line})'} {correction}"
    return Problem(text, name, tuple(call.need.number for call in calls))


def _set(changed: Mapping[Slot, int]) -> dict[str, str]:
    """Set attributes; each with what was done in words."""
    words = {str(slot): f"{slot}: {slot.read()} → {value}" for slot, value in changed.items()}
    for slot, value in changed.items():
        slot.write(value)
    return words
