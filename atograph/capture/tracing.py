"""Tracing: a model's ATen ops for a batch of `sizes.BATCH`, recorded on tensors without data.

These are the ops that `torch.export` records, before any decomposition, in a fraction of the time, because sizes are
integers and not symbols (`passes/ir/sizes.py`). If the model's code reads the batch size, small batches and the
example's are recorded, too; one of them where it only passes it on. What does not follow the batch, a loop over the
samples, or code that looks at values: the model is left to `torch.export`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeAlias
from unittest.mock import patch

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from atograph.capture.by_sizes.conditions import Notes, Watch, found_in, ways
from atograph.capture.by_sizes.dynamic import Wishes
from atograph.capture.by_sizes.points import MODEL, POINTS, aligned, dynamic_sizes, sets_of_points, within_limits
from atograph.capture.by_values.answers import Answers
from atograph.capture.recording.input_names import paths_of
from atograph.capture.recording.origins import Origins
from atograph.capture.recording.rebuilt import Rebuilt
from atograph.capture.recording.recorder import (
    LooksAtValues,
    NotAligned,
    NotTraced,
    NotUniform,
    Recording,
    Unfollowed,
    record,
)
from atograph.capture.recording.recordings import difference_at_sizes, first_difference, mentions_batch
from atograph.capture.recording.replaced import held, replaced
from atograph.capture.recording.without_data import without_data
from atograph.passes.ir.interface import Condition, Example, Interface, Ways
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import BATCH
from atograph.passes.torch_private import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    NormBase,
    detect_fake_mode,
    pytree,
)
from atograph.values.batch_size import batch_of, tensors_among
from atograph.values.eval_mode import unchanged
from atograph.values.training_flag import readers_of_training

_SMALL = (2, 3)
"""Batches that code which reads the batch size is tried with: one even, one odd, as small as a batch may be."""

_NO_WISHES = Wishes()

_Sizes: TypeAlias = Mapping[int, Mapping[int, int]]
"""Leaf of the arguments → dim → its size."""

_NO_SIZES: _Sizes = {}

_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer, FakeTensor)


def record_program(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    *,
    batch: int | None,
    wishes: Wishes = _NO_WISHES,
    decided_by: Example | None = None,
    numbers: bool = True,
    others: bool = True,
) -> Program:
    """Record what a model computes.

    Args:
        model: in eval mode, returning structures that pytree knows; left as it is.
        args: positional example inputs.
        kwargs: keyword example inputs.
        batch: the first dimension of every input tensor that is as long as this is the batch.
        wishes: which other sizes are to be dynamic.
        decided_by: arguments, ``(args, kwargs)``, whose values answer where the code looks at some; None: it may not.
        numbers: see `Answers`.
        others: whether to try a smaller batch where code takes the batch and does nothing but pass it on.

    Raises:
        NotTraced: this way does not do for the model; `NotUniform`, if that is because of the batch; `NotAligned`, if
            that is because of another size.
        Unfollowed: no way does.
    """
    try:
        return _Trace(model, args, kwargs, batch, decided_by, numbers).program(wishes, others=others)
    except (NotTraced, Unfollowed):
        raise
    except Exception as error:
        looks = isinstance(error, DataDependentOutputException)
        raise (LooksAtValues if looks else NotTraced)(f"{type(error).__name__}: {error}") from error


def run_without_data(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], *, batch: int | None
) -> None:
    """Run a model as `record_program` does, on tensors without data, and record nothing.

    Code may go another way there than on tensors with data: transformers makes every mask then.

    Args:
        model: in eval mode.
        args: positional example inputs.
        kwargs: keyword example inputs.
        batch: their batch, which becomes `sizes.BATCH`; None: it stays.
    """
    _Trace(model, args, kwargs, batch).run()


class _Trace:
    def __init__(
        self,
        model: nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        batch: int | None,
        decided_by: Example | None = None,
        numbers: bool = True,
    ) -> None:
        self.model, self.batch = model, batch
        self.leaves, self.takes = pytree.tree_flatten((args, kwargs))
        self.inputs = [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]
        self.state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        tensors = [*self.state.values(), *self.inputs]
        odd = [value for value in tensors if type(value) not in _PLAIN or is_lazy(value)]
        if odd:
            raise NotTraced(f"it holds a {type(odd[0]).__name__}")
        # without fallback kernels, which would run an op for real, on a batch of millions
        own = FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True)
        self.mode = detect_fake_mode(tensors) or own
        self.returns: pytree.TreeSpec | None = None
        self._tried: list[dict[str, int]] = []  # sizes at which the same ops are called
        self.reads_training = False
        self.answers: Answers | None = None
        if decided_by is not None:
            samples = None if batch is None else batch_of(decided_by)
            self.answers = Answers([*self.state.values()], tensors_among(decided_by), samples, numbers=numbers)

    def program(self, wishes: Wishes, *, others: bool = True) -> Program:
        recorded, origins = self._record(BATCH)
        returns = self.returns
        if self.batch is not None and (origins.read_batch or mentions_batch(recorded)):
            self._check_other_batches(recorded, sorted({self.batch, *_SMALL}))
        elif self.batch is not None and origins.passes_batch and others:
            self._check_other_batches(recorded, _SMALL[:1])
        signature = inspect.signature(self.model.forward)
        points, shapes = self._at_points(recorded, wishes) if wishes else ({}, {})
        rebuilt = Rebuilt(recorded, self.state, self._input_names(signature), held(self.model), shapes)
        assert returns is not None
        gone: Ways = ()
        if wishes:
            wishes = self._from_nothing(recorded, wishes)
            why_not = partial(self._why_not, recorded, rebuilt, wishes, returns)
            wishes = within_limits(wishes, why_not)
            gone = self._ways(recorded, shapes, wishes, points, why_not)
        interface = Interface(
            state=rebuilt.state,
            parameters=frozenset(name for name, value in self.state.items() if isinstance(value, nn.Parameter)),
            buffers=frozenset(name for name, value in self.state.items() if not isinstance(value, nn.Parameter)),
            inputs=rebuilt.inputs,
            takes=self.takes,
            returns=returns,
            signature=signature,
            example=pytree.tree_unflatten(self.leaves, self.takes),
            looked_at=self._looked_at(recorded),
            dynamic=dynamic_sizes(wishes, points, rebuilt.inputs),
            ways=gone,
            decided=() if self.answers is None else self.answers.decisions,
            reads_training=self.reads_training,
        )
        return Program.build(rebuilt.graph, interface, {**self.state, **rebuilt.constants})

    def _at_points(
        self, recorded: Recording, wishes: Wishes
    ) -> tuple[dict[str, tuple[int, ...]], dict[fx.Node, list[tuple[int, ...]]]]:
        """Record at other points, and write into the first recording what its numbers are there.

        Returns:
            The points, and the sizes of each node's tensors at them.

        Raises:
            NotAligned: the code does something else there.
        """
        reason: Exception | None = None
        returns = self.returns
        for points in sets_of_points(wishes):
            try:
                others = [self._record(BATCH, _resized(wishes, points, index))[0] for index in range(1, POINTS)]
                if self.returns != returns:
                    raise NotAligned("for inputs of another size it returns another structure")
                return points, aligned([recorded, *others])
            except Unfollowed:
                raise
            except Exception as error:  # of the model, too: it takes no such size
                reason = reason or error
        if isinstance(reason, NotTraced):
            raise reason
        text = f"{type(reason).__name__}: {reason}" if reason else "there are too few sizes within the limits to try"
        raise NotAligned(f"for inputs of another size: {text}") from reason

    def _why_not(
        self,
        recorded: Recording,
        rebuilt: Rebuilt,
        wishes: Wishes,
        returns: pytree.TreeSpec,
        sizes: Mapping[str, int],
        notes: Notes | None = None,
    ) -> str:
        """Why what was recorded does not hold at some sizes; empty where it does, or where it cannot be told."""
        try:
            at = _resized(wishes, {name: (size,) for name, size in sizes.items()}, 0)
            other = self._record(BATCH, at, notes)[0]
        except (NotTraced, Unfollowed, DataDependentOutputException):
            return ""
        except Exception as error:
            # of so many samples of such a size, there may be more numbers than fit into 64 bits
            return "" if "overflow" in str(error).lower() else f"{MODEL} fails beyond: {type(error).__name__}: {error}"
        if self.returns != returns:
            return "for inputs of another size it returns another structure"
        difference = difference_at_sizes(recorded, rebuilt.copies, rebuilt.output, other)
        if not difference:
            self._tried.append(dict(sizes))
        return difference

    def _ways(
        self,
        recorded: Recording,
        shapes: Mapping[fx.Node, list[tuple[int, ...]]],
        wishes: Wishes,
        points: Mapping[str, tuple[int, ...]],
        why_not: Callable[..., str],
    ) -> Ways:
        """Where the program holds, as far as what the code compares sizes with tells."""
        nodes = list(recorded.graph.nodes)

        def way_at(sizes: Mapping[str, int]) -> tuple[Condition, ...] | None:
            notes, before = Notes(), len(self._tried)
            try:
                why_not(sizes, notes=notes)
            except NotAligned:
                return None
            finally:
                notes.closed = True  # what keeps one of these sizes notes nothing any more
            if len(self._tried) == before:
                return None
            return found_in(notes, alone, lambda node, dim: shapes[nodes[node]][0][dim])

        alone = {size.name: points[size.name] for size in wishes.sizes if not size.parts}  # sums are told by these
        at_points = [{name: values[index] for name, values in points.items()} for index in range(POINTS)]
        return ways(wishes, [*at_points, *self._tried], way_at)

    def _from_nothing(self, recorded: Recording, wishes: Wishes) -> Wishes:
        """The same wishes, where sizes that may be 0 are at least 1 if the code does something else without any."""
        if all(size.least for size in wishes.sizes):
            return wishes
        values = {size.name: 0 if not size.least else size.value for size in wishes.sizes if not size.parts}
        sums = {size.name: sum(values[part] for part in size.parts) + size.plus for size in wishes.sizes if size.parts}
        points = {name: (value,) for name, value in {**values, **sums}.items()}
        try:
            other = self._record(BATCH, _resized(wishes, points, 0))[0]
        except Unfollowed:
            raise
        except Exception:  # of the model, too: it takes nothing less than one
            other = None
        if other is not None and [n.target for n in other.graph.nodes] == [n.target for n in recorded.graph.nodes]:
            return wishes
        return replace(wishes, sizes=tuple(replace(size, least=max(size.least, 1)) for size in wishes.sizes))

    def run(self) -> None:
        """Run it, and keep nothing of what is recorded."""
        with torch.no_grad():
            self._record(BATCH)

    def _record(self, batch: int, sizes: _Sizes = _NO_SIZES, notes: Notes | None = None) -> tuple[Recording, Origins]:
        """Record it; ``notes`` are of what sizes are compared with."""
        state, inputs = self._without_data(batch, sizes)
        origins = Origins(self.model)
        if self.answers is not None:
            self.answers.asked_by, origins.number = lambda: origins.call, self.answers.number

        def run() -> Sequence[object]:
            with nullcontext() if notes is None else Watch(origins.graph, notes):
                return self._call(state, inputs)

        return record(run, [*state, *inputs], self.mode, origins.of, self._readable(), self.answers), origins

    def _readable(self) -> dict[int, torch.Tensor]:
        """The buffers whose values code may look at, by index: masks, strides, flags. Training moves statistics."""
        statistics = {
            id(buffer)
            for module in self.model.modules()
            if isinstance(module, NormBase)
            for buffer in module.buffers(recurse=False)
        }
        return {
            index: value
            for index, value in enumerate(self.state.values())
            if not isinstance(value, nn.Parameter) and id(value) not in statistics
        }

    def _looked_at(self, recorded: Recording) -> dict[str, torch.Tensor]:
        names = list(self.state)
        read = [names[index] for index in self._readable() if f"input_{index}" in recorded.known.read]
        return {name: self.state[name].detach().clone() for name in read}

    def _check_other_batches(self, recorded: Recording, batches: Sequence[int]) -> None:
        """Record for small batches: it must be the same.

        Raises:
            NotUniform: naming the first op that is not.
        """
        returns = self.returns
        for batch in batches:
            difference = first_difference(recorded, self._record(batch)[0], batch)
            if difference or self.returns != returns:
                raise NotUniform(f"for another batch, {difference or 'it returns another structure'}")

    def _without_data(self, batch: int, sizes: _Sizes = _NO_SIZES) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The state, and the inputs for a batch of some size and other sizes of leaves, as tensors without data."""
        state = [without_data(self.mode, value) for value in self.state.values()]
        tensors = [(leaf, value) for leaf, value in enumerate(self.leaves) if isinstance(value, torch.Tensor)]
        changed = [
            {**({0: batch} if value.dim() and value.shape[0] == self.batch else {}), **sizes.get(leaf, {})}
            for leaf, value in tensors
        ]
        return state, [
            without_data(self.mode, value, each) for (_leaf, value), each in zip(tensors, changed, strict=True)
        ]

    def _call(self, state: list[torch.Tensor], inputs: list[torch.Tensor]) -> Sequence[object]:
        following = iter(inputs)
        leaves = [next(following) if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.takes)
        # what a module keeps of one run must not reach the next one
        others = replaced(self.model, list(self.state.values()), state)
        unmixed = patch.object(torch, "compile", _compiles)
        with unchanged(self.model), others, unmixed, readers_of_training(self.model) as readers:
            results, self.returns = pytree.tree_flatten(self.model(*args, **kwargs))
        self.reads_training |= bool(readers)
        return results

    def _input_names(self, signature: inspect.Signature) -> list[str | None]:
        """For each leaf of the arguments what it is called, after the parameters of ``forward``; None if no tensor."""
        args, kwargs = pytree.tree_unflatten([[index] for index in range(len(self.leaves))], self.takes)
        names: list[str | None] = [None] * len(self.leaves)
        for path, [index] in paths_of(signature.bind(*args, **kwargs).arguments, signature):
            names[index] = path if isinstance(self.leaves[index], torch.Tensor) else None
        return names


def _compiles(*_args: object, **_kwargs: object) -> None:
    """What stands for `torch.compile` while a model is recorded: a region (``torch.cond``, ``scan``) compiles itself,
    which Dynamo would skip under the recorder, now and whenever it meets that code again in this process."""
    raise NotTraced("it has a region: control flow, or what it compiles by itself")


def _resized(wishes: Wishes, points: Mapping[str, tuple[int, ...]], index: int) -> _Sizes:
    """The dims that leaves have at a point."""
    sizes: dict[int, dict[int, int]] = {}
    for size in wishes.sizes:
        for leaf, dim, multiple in size.places:
            sizes.setdefault(leaf, {})[dim] = multiple * points[size.name][index]
    return sizes
