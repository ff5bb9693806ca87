"""What would let ``save_pretrained`` write the slim model: told before the training, when it can still be chosen."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from atograph.graph import Graph
from atograph.passes.analysis.groups import Group
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.repair.saving import why_unsaved
from atograph.run.latency_budget import magnitude_plan
from atograph.slimming.slim import Slim, slim
from atograph.train.settings import TrainSettings


class Advice(NamedTuple):
    """What to freeze and to couple; layers that a name cannot tell apart are meant by a glob."""

    freeze: tuple[str, ...]
    couple: tuple[str, ...]

    def __str__(self) -> str:
        """As options: ``--freeze embed:out --couple layers.0.up=layers.1.up``, of many couples the first one."""
        options = [f"--freeze '{name}'" for name in self.freeze]
        if self.couple:
            options.append(f"--couple {self.couple[0]}")
        more = len(self.couple) - 1
        return " ".join(options) + (f" and {more} more --couple of this kind, layer by layer" if more > 0 else "")


def saving_line(graph: Graph, slimmed: Slim, settings: TrainSettings) -> str:
    """Why a module like this one cannot be saved by ``save_pretrained``, and what to do; empty where it can."""
    why = "" if slimmed.module is None else why_unsaved(slimmed.module)
    if not why:
        return ""
    advice = _advice(graph.prunable)
    tail = "slim.save(folder) writes it all the same"
    if _saves(graph, advice, settings):
        tail += f"; with {advice} a configuration can say the result"
    return f"save_pretrained will refuse a module slimmed like this: {why}; {tail}."


def length_line(program: Program, file: str) -> str:
    """That a file takes sequences of the example's length only; empty for inputs that are no tokens."""
    interface = program.interface
    dynamic = {(place.placeholder, place.dim) for size in interface.dynamic for place in size.places}
    for node in program.input_nodes():
        value = node.meta["val"]
        tokens = value.dim() == 2 and value.shape[1] > 1 and not (value.is_floating_point() or value.is_complex())
        if tokens and (node.name, 1) not in dynamic:
            advice = (
                f"--dynamic {node.name}:1=sequence makes the length free"
                if not interface.still
                else ("give example_inputs of the length that is deployed, and pad to it")
            )
            return f"{file} will take {node.name} of exactly {value.shape[1]} per sample, as in the example: {advice}."
    return ""


def _advice(groups: Sequence[Group]) -> Advice:
    """Couple what each layer has once, by itself; freeze all else: a width of all layers, heads and their widths."""
    made: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups:
        for parameter, _dim in group.makers:
            made[parameter].append(group)
    alike: defaultdict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        alone = all(len(made[parameter]) == 1 for parameter, _dim in group.makers)
        alike[(alone and _layers(group) == 1, group.size, tuple(sorted(set(_patterns(group)))))].append(group)
    freeze, couple = list[str](), list[str]()
    for (coupled, _size, patterns), each in alike.items():
        if coupled:
            first, *others = (min(_modules(group)) for group in each)
            couple += [f"{first}={other}" for other in others]
        elif patterns:
            freeze.append(f"{patterns[0]}:out")
    return Advice(tuple(dict.fromkeys(freeze)), tuple(couple))


def _modules(group: Group) -> Iterator[str]:
    """The modules whose weights make the group's units."""
    return (parameter.rpartition(".")[0] for parameter, _dim in group.makers)


def _patterns(group: Group) -> Iterator[str]:
    return (re.sub(r"\b\d+\b", "*", name) for name in _modules(group))


def _layers(group: Group) -> int:
    """In how many layers its makers are: numbers in their names tell."""
    return len({tuple(re.findall(r"\b\d+\b", name)) for name in _modules(group)})


def _saves(graph: Graph, advice: Advice, settings: TrainSettings) -> bool:
    """Whether a plan that follows the advice gives a module that can be saved."""
    try:
        steered = graph.steered(freeze=advice.freeze, couple=advice.couple)
        module: nn.Module | None = slim(steered, magnitude_plan(steered, settings)).module
    except UserError:  # the budget is out of reach then
        return False
    return module is not None and not why_unsaved(module)
