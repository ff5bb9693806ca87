"""The verifier that runs after every pass: two tables of invariants, of a program and of what a pass may change.

Each invariant is a function whose docstring states it and that yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Shape
from atograph.passes.base import Pass, RewritePass
from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program
from atograph.passes.ir.propagate import mode_of, run, runs_alone
from atograph.passes.ir.randomness import has_effects
from atograph.passes.ir.regions.regions import writes
from atograph.passes.ir.sizes import text
from atograph.passes.ir.state import carried
from atograph.passes.torch_private import DataDependentOutputException, DynamicOutputShapeException

Invariant: TypeAlias = Callable[[Program], Iterator[str]]

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

# -- a program ---------------------------------------------------------------------------------------------------------


def _graph_is_well_formed(program: Program) -> Iterator[str]:
    """Every node is used after it is defined, and the program returns."""
    try:
        program.graph.lint()
    except Exception as error:
        yield str(error)
    if program.output_node.op != "output":
        yield "the last node does not return"


def _nothing_dangles(program: Program) -> Iterator[str]:
    """Every op's value is used, or it does something else."""
    for node in program.graph.nodes:
        if node.op == "call_function" and not node.users and not has_effects(node):
            yield f"nobody reads node {node.name} ({node.target})"


def _state_matches_placeholders(program: Program) -> Iterator[str]:
    """Each state tensor has the shape and type of its placeholder, and none is missing or left over."""
    names = program.state_names()
    for node, name in program.state_nodes():
        value, tensor = node.meta.get("val"), program.state.get(name)
        if tensor is None:
            yield f"no value for {name}"
        elif not isinstance(value, torch.Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            yield f"{name} is {tuple(tensor.shape)}, its placeholder is {getattr(value, 'shape', None)}"
    for name in program.state.keys() - set(names.values()):
        yield f"{name} has a value and no placeholder"


def _signature_is_met(program: Program) -> Iterator[str]:
    """User inputs and outputs are those of the captured model."""
    present = {node.name for node in program.input_nodes()}
    for name in program.interface.inputs:
        if name is not None and name not in present:
            yield f"the input {name} is gone"
    results, interface = program.output_node.args[0], program.interface
    count = len(interface.writes) + interface.returns.num_leaves
    if not isinstance(results, (tuple, list)) or len(results) != count:
        yield f"what it returns is not {count} values"


def _values_are_typed(program: Program) -> Iterator[str]:
    """Every op node knows its value's shape and type."""
    for node in program.graph.nodes:
        if node.op == "call_function" and "val" not in node.meta:
            yield f"node {node.name} has no meta['val']"


def _axes_match_shapes(program: Program) -> Iterator[str]:
    """Inferred dims have the sizes of the tensors they describe, those of coupled groups too."""
    axes, groups = program.facts.get(Axes), program.facts.get(Groups)
    inferred = [] if axes is None else [axes]
    if groups is not None and (axes is None or groups.axes.shapes is not axes.shapes):
        inferred.append(groups.axes)
    for each in inferred:
        for node in program.graph.nodes:
            values = zip(_tensors(node.meta.get("val")), each.shapes.get(node, ()), strict=False)
            for output, (value, shape) in enumerate(values):
                sizes = () if value is None or not shape else each.points.shape(node, output)
                if tuple(dim.size for dim in shape[: len(sizes)]) != sizes:
                    yield f"node {node.name} has shape {sizes}, its axes say {_sizes(shape)}"


INVARIANTS: tuple[Invariant, ...] = (
    _graph_is_well_formed,
    _nothing_dangles,
    _state_matches_placeholders,
    _signature_is_met,
    _values_are_typed,
    _axes_match_shapes,
)

# -- what a pass does to it --------------------------------------------------------------------------------------------


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
    elif result.facts:
        yield f"the new program has the fact {next(iter(result.facts)).__name__} already"


def _outside_is_the_same(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """User inputs and outputs keep their shapes, but for state, which a pass that changes widths cuts."""
    if result is given.program:
        return
    state = carried(given.program) if isinstance(each, RewritePass) and each.compares_shapes else {}
    inputs = {node.name: node for node in given.program.input_nodes() if node not in state}
    pairs = [(inputs[node.name], node) for node in result.input_nodes() if node.name in inputs]
    outside = set(_results(given.program)) - set(state.values())
    pairs += [pair for pair in zip(_results(given.program), _results(result), strict=False) if pair[0] in outside]
    for before, after in pairs:
        old, new = _shapes(before), _shapes(after)
        if old != new:
            yield f"{after.name} had the shape {', '.join(old)}, and has {', '.join(new)}"


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
        for tensor, noted in zip(_tensors(value), _tensors(node.meta.get("val")), strict=False):
            if tensor is not None and (noted is None or tensor.shape != noted.shape or tensor.dtype != noted.dtype):
                yield f"node {node.name} ({node.target}) gives {_type(tensor)}, and says {_type(noted)}"


def _nothing_new_writes(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """A program whose ops write nothing in place gets none that does."""
    if result is not given.program and not any(writes(node) for node in given.program.graph.nodes):
        yield from (f"node {node.name} ({node.target}) writes" for node in result.graph.nodes if writes(node))


def _promises_are_kept(each: Pass, given: Given, result: Program) -> Iterator[str]:
    """What the pass itself promises of its result."""
    yield from each.broken(given.program, result)


CHANGES: tuple[Change, ...] = (
    _given_is_left_alone,
    _facts_hold,
    _outside_is_the_same,
    _shapes_are_propagated,
    _nothing_new_writes,
    _promises_are_kept,
)


def verify(program: Program, after: str = "capture", culprit: str = "atograph") -> None:
    """Check every invariant of a program.

    Args:
        program: to check.
        after: the pass (or passes) that ran.
        culprit: the package that is to blame.

    Raises:
        InternalError: naming what ran and the first broken invariant.
    """
    for invariant in INVARIANTS:
        _refuse(invariant, invariant(program), after, culprit)


def verify_pass(each: Pass, given: Given, result: Program, after: str) -> None:
    """Check what a pass has made of a program.

    Args:
        each: the pass that ran last.
        given: the program as it was before.
        result: the program that it gave.
        after: all passes that ran.

    Raises:
        InternalError: as `verify`.
    """
    culprit = type(each).__module__.partition(".")[0]
    for invariant in INVARIANTS:
        if not _holds_still(invariant, given, result):
            _refuse(invariant, invariant(result), after, culprit)
    for change in CHANGES:
        _refuse(change, change(each, given, result), after, culprit)


def _holds_still(invariant: Invariant, given: Given, result: Program) -> bool:
    """Whether what held before a pass holds still: of the graph of an analysis, which `_given_is_left_alone` looks at
    node by node, and of axes that are the same as before."""
    if result is not given.program:
        return False
    if invariant is _axes_match_shapes:
        return all(result.facts.get(kind) is given.facts.get(kind) for kind in (Axes, Groups))
    return invariant is _graph_is_well_formed


def verify_promises(each: Pass, given: Program, result: Program, after: str) -> None:
    """Check only what a pass promises itself: of a pipeline, whose inner passes were verified one by one.

    Raises:
        InternalError: as `verify`.
    """
    culprit = type(each).__module__.partition(".")[0]
    _refuse(_promises_are_kept, each.broken(given, result), after, culprit)


def _refuse(invariant: Callable[..., object], broken: Iterator[str], after: str, culprit: str) -> None:
    first = next(broken, None)
    if first is not None:
        rule = (invariant.__doc__ or "").strip().rstrip(".")
        raise InternalError(f"after {after}: {first} (invariant: {rule}).", culprit)


def _nodes(program: Program) -> tuple[_Call, ...]:
    return tuple((node, node.target, node.args, node.kwargs) for node in program.graph.nodes)


def _versions(program: Program) -> dict[str, tuple[torch.Tensor, int]]:
    return {name: (value, 0 if value.is_inference() else value._version) for name, value in program.state.items()}


def _results(program: Program) -> list[fx.Node]:
    results = program.output_node.args[0]
    return [node for node in results if isinstance(node, fx.Node)] if isinstance(results, (tuple, list)) else []


def _tensors(value: object) -> list[torch.Tensor | None]:
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v if isinstance(v, torch.Tensor) else None for v in values]


def _shapes(node: fx.Node) -> list[str]:
    return ["no tensor" if value is None else _shape(value) for value in _tensors(node.meta.get("val"))]


def _type(value: torch.Tensor | None) -> str:
    return "no tensor" if value is None else f"{_shape(value)} of {value.dtype}"


def _shape(value: torch.Tensor) -> str:
    return f"[{', '.join(map(text, value.shape))}]"


def _sizes(shape: Shape) -> list[int]:
    return [dim.size for dim in shape]
