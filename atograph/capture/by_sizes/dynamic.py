"""Which sizes of the inputs are to be dynamic: what a user's texts mean for the tensors of an example."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as Collection
from dataclasses import dataclass, field, replace

import torch

from atograph.passes.errors import UserError
from atograph.passes.ir.interface import Example
from atograph.passes.torch_private import pytree
from atograph.values.dynamic_sizes import FORM, STATIC, UNNAMED

_TEXT = re.compile(r"(?P<where>[^:=]+):(?P<dim>-?\d+)=(?P<size>.+)")
_SIZE = re.compile(
    r"(?:(?P<least>\d+)\s*<=\s*)?(?:(?P<multiple>\d+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)(?:\s*<=\s*(?P<most>\d+))?"
)


@dataclass(frozen=True)
class Wanted:
    """A size that is to be dynamic.

    Attributes:
        name: what it is called.
        value: what it is in the example.
        places: leaf of the arguments, dim of it, and what multiple of the size that is.
        least: the smallest that has to be possible.
        most: the largest.
        parts: names of the sizes that it is the sum of, with ``plus``, where it is not one by itself.
        plus: a number.
        why: why there are such limits, where nobody asked for them.
    """

    name: str
    value: int
    places: tuple[tuple[int, int, int], ...]
    least: int = 1
    most: int | None = None
    parts: tuple[str, ...] = ()
    plus: int = 0
    why: str = ""

    def coarser(self, factor: int) -> Wanted:
        """The same size counted in multiples."""
        places = tuple((leaf, dim, multiple * factor) for leaf, dim, multiple in self.places)
        most = None if self.most is None else self.most // factor
        return Wanted(self.name, self.value // factor, places, -(-self.least // factor), most)

    def at_points(self, offsets: Sequence[int]) -> tuple[int, ...]:
        """The size at each point; see `points`."""
        return (self.value, *(self.value + offset for offset in offsets))


@dataclass(frozen=True)
class Wishes:
    """What a user wants to be dynamic besides the batch.

    Attributes:
        sizes: by name.
        batch: whether the batch is to be dynamic.
    """

    sizes: tuple[Wanted, ...] = ()
    batch: bool = True

    def __bool__(self) -> bool:
        return bool(self.sizes)

    def only(self, names: Collection[str]) -> Wishes:
        """Some of the sizes, and the sums of them."""
        return replace(self, sizes=tuple(
            size for size in self.sizes if (names >= {*size.parts} if size.parts else size.name in names)
        ))  # fmt: skip

    def coarser(self, factor: int) -> Wishes | None:
        """The same with multiples of the sizes; None where the example's are no such multiples."""
        if not self.sizes or any(size.value % factor or size.parts for size in self.sizes):
            return None
        return replace(self, sizes=tuple(size.coarser(factor) for size in self.sizes))


def wishes_of(texts: Sequence[str], inputs: Example, signature: inspect.Signature, batch: int | None) -> Wishes:
    """What texts ask for of some example inputs.

    Args:
        texts: as `texts_of` gives them.
        inputs: ``(args, kwargs)``.
        signature: of ``forward``, whose names the arguments are called by.
        batch: the first dim of each tensor that is as long is the batch, whatever it is called; unless there is none.

    Raises:
        UserError: one names an argument or a dim that there is not, or two sizes that differ in the example.
    """
    texts, whole = [text for text in texts if text != STATIC], STATIC not in texts
    leaves, structure = pytree.tree_flatten(inputs)
    places = _places(structure, signature) if texts else {}
    sizes: dict[str, _Size] = {}
    for text in texts:
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise UserError(f"dynamic holds {text!r}, which names no size of an input.", hint=FORM)
        where, dim = match["where"].strip(), int(match["dim"])
        tensor = leaves[_leaf(where, places)]
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"dynamic names sizes of {where}, which is no tensor.", hint=FORM)
        if not -tensor.dim() <= dim < tensor.dim():
            raise UserError(f"{where} has {tensor.dim()} dims, and dynamic names its dim {dim}.", hint=FORM)
        dim %= tensor.dim()
        if whole and dim == 0 and tensor.shape[0] == batch:
            continue
        size = _SIZE.fullmatch(match["size"].strip())
        if size is None:
            raise UserError(f"dynamic says {match['size']!r} of {where}, which names no size.", hint=FORM)
        name = re.sub(r"\W+", "_", f"{where}_{dim}") if size["name"] == UNNAMED else size["name"]
        sizes.setdefault(name, _Size(name)).add(size, _leaf(where, places), dim, int(tensor.shape[dim]), where)
    return Wishes(tuple(size.wanted() for size in sizes.values()), batch=whole)


def with_batch_elsewhere(wishes: Wishes, inputs: Example, batch: int | None) -> Iterator[Wishes]:
    """Wishes in which the batch is a size like others, to be tried in order where it is not first in every input.

    A recurrent layer takes its state as [layers, batch, width], say. A dim that is as long as the batch is taken for
    it; what the model does with inputs of five such sizes tells whether it is. Nothing if there is no such dim.

    Args:
        wishes: what else is to be dynamic; a size that is the batch gives it its name.
        inputs: ``(args, kwargs)``.
        batch: as long as the first dim of the first tensor.
    """
    if batch is None or batch < 2 or not wishes.batch:
        return
    shapes = {
        leaf: each.shape for leaf, each in enumerate(pytree.tree_leaves(inputs)) if isinstance(each, torch.Tensor)
    }
    first = [leaf for leaf, shape in shapes.items() if shape and shape[0] == batch]
    alone = {leaf: tuple(shape).index(batch) for leaf, shape in shapes.items() if batch in shape and leaf not in first}
    doubtful = {leaf: 1 for leaf in first[1:] if shapes[leaf][1:2] == (batch,)}  # as many layers as samples, perhaps
    for elsewhere in (alone, {**alone, **doubtful}):
        dims = {**dict.fromkeys(first, 0), **elsewhere}
        others = [size for size in wishes.sizes if not any(dims.get(leaf) == dim for leaf, dim, _n in size.places)]
        names = [size.name for size in wishes.sizes if size not in others]
        size = Wanted((names or ["batch"])[0], batch, tuple((leaf, dim, 1) for leaf, dim in dims.items()))
        if elsewhere:
            yield Wishes((size, *others), batch=False)


@dataclass
class _Size:
    """All dims of one name."""

    name: str
    value: int = 0
    first: str = ""
    places: list[tuple[int, int, int]] = field(default_factory=list)
    least: int = 1
    most: int | None = None

    def add(self, asked: re.Match[str], leaf: int, dim: int, size: int, where: str) -> None:
        multiple, own = int(asked["multiple"] or 1), f"dim {dim} of {where}"
        if multiple < 1 or size % multiple:
            raise UserError(f"{own} is {size} in the example, which is no multiple of {multiple}.",
                            hint="Give example inputs of a size that the model takes.")  # fmt: skip
        if size < 2:
            raise UserError(
                f"{own} is to be dynamic, and is {size} in the example: what a model does with one is often another "
                "thing than what it does with more.",
                hint="Give example inputs where it is 2 or more.",
            )
        value = size // multiple
        if self.places and value != self.value:
            raise UserError(
                f"{self.name} is {self.value} in {self.first}, and {value} in {own}.",
                hint="One name is one size; call them by two names where they differ.",
            )
        self.value, self.first = value, self.first or own
        self.places.append((leaf, dim, multiple))
        self.least = max(self.least, int(asked["least"] or 1))
        if asked["most"]:
            self.most = min(int(asked["most"]), self.most or int(asked["most"]))
        if not self.least <= value <= (self.most or value):
            raise UserError(f"{own} is {size} in the example, which is not within the limits of {self.name}.")

    def wanted(self) -> Wanted:
        return Wanted(self.name, self.value, tuple(self.places), self.least, self.most)


def _places(structure: pytree.TreeSpec, signature: inspect.Signature) -> dict[str, int]:
    """What each leaf of the arguments is called → its number; positional arguments by their positions as well."""
    args, kwargs = pytree.tree_unflatten(range(structure.num_leaves), structure)
    arguments: dict[str, object] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        else:
            arguments[name] = value
    named = {**arguments, **{str(position): value for position, value in enumerate(args)}}
    return {where: leaf for name, value in named.items() for where, leaf in _leaves(value, name)}


def _leaves(value: object, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield where, value
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{where}[{key!r}]")


def _leaf(where: str, places: Mapping[str, int]) -> int:
    if where not in places:
        known = [name for name in places if not name.isdigit()]
        raise UserError(f"dynamic names {where!r}, and the example inputs are {', '.join(known) or 'none'}.", hint=FORM)
    return places[where]
