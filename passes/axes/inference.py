"""What axis inference knows: which axes exist, what unification bound them to, and which are frozen."""

from __future__ import annotations

from atograph.passes.axes.dims import ONE, Axis, Dim, Factor, Permuted, axes_of, concat, dim_of, product
from atograph.passes.axes.orders import permuted
from atograph.passes.errors import InternalError
from atograph.passes.ir.reason import Reason
from atograph.passes.ir.sizes import Size


class Inference:
    """The context of one axis inference. It alone knows what became of an `Axis`, which is nothing but a size.

    Once it is sealed nothing is added any more, so that whoever reads it later reads the same. An analysis that has
    more to say works on a `fork`:

        >>> first = Inference()
        >>> a, b, c = (first.axis(size) for size in (8, 3, 5))
        >>> first.bind(a, concat([dim_of(b), dim_of(c)]))
        >>> second = first.seal().fork()
        >>> second.freeze(dim_of(a), Reason("both parts of it stay"))
        >>> first.frozen(b), str(second.frozen(b))
        (None, 'both parts of it stay')
    """

    def __init__(self) -> None:
        self._bindings = _Bindings()
        self._frozen: dict[Axis, Reason] = {}
        self._same: dict[tuple[int, int], tuple[Dim, Dim]] = {}
        self._sealed = False

    def axis(self, size: int, frozen: Reason | None = None) -> Axis:
        """A new axis, free to be pruned unless there is a reason why not."""
        axis = Axis(size)
        if frozen is None and isinstance(size, Size):
            frozen = Reason("another size in other calls", structural=True)
        if frozen is not None:
            self._check_open()
            self._frozen[axis] = frozen
        return axis

    def frozen(self, axis: Axis) -> Reason | None:
        """Why no unit of a free axis may go; None where units may."""
        return self._frozen.get(axis)

    def freeze(self, dim: Dim, reason: Reason) -> None:
        """Freeze every axis of a dim; one that is frozen already keeps its first reason, unless that is structural.

        Raises:
            InternalError: the inference is sealed.
        """
        self._check_open()
        for axis in axes_of(self.resolve(dim)):
            before = self._frozen.get(axis)
            if before is None or (before.structural and not reason.structural):
                self._frozen[axis] = reason

    def bind(self, axis: Axis, dim: Dim) -> None:
        """From here on an axis is a dim.

        Raises:
            InternalError: the inference is sealed.
        """
        self._check_open()
        if self._bindings.shared:
            self._bindings = self._bindings.copy()
        self._bindings.bind(axis, dim)

    def resolve(self, dim: Dim) -> Dim:
        """A dim with every bound axis replaced by what it is bound to."""
        return self._bindings.resolve(dim)

    def are_same(self, one: Dim, other: Dim) -> bool:
        """Whether two dims are the same by now; once they are they stay so."""
        pair = (id(one), id(other))
        if pair not in self._same and self.resolve(one) == self.resolve(other):
            self._same[pair] = (one, other)  # held, so that no other dims get their numbers
        return pair in self._same

    def seal(self) -> Inference:
        """Add nothing from here on; the inference itself."""
        self._sealed = self._bindings.shared = True
        return self

    def fork(self) -> Inference:
        """Another inference that knows all that this one knows; from here on each learns on its own."""
        fork = Inference()
        self._bindings.shared = True
        fork._bindings, fork._frozen = self._bindings, dict(self._frozen)
        return fork

    def _check_open(self) -> None:
        if self._sealed:
            raise InternalError("an inference that is sealed is not changed; work on a fork of it.")


class _Bindings:
    """Axis → dim. ``count`` tells how many were ever bound: what was resolved since the last one is resolved still.

    Attributes:
        shared: whether several inferences have them; then they are copied before one is added.
    """

    def __init__(self) -> None:
        self.bound: dict[Axis, Dim] = {}
        self.count = 0
        self.shared = False

    def copy(self) -> _Bindings:
        copied = _Bindings()
        copied.bound, copied.count = dict(self.bound), self.count
        return copied

    def bind(self, axis: Axis, dim: Dim) -> None:
        self.bound[axis] = dim
        self.count += 1

    def resolve(self, dim: Dim) -> Dim:
        if dim is ONE:  # which outlives every inference
            return dim
        resolved = dim
        if dim.memo is not None and dim.memo[0] is self:
            resolved = dim.memo[2] or dim
            if dim.memo[1] == self.count:
                return resolved
        plain = resolved.plain
        if plain:  # most are one axis, or many
            stale = not self.bound.keys().isdisjoint(plain)
        else:
            stale = any(self._is_stale(factor) for term in resolved.terms for factor in term)
        if stale:
            resolved = concat([self._resolve_term(term) for term in resolved.terms])
        dim.memo = (self, self.count, None if resolved is dim else resolved)
        return resolved

    def _resolve_term(self, term: tuple[Factor, ...]) -> Dim:
        if len(term) == 1:
            return self._resolve_factor(term[0])
        return product([self._resolve_factor(factor) for factor in term]) if term else ONE

    def _is_stale(self, factor: Factor) -> bool:
        if isinstance(factor, Axis):
            return factor in self.bound
        if isinstance(factor, Permuted):
            return any(self._is_stale(inner) for term in factor.source.terms for inner in term)
        return True

    def _resolve_factor(self, factor: Factor) -> Dim:
        if isinstance(factor, Dim):
            return self.resolve(factor)
        if isinstance(factor, Permuted):
            if self._is_stale(factor):
                return permuted(self.resolve(factor.source), factor.order)
            return dim_of(factor)
        chain: list[Axis] = []  # as long as the network is deep, so no recursion
        while (following := self._renamed(factor)) is not None:
            chain.append(factor)
            factor = following
        bound = self.bound.get(factor)
        if bound is None:
            resolved = dim_of(factor)
        else:
            resolved = self.resolve(bound)
            chain.append(factor)
        for axis in chain:
            self.bound[axis] = resolved  # path compression
        return resolved

    def _renamed(self, axis: Axis) -> Axis | None:
        """The axis that an axis is bound to, if it is one axis and nothing more."""
        bound = self.bound.get(axis)
        if bound is None or len(bound.terms) != 1 or len(bound.terms[0]) != 1:
            return None
        (only,) = bound.terms[0]
        return only if isinstance(only, Axis) else None
