"""What an ONNX file is called with where nobody says it: inputs of the shapes and types that it declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, product
from math import prod

import torch

from atograph.from_onnx.body import Body
from atograph.from_onnx.constants import readers_of
from atograph.from_onnx.file import FileValue, identifiers
from atograph.from_onnx.network import OnnxNetwork, tried
from atograph.from_onnx.op import TYPES, NotKnown
from atograph.passes.errors import UserError
from atograph.values.dynamic_sizes import STATIC

LENGTHS = (64, 16, 224, 32, 128, 256, 320, 512, 576, 640, 48, 96, 1024, 8, 1)
"""What sizes without a number are tried at, one after the other, until the file can be computed."""

ROWS = (100, 2)
"""Whole numbers below these are tried where nothing tells how large they may be."""

MOST_NUMBERS = 2**28
"""In an input that nobody gives."""

MOST_TIES = 3
"""So many names of sizes are tried as other names of the batch."""

_UNKNOWN = "Nothing is known here of this form of the op: export the model without it; see docs/onnx.md."

_BATCHES = (2, 3, 5, 7)


@dataclass(frozen=True)
class Dims:
    """The dims of the inputs that are no numbers.

    Attributes:
        names: input, dim → name of the size.
        called: name of a size → what the file calls it, where that is another one.
        batch: the name of the first dim of the first tensor; None where that is a number, or there is none.
    """

    names: Mapping[tuple[str, int], str]
    called: Mapping[str, str]
    batch: str | None

    def texts(self, arguments: Mapping[str, str]) -> tuple[str, ...] | bool:
        """What is dynamic, as `trace` takes it; False where nothing is."""
        if not self.names:
            return False
        sizes = (
            f"{arguments[name]}:{dim}={self._own(size)}" for (name, dim), size in self.names.items()
            if self.batch is None or (size, dim) != (self.batch, 0)
        )  # fmt: skip
        return (*([STATIC] if self.batch is None else []), *sizes)

    def without_batch(self) -> Dims:
        """The same where the first dim is a size like others: height, say."""
        return replace(self, batch=None)

    def _own(self, size: str) -> str:
        """A size that is the batch elsewhere has another name than the batch of the first dims."""
        return "samples" if size == self.batch else size

    def names_in_file(self) -> dict[str, str]:
        """Name of a size in the program → in the file."""
        found = dict(self.called)
        if self.batch is not None:
            own = found.pop(self.batch, self.batch)
            if not own.startswith("unnamed "):
                found |= {"batch": own, "samples": own}
        return {own: name for own, name in found.items() if own != name and not name.startswith("unnamed ")}

    def told_by(self, inputs: Mapping[str, torch.Tensor]) -> Dims:
        """The same, without a batch where the first dim is another size: the file could be computed with no number of
        samples that was tried."""
        batches = (
            inputs[value].shape[0] for (value, dim), name in self.names.items() if (name, dim) == (self.batch, 0)
        )
        return self if all(batch in _BATCHES for batch in batches) else self.without_batch()

    def tied(self, inputs: Mapping[str, torch.Tensor]) -> Dims:
        """The same with one name for sizes of different inputs that are as long as each other in an example: two names
        of a batch, say. Sizes of one input, height and width, are not taken for one."""
        first: dict[str, str] = {}
        for (value, dim), name in self.names.items():
            for (other, there), own in self.names.items():
                alike = inputs[value].shape[dim] == inputs[other].shape[there]
                if alike and not self.meet(name, own):
                    first.setdefault(name, first.get(own, own))
        return replace(self, names={key: first.get(name, name) for key, name in self.names.items()})

    def meet(self, one: str, other: str) -> bool:
        """Whether two names are of one input."""
        where = {name: {value for (value, _dim), own in self.names.items() if own == name} for name in (one, other)}
        return one != other and not where[one].isdisjoint(where[other])


def dims_of(inputs: Sequence[FileValue], arguments: Mapping[str, str]) -> Dims:
    """The dims of some inputs that are no numbers; those without a name get one by their place."""
    told: dict[tuple[str, int], str] = {}
    for value in inputs:
        for dim, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                told[value.name, dim] = size or f"unnamed {arguments[value.name]}_{dim}"
    first = next((value for value in inputs if value.shape), None)
    if first is not None and (first.name, 0) in told:
        batch = told[first.name, 0]
        if batch.startswith("unnamed "):
            told = {key: batch if key[1] == 0 and size.startswith("unnamed ") else size for key, size in told.items()}
    plain = identifiers([size.removeprefix("unnamed ") for size in dict.fromkeys(told.values())], ("batch", "samples"))
    own = {size: plain[size.removeprefix("unnamed ")] for size in dict.fromkeys(told.values())}
    names = {key: own[size] for key, size in told.items()}
    return Dims(
        names, {name: size for size, name in own.items()}, None if first is None else names.get((first.name, 0))
    )


def example_for(network: OnnxNetwork, dims: Dims) -> dict[str, torch.Tensor]:
    """Inputs that a network can be computed with, by their names in the file.

    Raises:
        UserError: it has a form of an op that is not known here; or it can be computed with none that were tried.
    """
    values = network.file.inputs
    unknown = next((value for value in values if value.shape is None), None)
    if unknown is not None:
        raise UserError(
            f"it does not say what shape {unknown.name!r} has.", where=str(network.file.path),
            hint="Give inputs: --data FILE.npz, or trace(path, inputs).",
        )  # fmt: skip
    reason: UserError | None = None
    for sizes, rows in product(_sizes(values, dims), ROWS):
        try:
            made = {value.name: _filled(network, value, dims, sizes, rows) for value in values}
            tried(network, made)
        except UserError as error:
            reason = reason or error
            continue
        return made
    assert reason is not None
    if isinstance(reason, NotKnown):
        raise UserError(reason.message, where=reason.where, hint=reason.hint or _UNKNOWN)
    raise UserError(
        "it can be computed with none of the inputs that its shapes allow and that were tried; with the first of them, "
        f"{reason.message}", where=reason.where, hint="Give inputs of the right kind: --data FILE.npz, or trace(path, "
        "inputs).",
    )  # fmt: skip


def _sizes(values: Sequence[FileValue], dims: Dims) -> Iterator[dict[str, int]]:
    """Lengths to be tried, by the names of sizes."""
    firsts = {value.shape[0] for value in values if value.shape and isinstance(value.shape[0], int)}
    batch = next(size for size in _BATCHES if size not in firsts)
    names = {*dims.names.values()}
    integers = all(not TYPES[value.code].is_floating_point for value in values if value.shape)
    lengths = sorted(LENGTHS, key=lambda each: each != 16) if integers else LENGTHS
    ties = [*_ties(dims)]
    for length in lengths:
        for tied in ties:  # other names for the number of samples
            yield {name: batch if name == dims.batch or name in tied else length for name in names}
        if names <= {dims.batch}:
            return
    if dims.batch:  # it is no batch: height, say
        yield from (dict.fromkeys(names, length) for length in lengths)


def _ties(dims: Dims) -> Iterator[tuple[str, ...]]:
    """Names of other inputs' sizes that may be the batch, a few at a time; none of them first."""
    if dims.batch is None:
        return iter([()])
    others = [name for name in dict.fromkeys(dims.names.values()) if not dims.meet(name, dims.batch)][:MOST_TIES]
    others = [name for name in others if name != dims.batch]
    return chain.from_iterable(combinations(others, count) for count in range(len(others) + 1))


def _filled(network: OnnxNetwork, value: FileValue, dims: Dims, sizes: Mapping[str, int], most: int) -> torch.Tensor:
    assert value.shape is not None
    shape = [
        each if isinstance(each, int) else sizes[dims.names[value.name, dim]] for dim, each in enumerate(value.shape)
    ]
    if prod(shape) > MOST_NUMBERS:
        raise UserError(
            f"the input {value.name!r} of the shape {shape} has more numbers than are made up here ({MOST_NUMBERS}).",
            where=str(network.file.path),
        )
    dtype, random = TYPES[value.code], torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        image = len(shape) == 4 and shape[1] in (1, 3)
        return (_smooth(shape, random) if image else torch.randn(shape, generator=random)).to(dtype)
    rows = rows_looked_up(network, value.name)
    if rows is None and (len(shape) < 2 or "mask" in value.name.lower()):
        return torch.full(shape, compared_with(network, value.name), dtype=dtype)
    return torch.randint(most if rows is None else rows, shape, generator=random).to(dtype)


def _smooth(shape: Sequence[int], random: torch.Generator) -> torch.Tensor:
    """Images of smooth patches: white noise would drive networks to where they saturate."""
    patches = torch.randn(*shape[:2], 8, 8, generator=random)
    return torch.nn.functional.interpolate(patches, size=tuple(shape[2:]), mode="bilinear")


def rows_looked_up(graph: Body, name: str) -> int | None:
    """How many rows the table has that an input of whole numbers looks up; None where it looks up none."""
    readers, pending, seen = readers_of(graph), [name], set[str]()
    counts = []
    while pending:
        own = pending.pop()
        if own in seen:
            continue
        seen.add(own)
        for op, position in readers.get(own, ()):
            if op.kind == "Gather" and position == 1:
                table = graph.tensor_of(op.inputs[0])
                counts += [] if table is None else [table.shape[op.attribute("axis", 0)]]
            elif op.kind == "OneHot" and position == 0:
                depth = graph.number_of(op.inputs[1])
                counts += [] if depth is None else [int(depth)]
            elif op.kind in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze") and position == 0:
                pending += op.outputs
    return min(counts, default=None)


def compared_with(graph: Body, name: str) -> int:
    """The number that an input is compared with, a rate of samples say; 1 where there is none."""
    for op, position in readers_of(graph).get(name, ()):
        if op.kind == "Equal":
            number = graph.number_of(op.inputs[1 - position])
            if number is not None:
                return int(number)
    return 1
