"""Passes that are patterns and what takes their place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.ir.program import Program, copy_graph, copy_regions
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.reason import reason_at
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.sizes import text
from atograph.passes.patterns.match import Match, Miss, match
from atograph.passes.patterns.written import pattern_of, write
from atograph.passes.public import public
from atograph.passes.rules.aliases import may_view, returned_by
from atograph.passes.rules.table import name_of


@public("atograph.passes")
class Replacement(NamedTuple):
    """A pattern, and what takes its place.

    Attributes:
        pattern: a function of what may be anything: tensors, numbers, shapes. Its ops are those of ATen, written as
            ``x * 0.5``, ``x.mean(-1)``, ``torch.erf(x)`` or ``torch.ops.aten.erf(x)``, of any overload unless one is
            named.
        by: a function of some of the same, by name. It may read ``x.shape``.
        unless: a function of some of the same, nodes and numbers, that says why a match is none; None where it is.
    """

    pattern: Callable[..., Any]
    by: Callable[..., Any]
    unless: Callable[..., str | None] | None = None


@public("atograph.passes")
@dataclass(frozen=True)
class PatternPass(RewritePass):
    """A pass that puts ops in the place of others.

    Attributes:
        replacements: the first that matches counts. A match whose inner values are read elsewhere is none, and neither
            is one whose replacement would be of another shape or type. In the regions of control flow each keeps to
            itself.
    """

    replacements: ClassVar[tuple[Replacement, ...]]

    def rewrite(self, program: Program) -> Program:
        """The same program with each match replaced."""
        replaced: list[Match] = []

        def after(old: fx.Graph) -> fx.Graph:
            graph, _nodes = copy_graph(old)
            found = [each for each in self._outcomes(graph, old is not program.graph) if isinstance(each, Match)]
            if found:
                drop_dead_code(graph, old.owning_module)
            replaced.extend(found)
            return graph

        graph = after(program.graph)
        root = copy_regions(graph, program, after)
        return program.rewritten(graph, program.state, root) if replaced else program

    def refused(self, program: Program) -> list[str]:
        """Of each near match, which has at least half of the ops of a pattern, what is in the way, with its place."""
        regions = [region for each in Regions(program.graph).controls.values() for region in each.regions]
        graphs = [program.graph, *(region.module.graph for region in regions)]
        outcomes = (
            each for old in graphs for each in [*self._outcomes(copy_graph(old)[0], old is not program.graph)][::-1]
        )  # fmt: skip
        misses = (each for each in outcomes if isinstance(each, Miss))
        return [f"{name_of(each.node.target)}: {reason_at(each.node, each.text)}" for each in misses]

    def _outcomes(self, graph: fx.Graph, within: bool) -> Iterator[Match | Miss]:
        """Replace what matches, from the end on; what was replaced, and what nearly was.

        Args:
            graph: changed in place.
            within: whether it is a region, which may give no memory of what it is given.
        """
        if not all("val" in node.meta for node in graph.nodes if node.op in ("placeholder", "call_function")):
            return  # of a region that cannot be followed
        patterns = [(each, pattern_of(each.pattern)) for each in self.replacements]
        used: set[fx.Node] = set()
        given = returned_by(graph) if within else ()
        for node in reversed(list(graph.nodes)):
            if node.op != "call_function" or node in used:
                continue
            misses: list[Miss] = []
            for replacement, pattern in patterns:
                outcome = match(pattern, node)
                if isinstance(outcome, Match):
                    outcome = _put(replacement, outcome, of_its_own=node in given)
                if isinstance(outcome, Match):
                    used |= outcome.nodes
                    yield outcome
                    break
                if 2 * outcome.matched >= len(pattern.nodes) - len(pattern.find_nodes(op="placeholder")) - 1:
                    misses.append(outcome)
            else:
                yield from misses[:1]


def _put(replacement: Replacement, found: Match, *, of_its_own: bool) -> Match | Miss:
    """Put what takes its place into the graph, before the last op of a match, and let all read that.

    Args:
        replacement: of the pattern that matches.
        found: the match.
        of_its_own: whether it has to have memory of its own.
    """
    root, ops = found.root, len(found.nodes)
    if replacement.unless is not None:
        names = found.values.keys() & inspect.signature(replacement.unless).parameters.keys()
        why = replacement.unless(**{name: found.values[name] for name in names})
        if why is not None:
            return Miss(root, why, ops)
    try:
        made = write(replacement.by, found.values, root)
    except RuntimeError as error:  # of torch, about shapes or types
        return Miss(root, f"what would take its place is refused: {str(error).splitlines()[0]}", ops)
    if _form(made) != _form(root):
        return Miss(root, f"it gives {_form(root)}, and what would take its place {_form(made)}", ops)
    if of_its_own and (made.op == "placeholder" or may_view(made)):
        return Miss(
            root, "a region gives memory of its own, and what would take its place is memory that is there", ops
        )
    root.replace_all_uses_with(made)
    return found


def _form(node: object) -> str:
    """Type, shape and device of what a node gives, in words."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else node
    if not isinstance(value, torch.Tensor):
        return str(value)
    return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(text, value.shape))}] on {value.device}"
