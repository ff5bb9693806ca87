"""What a pass may change of a program: a table of invariants.

Each is a function whose docstring states it and that yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.base import Pass, RewritePass
from atograph.passes.ir.program import Program
from atograph.passes.ir.propagate import mode_of, run, runs_alone
from atograph.passes.ir.regions.regions import writes
from atograph.passes.ir.state import carried
from atograph.passes.pipeline.blamed import blamed
from atograph.passes.pipeline.invariants import tensors_of, type_of
from atograph.passes.text.targets import is_found_again, target_text
from atograph.passes.torch_private import DataDependentOutputException, DynamicOutputShapeException

_Call: TypeAlias = tuple[fx.Node, Target, tuple[Argument, ...], Mapping[str, Argument]]


@dataclass(frozen=True)
class Given:
    """A program as a pass got it.

    Attributes:
        program: the program itself, which the pass may have spoiled since.
        nodes: its nodes with what they did.
        state: its tensors, each with the number of times that it was changed in place.
        facts: what was known of it, by type.
    """

    program: Program
    nodes: tuple[_Call, ...]
    state: dict[str, tuple[torch.Tensor, int]]
    facts: Mapping[type, Any]

    @classmethod
    def of(cls, program: Program) -> Given:
        """The program as it is now."""
        return cls(program, _nodes(program), _versions(program), dict(program.facts))


Change: TypeAlias = Callable[[Pass, Given, Program], Iterator[str]]


def _given_is_left_alone(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """A pass changes no node and no tensor of the program that it was given."""
    now = _nodes(given.program)
    if len(now) != len(given.nodes):
        yield f"the program that it was given had {len(given.nodes)} nodes, and has {len(now)}"
    for (node, *before), (same, *after) in zip(given.nodes, now, strict=False):
        if node is not same or any(a is not b and a != b for a, b in zip(before, after, strict=True)):
            yield f"node {node.name} of the program that it was given is another one"
    state = _versions(given.program)
    for name, (tensor, version) in given.state.items():
        left, changes = state.get(name, (None, 0))
        if left is not tensor:
            yield f"{name} of the program that it was given is another tensor"
        elif changes != version:
            yield f"the values of {name} of the program that it was given were changed"


def _facts_hold(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """An analysis adds one fact, or another one of its kind, and a rewritten program starts without any."""
    if result is given.program:
        for lost in given.facts.keys() - result.facts.keys():
            yield f"the fact {lost.__name__} is gone"
        added = [kind.__name__ for kind, fact in result.facts.items() if given.facts.get(kind) is not fact]
        if len(added) > 1:
            yield f"the facts {' and '.join(added)} are others than before"
        for kind in result.facts.keys() - given.facts.keys():
            if kind.__module__ == "builtins":
                yield f"the new fact is of type {kind.__name__}, and not of a class of its own"
    elif result.facts:
        yield f"the new program has the fact {next(iter(result.facts)).__name__} already"


def _outside_is_the_same(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """User inputs and outputs keep their shapes and types, but for state, which a pass that changes widths cuts."""
    if result is given.program:
        return
    state = carried(given.program) if isinstance(each, RewritePass) and each.compares_shapes else {}
    inputs = {node.name: node for node in given.program.input_nodes() if node not in state}
    pairs = [(inputs[node.name], node) for node in result.input_nodes() if node.name in inputs]
    outside = set(_results(given.program)) - set(state.values())
    pairs += [pair for pair in zip(_results(given.program), _results(result), strict=False) if pair[0] in outside]
    for before, after in pairs:
        old, new = _types(before), _types(after)
        if old != new:
            yield f"{after.name} was {', '.join(old)}, and is {', '.join(new)}"


def _shapes_are_propagated(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """Every node's shape and type are what its op gives for its inputs."""
    if result is given.program or (isinstance(each, RewritePass) and each.compares_shapes):
        return
    yield from mistyped(result)


def mistyped(program: Program) -> Iterator[str]:
    """Each node whose shape or type is not what its op gives for its inputs, in words."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not runs_alone(node):
            continue
        try:
            with mode_of(program.graph), torch.no_grad():
                value = run(node)
        except (DynamicOutputShapeException, DataDependentOutputException):
            continue  # it is the data that say
        except Exception as error:
            yield f"node {node.name} ({node.target}) does not accept its inputs: {error}"
            return
        for tensor, noted in zip(tensors_of(value), tensors_of(node.meta.get("val")), strict=False):
            if tensor is not None and (noted is None or tensor.shape != noted.shape or tensor.dtype != noted.dtype):
                yield f"node {node.name} ({node.target}) gives {type_of(tensor)}, and says {type_of(noted)}"


def _nothing_new_writes(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """A program whose ops write nothing in place gets none that does."""
    if result is not given.program and not any(writes(node) for node in given.program.graph.nodes):
        yield from (f"node {node.name} ({node.target}) writes" for node in result.graph.nodes if writes(node))


def _ops_are_called(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """What nodes call are ops, torch.ops.aten.relu.default and not torch.relu, arithmetic on sizes, and regions."""
    if result is given.program:
        return
    known = {target for _node, target, _args, _kwargs in given.nodes}
    for node in result.graph.nodes:
        if node.op in ("call_method", "call_module"):
            yield f"node {node.name} is a {node.op} of {node.target}"
        elif node.op == "call_function" and node.target not in known and not is_found_again(node):
            yield f"node {node.name} calls {target_text(node)}"


def promises_are_kept(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """What the pass itself promises of its result."""
    yield from broken_promises(each, given.program, result)


def broken_promises(each: Pass, given: Program, result: Program) -> Iterator[str]:
    """The first of its promises that a pass has broken."""
    with blamed(each, "broken() of "):
        first = next(iter(each.broken(given, result)), None)
    if first is not None:
        yield first


CHANGES: tuple[Change, ...] = (
    _given_is_left_alone,
    _facts_hold,
    _outside_is_the_same,
    _shapes_are_propagated,
    _nothing_new_writes,
    _ops_are_called,
    promises_are_kept,
)


def _nodes(program: Program) -> tuple[_Call, ...]:
    return tuple((node, node.target, node.args, node.kwargs) for node in program.graph.nodes)


def _versions(program: Program) -> dict[str, tuple[torch.Tensor, int]]:
    return {name: (value, 0 if value.is_inference() else value._version) for name, value in program.state.items()}


def _results(program: Program) -> list[fx.Node]:
    results = program.output_node.args[0]
    return [node for node in results if isinstance(node, fx.Node)] if isinstance(results, (tuple, list)) else []


def _types(node: fx.Node) -> list[str]:
    return [type_of(value) for value in tensors_of(node.meta.get("val"))]
