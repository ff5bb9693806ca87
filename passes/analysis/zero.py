"""The proof of zero-invariance, by abstract interpretation, for all axes in one pass over the program.

Take one unit of an axis and set its *zeroing set* (some of its parameter slices) to zero. For every tensor dimension
that carries the axis we keep the constant that the tensor then holds at that unit's index, or nothing where it is not
a known constant (`constants.py`). The unit is removable if every op that sums over the axis meets a zero there.
Producers are zeroed first (what the ATO paper projects); where an activation turns their zero into something else, the
consumer's own slices join the zeroing set (`blame.py`), and where there are none the axis is frozen.

State, an output that becomes an input again, is proved by induction over the calls. *Hypothesis*: the unit is zero in
the state that comes in. *Step*: then it is zero in the state that goes out. So a masked network whose first state is
zero there (an empty cache, zeros) is so in every call, and each call sums over zeros only. A place of the state for
which the step fails (a sigmoid makes 0.5 of it) has no hypothesis: nothing is known of what comes in, the slices that
read it have to be zero, and then it does not matter what the unit holds, in the first state or later. All hypotheses
are tried at once, those that fail are dropped, and the proof is made anew until all that are left hold together: with
one less, less is known to be zero. What the rounds of a loop hand on (`ir.regions`) is proved in the same way, by
induction over the rounds; there, what goes into the first round has to be zero as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from torch import fx

from atograph.passes.analysis.blame import Blame
from atograph.passes.analysis.constants import INFINITE, Constants, Interpreter
from atograph.passes.analysis.couplings import Sides, ValueDim
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.numbers import Numbers
from atograph.passes.analysis.routes import Routes, StateDim
from atograph.passes.axes.dims import Axis, axes_of, dim_of
from atograph.passes.axes.flow import Contraction
from atograph.passes.axes.inference import Inference
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import reason_at
from atograph.passes.ir.state import carried


@dataclass(frozen=True, eq=False)
class ZeroSets:
    """For each axis the parameter slices that have to be zero for its units to be removable (none if it is frozen), and
    those that consume it, where it is summed over.

    Attributes:
        constants: op → axis that it reduces → what a removed unit holds there, where that need not be zero.
    """

    sites: Mapping[Axis, Sequence[StateDim]]
    consumers: Mapping[Axis, set[StateDim]]
    constants: Mapping[fx.Node, Mapping[Axis, float]]


def prove(program: Program, axes: Axes, sides: Sides, inference: Inference) -> ZeroSets:
    """Find each axis's zeroing set, and freeze the axes that have none.

    Args:
        program: with its axes inferred.
        axes: these.
        sides: which parameters make units and which read them: one that does both is zeroed first.
        inference: a fork of the one of the axes, in which they are frozen.
    """
    hypotheses = _of_state(program, axes, inference)
    while hypotheses:
        trial = _Proof(program, axes, sides, inference.fork(), hypotheses)
        trial.run()
        hold = {each for each in hypotheses if trial.makes_zero(each)}
        if hold == hypotheses:
            break
        hypotheses = hold
    return _Proof(program, axes, sides, inference, hypotheses).run()


class _InState(NamedTuple):
    """An axis along a dim of a state."""

    node: fx.Node
    dim: int
    axis: Axis


def _of_state(program: Program, axes: Axes, inference: Inference) -> set[_InState]:
    """Each axis that may be pruned, along each dim of each state, and of what rounds of a loop hand on."""
    loops = [node for node, taken in axes.regions.taken.items() if isinstance(taken.again, fx.Node)]
    return {
        _InState(node, dim, axis)
        for node in (*carried(program), *(node for node in loops if axes.shapes[node]))
        for dim, along in enumerate(axes.shape(node))
        for axis in axes_of(along)
        if inference.frozen(axis) is None
    }


class _Proof:
    def __init__(
        self, program: Program, axes: Axes, sides: Sides, inference: Inference, hypotheses: Collection[_InState]
    ) -> None:
        self._program, self._axes, self._sides, self._inference = program, axes, sides, inference
        names, parameters = program.state_names(), program.parameter_names()
        self._parameters = {n for n in program.graph.nodes if n.op == "placeholder" and names.get(n.name) in parameters}
        numbers = Numbers(program, axes)
        self._routes = Routes(axes)
        self._blame = Blame(self._routes, numbers, self._parameters)
        self._interpreter = Interpreter(self._routes, numbers, inference)
        self._carried = carried(program)
        self._hypotheses: dict[fx.Node, dict[tuple[int, int], Constants]] = {}
        for node, dim, axis in hypotheses:
            self._hypotheses.setdefault(node, {}).setdefault((0, dim), {})[axis] = 0.0
        self._consumers = self._find_consumers()
        self._divisors = self._blame.divisors()  # what would make something infinite, were it zero
        self._zeroed: dict[Axis, dict[StateDim, None]] = {}
        self._reduced: dict[fx.Node, dict[Axis, float]] = {}
        self._late: set[fx.Node] = set()  # parameters that were zeroed after the ops that read them were looked at

    def run(self) -> ZeroSets:
        self._zero_producers()
        known = self._interpreter.known
        for node in self._axes.regions.order:
            if node in self._parameters:
                known[node] = self._zeros_in(node)
            elif node in self._axes.effects or node in self._hypotheses:
                known[node] = self._interpret(node)
        while self._late:
            self._interpret_again()
        self._check_rounds()
        order = {node: index for index, node in enumerate(self._program.graph.nodes)}
        places = {site: (order[site[0]], site[1]) for sites in self._zeroed.values() for site in sites}
        sites = {
            axis: sorted(sites, key=places.__getitem__)
            for axis, sites in self._zeroed.items()
            if self._inference.frozen(axis) is None
        }
        return ZeroSets(sites, self._consumers, self._reduced)

    def makes_zero(self, place: _InState) -> bool:
        """Whether what goes out is zero where what came in was taken to be; of a loop what goes in first, too."""
        known = (self._interpreter.known.get(node, {}) for node in self._handed_on(place.node))
        return all(each.get((0, place.dim), {}).get(place.axis) == 0.0 for each in known)

    def _handed_on(self, node: fx.Node) -> list[fx.Node]:
        """What has to be zero for a hypothesis to hold."""
        return [self._carried[node]] if node in self._carried else self._axes.regions.reads(node)

    def _check_rounds(self) -> None:
        """Freeze what a round hands on to the next that is infinite."""
        for node, taken in self._axes.regions.taken.items():
            if isinstance(taken.again, fx.Node):
                for known in self._interpreter.known.get(taken.again, {}).values():
                    for axis in (axis for axis, constant in known.items() if not isfinite(constant)):
                        self._freeze(node, axis, INFINITE)

    def _find_consumers(self) -> dict[Axis, set[StateDim]]:
        consumers: dict[Axis, set[StateDim]] = {}
        for node in self._axes.effects:
            for contraction in self._routes.contractions(node):
                over = self._routes.summed(contraction)
                for axis in over:
                    consumers.setdefault(axis, set())
                for factor, dim in contraction.sites:
                    for axis, sites in self._blame.sites_of_all(ValueDim(factor, 0, dim)):
                        if axis in over:
                            consumers[axis].update(sites)
        return consumers

    def _zero_producers(self) -> None:
        for node in self._program.graph.nodes:
            if node in self._parameters:
                for dim, axis in self._free(node):
                    site = (node, dim)
                    makes = site not in self._consumers.get(axis, ()) or self._is_tied(node, dim, axis)
                    if makes and site not in self._divisors.get(axis, ()):
                        self._zeroed.setdefault(axis, {})[site] = None

    def _is_tied(self, node: fx.Node, dim: int, axis: Axis) -> bool:
        """Whether a parameter makes the units that it reads elsewhere, as a table of words that is the head, too."""
        return all((node, dim) in side.get(axis, ()) for side in self._sides)

    def _free(self, parameter: fx.Node) -> Iterator[tuple[int, Axis]]:
        for dim, along in enumerate(self._routes.outputs(parameter)[0]):
            for axis in along:
                if self._inference.frozen(axis) is None:
                    yield dim, axis

    def _zeros_in(self, parameter: fx.Node) -> dict[tuple[int, int], Constants]:
        """The constants of a parameter: zero where it is zeroed."""
        constants: dict[tuple[int, int], Constants] = {}
        for dim, along in enumerate(self._routes.outputs(parameter)[0]):
            site = (parameter, dim)
            zero = [a for a in along if site in self._zeroed.get(a, ()) and self._inference.frozen(a) is None]
            if zero:
                constants[0, dim] = dict.fromkeys(zero, 0.0)
        return constants

    def _interpret(self, node: fx.Node) -> dict[tuple[int, int], Constants]:
        for contraction in self._routes.contractions(node) if node in self._axes.effects else ():
            for axis in self._unmet(contraction):
                self._require_zero(node, contraction, axis)
        known = self._interpreter.interpret(node) if node in self._axes.effects else {}
        for place, zeros in self._hypotheses.get(node, {}).items():
            known[place] = {**known.get(place, {}), **zeros}
        return known

    def _interpret_again(self) -> None:
        """Look again at all that reads what was zeroed late: it may be infinite by that, or 0/0."""
        changed, self._late = self._late, set()
        for node in self._axes.regions.order:
            if node in self._axes.effects and not changed.isdisjoint(self._axes.regions.reads(node)):
                constants = self._interpret(node)
                if constants != self._interpreter.known[node]:
                    self._interpreter.known[node] = constants
                    changed.add(node)

    def _unmet(self, contraction: Contraction) -> list[Axis]:
        """The axes that an op sums over at which more has to be known than that one factor is zero."""
        free = [axis for axis in self._routes.summed(contraction) if self._inference.frozen(axis) is None]
        if contraction.any_constant:
            return free
        met = [self._interpreter.known.get(factor, {}).get((0, dim), {}) for factor, dim in contraction.sites]
        if all(all(map(isfinite, constants.values())) for constants in met):
            return [axis for axis in free if not any(constants.get(axis) == 0.0 for constants in met)]
        return free

    def _require_zero(self, node: fx.Node, contraction: Contraction, axis: Axis) -> None:
        """One of the contracted factors must be zero at the axis: by what flows in, or by its own parameter slices."""
        known = self._interpreter.known
        constants = [known.get(factor, {}).get((0, dim), {}).get(axis) for factor, dim in contraction.sites]
        if any(c is not None and not isfinite(c) for c in constants):  # times the zero that meets it: not a number
            self._freeze(node, axis, INFINITE)
        if contraction.any_constant and constants[0] is not None:
            self._reduced.setdefault(node, {})[axis] = constants[0]
            return
        if 0.0 in constants:
            return
        for factor, dim in contraction.sites:
            sites = self._blame.sites(ValueDim(factor, 0, dim), axis)
            if sites and self._divisors.get(axis, set()).isdisjoint(sites):
                self._zero_late(axis, sites)
                if contraction.any_constant:
                    self._reduced.setdefault(node, {})[axis] = 0.0
                return
        self._freeze(node, axis, "a removed unit would still contribute here")

    def _zero_late(self, axis: Axis, sites: Sequence[StateDim]) -> None:
        self._zeroed.setdefault(axis, {}).update(dict.fromkeys(sites))
        for parameter, dim in sites:
            self._interpreter.known[parameter].setdefault((0, dim), {})[axis] = 0.0
            self._late.add(parameter)

    def _freeze(self, node: fx.Node, axis: Axis, text: str) -> None:
        self._inference.freeze(dim_of(axis), reason_at(node, text))
