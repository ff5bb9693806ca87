"""The search for what has to change in a slim module's code: attributes first, then single calls.

The dense model runs once, with integers that remember the attributes they come from, and each call that it makes is
laid beside its need. An argument that has to change tells which value its attributes need. The slim module then runs,
and a call whose arguments are still not right gets a correction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import Any

import torch
from torch import nn

from atograph.capture.recording.origins import CallInSource
from atograph.repair.calls.boundaries import OtherWays, Time
from atograph.repair.calls.caches import UsedCaches, passed_by
from atograph.repair.calls.comparisons import Comparisons
from atograph.repair.calls.constants import number_of, places_of, positions, unlike
from atograph.repair.calls.corrections import Correction, Scaled
from atograph.repair.calls.needs import Need
from atograph.repair.observe.arguments import plain_leaves, tensor_leaves
from atograph.repair.observe.call_watch import CallSite, failed_in, run_watched
from atograph.repair.observe.problem import Problem, Run, told
from atograph.repair.observe.samples import Sample
from atograph.repair.observe.traced_ints import Remembered, Slot, Wish, hashed, remembering


@dataclass(frozen=True)
class Found:
    """What `corrections` has found.

    Attributes:
        calls: module name → place → corrections, as `correct_calls` takes them.
        wrong: what is not as in the program, of results that differ the first.
        doubts: calls that may not be right, which only the result can tell.
        runs: for each run of a module its name, and the places of its calls.
    """

    calls: Mapping[str, Mapping[CallInSource, tuple[Correction, ...]]]
    wrong: Sequence[Problem]
    doubts: Sequence[Problem]
    runs: Sequence[tuple[str, Sequence[CallInSource]]]


def joined(found: Sequence[Found]) -> dict[str, dict[CallInSource, tuple[Correction, ...]]]:
    """What was found on several paths of the code, as `correct_calls` takes it.

    Where a run of a module has no call to correct, one stays as it is, and tells that the code is the same.
    """
    calls: dict[str, dict[CallInSource, tuple[Correction, ...]]] = {}
    for each in reversed(found):
        for name, places in each.calls.items():
            calls[name] = {**calls.get(name, {}), **places}
    for each in found:
        for name, seen in each.runs:
            if name in calls and seen and calls[name].keys().isdisjoint(seen):
                calls[name][seen[0]] = (Correction(),)
    return calls


@dataclass(frozen=True)
class Call:
    """One call of the dense model beside its need.

    Attributes:
        need: what it has to become.
        given: its arguments that are no tensors.
        numbers: which of them is which of the need's.
        run: of its module that it was made in.
        held: which of its tensors are which constants of the program.
    """

    need: Need
    given: Sequence[object]
    numbers: Mapping[int, int]
    run: int
    held: Mapping[int, torch.Tensor]

    def wishes(self) -> Iterator[Wish]:
        """Its arguments that come from attributes, with the values that they have to have."""
        for number, of in self.numbers.items():
            value = self.given[number]
            if self.need.new and not self.need.constant and isinstance(value, Remembered):
                yield value, self.need.new[of]


def calls_of(
    model: nn.Module, needs: Mapping[CallSite, Sequence[Need]], run: Run, comparisons: Comparisons
) -> tuple[dict[CallSite, list[Call]], list[Problem]]:
    """Run the dense model and lay its calls beside their needs.

    Returns:
        for each site its calls in order; and what differs from the run that was captured and matters.
    """
    found: dict[CallSite, list[tuple[int, list[object], dict[int, torch.Tensor]]]] = defaultdict(list)
    boundaries = comparisons.boundaries

    def note(
        site: CallSite, entered: int, func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> object:
        if site in needs:
            held = next((need.held for need in needs[site][len(found[site]) :]), ())
            taken = places_of(held, tensor_leaves((args, kwargs))) if held else {}
            found[site].append((entered, plain_leaves((args, kwargs)), taken))
        result = func(*args, **kwargs)
        boundaries.note(site, entered, result)
        return result

    def watched(call: Callable[[nn.Module], object]) -> None:
        found.clear()
        boundaries.clear()
        run_watched(model, partial(call, model), note, boundaries.left)

    try:
        with remembering(model), comparisons.of_dense(), hashed() as numbers:
            watched(run)
        used = UsedCaches()
        if numbers:  # all functions with a cache are many, and this takes long
            with remembering(model), comparisons.of_dense():
                watched(partial(used.noted, run))
        if used.caches:
            comparisons.caches = used.caches
            with remembering(model), comparisons.of_dense(), passed_by(used.caches):
                watched(run)
    except Exception:  # code that takes nothing but plain integers; its calls can be corrected all the same
        comparisons.possible = False
        watched(run)
    calls = {
        site: [Call(need, g, _numbers(g, need), n, h) for need, (n, g, h) in zip(needs[site], each, strict=True)]
        for site, each in found.items()
        if len(each) == len(needs[site])
    }
    lost = [
        Problem(f"{need.line}: {site[1][-1]} is called another number of times than when the model was traced", site[0])
        for site, each in needs.items()
        if site not in calls
        for need in each
        if need.changed
    ]
    return calls, list(dict.fromkeys(lost))


def _numbers(given: Sequence[object], need: Need) -> dict[int, int]:
    """Which of a call's arguments is which of the recorded op's: in the same order, by value."""
    if need.constant:
        return positions(given, need.old)
    a, b = [_key(value) for value in given], [_key(value) for value in need.old]
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}


def _key(value: object) -> tuple[float, str]:
    known = number_of(value)
    return (0.0, repr(value)) if known is None else (float(known), "")


def attributes(wishes: Sequence[Wish]) -> dict[Slot, int]:
    """The attributes that have to change, with their new values.

    One whose value is used as it is gets the value that most uses need; one that others are computed with gets the
    value with which all of these are right.

    Args:
        wishes: what attributes, and what is computed with them, have to be.
    """
    counted: dict[Slot, Counter[int]] = defaultdict(Counter)
    for term, wanted in wishes:
        if term.slot is not None:
            counted[term.slot][wanted] += 1
    values = {slot: each.most_common(1)[0][0] for slot, each in counted.items()}
    computed: dict[Slot, list[Wish]] = defaultdict(list)
    for term, wanted in wishes:
        unknown = [slot for slot in term.slots if slot not in values]
        if len(unknown) == 1:
            computed[unknown[0]].append((term, wanted))
    for slot, terms in computed.items():
        values[slot] = _solution(slot, terms, values)
    return {slot: value for slot, value in values.items() if value != slot.read()}


def _solution(slot: Slot, terms: Sequence[Wish], values: Mapping[Slot, int]) -> int:
    """The value nearest to an attribute's old one with which all terms are what is wanted; the old one if none is."""
    old = slot.read()
    for tried in sorted(range(1, 2 * abs(old) + 2), key=lambda value: abs(value - old)):
        try:
            if all(term.formula({**values, slot: tried}) == wanted for term, wanted in terms):
                return tried
        except ArithmeticError:
            continue
    return old


def corrections(
    model: nn.Module,
    calls: Mapping[CallSite, Sequence[Call]],
    run: Run,
    samples: Mapping[int, Sample],
    close: float,
    comparisons: Comparisons,
) -> Found:
    """Run the slim module and find out which of its calls need a correction.

    Args:
        model: slim, with its attributes set.
        calls: of the dense model.
        run: how to call it.
        samples: what the slim program computes at each call, by the call's number.
        close: relative difference up to which results of one op are the same.
        comparisons: of the dense model; gets those that fail.
    """
    found: dict[CallSite, dict[int, list[Correction]]] = defaultdict(lambda: defaultdict(list))
    doubts: list[Problem] = []
    wrong: list[Problem] = []
    known: dict[tuple[CallSite, int], list[Call]] = defaultdict(list)
    for site, each in calls.items():
        for call in each:
            known[site, call.run].append(call)

    def same(need: Need, result: Any) -> bool | None:
        sample = samples.get(need.number) if need.single and isinstance(result, torch.Tensor) else None
        return None if sample is None else sample.difference(Sample.of(result)) <= close

    def same_as_made(maker: Time, result: torch.Tensor) -> bool | None:
        site, run, time = maker
        return same(known[site, run][time].need, result) if time < len(known.get((site, run), ())) else None

    others = OtherWays(comparisons.boundaries, same_as_made)

    def corrected(
        site: CallSite, entered: int, func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> object:
        calls_here, time = known.get((site, entered), ()), others.call(site, entered)
        if time >= len(calls_here):
            return func(*args, **kwargs)
        call = calls_here[time]
        where = _where(site, call.need)
        correction, doubt = _correction(call, args, kwargs)
        if correction and correction.needless(func, args, kwargs):
            correction, doubt = Correction(), ""
        found[site][entered].append(correction)
        if doubt:
            doubts.append(Problem(f"{where} {doubt}", site[0], tuple(each.need.number for each in calls[site])))
        if len(plain_leaves((args, kwargs))) != len(call.given):
            others.other(site, entered)
        result = correction(func, args, kwargs) if correction else func(*args, **kwargs)
        if same(call.need, result) is False:
            problem = Problem(f"{where} gives something else than in the program", site[0], (call.need.number,))
            if others.is_other(site, entered):
                others.odd(site, entered, problem)
            elif not wrong:
                wrong.append(problem)
        return result

    try:
        recalled = remembering(model) if comparisons.possible else nullcontext()
        with comparisons.of_slim(), passed_by(comparisons.caches), recalled:
            run_watched(model, partial(run, model), corrected, others.left)
    except Exception as error:
        wrong.append(Problem(told(error), failed_in(error)))
    by_module, unlike = _by_module(found, calls)
    return Found(by_module, [*unlike, *wrong, *others.problems], doubts, list(_runs(found)))


def _runs(found: Mapping[CallSite, Mapping[int, list[Correction]]]) -> Iterator[tuple[str, list[CallInSource]]]:
    runs: dict[tuple[str, int], list[CallInSource]] = defaultdict(list)
    for (name, place), times in found.items():
        for entered in times:
            runs[name, entered].append(place)
    for (name, _entered), places in runs.items():
        yield name, places


def _by_module(
    found: Mapping[CallSite, Mapping[int, list[Correction]]], calls: Mapping[CallSite, Sequence[Call]]
) -> tuple[dict[str, dict[CallInSource, tuple[Correction, ...]]], list[Problem]]:
    """What was found for each site in each run of its module, as `correct_calls` takes it; all runs must be alike."""
    by_module: dict[str, dict[CallInSource, tuple[Correction, ...]]] = defaultdict(dict)
    unlike = []
    for site, runs in found.items():
        (module, place), (times, *others) = site, runs.values()
        if any(other != times for other in others):
            text = f"{_where(site, calls[site][0].need)} needs other sizes in each run of the module"
            unlike.append(Problem(text, module, tuple(call.need.number for call in calls[site])))
        elif any(times):
            by_module[module][place] = (times[0],) if all(each == times[0] for each in times) else tuple(times)
    return dict(by_module), unlike


def _where(site: CallSite, need: Need) -> str:
    module, place = site
    return f"{need.line}{f' ({module})' if module else ''}: {place[-1]}"


def _correction(call: Call, args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[Correction, str]:
    """What a call of the slim module needs; and in words why that may not do."""
    need, given = call.need, plain_leaves((args, kwargs))
    if need.impossible:
        return Correction(), f"cannot be corrected: {need.impossible}"
    if need.ops is not None:
        if len(dict.fromkeys(tensor_leaves((args, kwargs)))) != len(need.ops.graph.find_nodes(op="placeholder")):
            return Correction(), "takes other tensors than the op that was recorded"
        return Correction(ops=need.ops), ""
    if len(given) != len(call.given):
        return Correction(), "takes another number of arguments than in the dense model" if need.changed else ""
    shown = set(call.numbers.values())
    hidden = [a for i, (a, b) in enumerate(zip(need.old, need.new, strict=True)) if a != b and i not in shown]
    arguments = {}
    for number, of in call.numbers.items():
        wanted, value = need.new[of], number_of(given[number])
        if wanted != (given[number] if value is None else value) and type(wanted) in (int, float):
            arguments[number] = Scaled(value, wanted) if value else wanted
    keywords = {name: value for name, value in need.keywords.items() if kwargs.get(name) != value}
    doubt = f"uses the width {hidden[0]}, which is none of its arguments" if hidden else ""
    tensors = unlike(call.held, tensor_leaves((args, kwargs)))
    return Correction(arguments, keywords, function=need.function, tensors=tensors), doubt
