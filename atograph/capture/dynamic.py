"""Which sizes of the inputs are to be dynamic: as a user says it, and what follows for each input tensor."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch.export import Dim

from atograph.passes.errors import UserError
from atograph.passes.torch_private import pytree

Dynamic: TypeAlias = Mapping[str, Any] | Sequence[Any] | bool | None
"""What people write: `torch.export`'s ``dynamic_shapes``, or names: ``{"x": {2: "32*height", 3: "32*width"}}``. False:
no size is, the batch included. None: the batch."""

_FORM = 'Write dynamic={"input": {1: "length"}}: argument, dim, and a name; "32*height" for multiples of 32.'
_NAMED = re.compile(r"(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Wanted:
    """A size that is to be dynamic.

    Attributes:
        name: what it is called.
        value: what it is in the example.
        places: leaf of the arguments, dim of it, and what multiple of the size that is.
        least: the smallest that has to be possible.
        most: the largest.
    """

    name: str
    value: int
    places: tuple[tuple[int, int, int], ...]
    least: int = 1
    most: int | None = None

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

    def coarser(self, factor: int) -> Wishes | None:
        """The same with multiples of the sizes; None where the example's are no such multiples."""
        if not self.sizes or any(size.value % factor or size.value == factor for size in self.sizes):
            return None
        return replace(self, sizes=tuple(size.coarser(factor) for size in self.sizes))


def wishes_of(dynamic: Dynamic, inputs: Any, signature: inspect.Signature, batch: int | None) -> Wishes:
    """What ``dynamic`` asks for of some example inputs.

    Args:
        dynamic: in one of its forms.
        inputs: ``(args, kwargs)``.
        signature: of ``forward``, whose names the arguments are called by.
        batch: the first dim of each tensor that is as long is the batch, whatever it is called.

    Raises:
        UserError: it names an argument or a dim that there is not, or two sizes that differ in the example.
    """
    if isinstance(dynamic, bool) or dynamic is None:
        if dynamic is True:
            raise UserError("dynamic=True does not say which sizes.", hint=_FORM)
        return Wishes(batch=dynamic is None)
    leaves, structure = pytree.tree_flatten(inputs)
    sizes: dict[str, _Size] = {}
    for leaf, dims, where in _by_leaf(dynamic, structure, signature):
        tensor = leaves[leaf]
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"dynamic names sizes of {where}, which is no tensor.", hint=_FORM)
        for dim, meant in dims.items():
            if not isinstance(dim, int) or not -tensor.dim() <= dim < tensor.dim():
                raise UserError(f"{where} has {tensor.dim()} dims, and dynamic names its dim {dim!r}.", hint=_FORM)
            dim %= tensor.dim()
            if (dim == 0 and tensor.shape[0] == batch) or _is_static(meant):
                continue
            asked = _asked(meant, f"{where}_{dim}")
            sizes.setdefault(asked.name, _Size()).add(asked, leaf, dim, int(tensor.shape[dim]), where)
    return Wishes(tuple(size.wanted(name) for name, size in sizes.items()))


@dataclass
class _Asked:
    """One dim as it is asked for."""

    name: str
    multiple: int = 1
    least: int = 1
    most: int | None = None


@dataclass
class _Size:
    """All dims of one name."""

    value: int = 0
    first: str = ""
    places: list[tuple[int, int, int]] = field(default_factory=list)
    least: int = 1
    most: int | None = None

    def add(self, asked: _Asked, leaf: int, dim: int, size: int, where: str) -> None:
        if size % asked.multiple:
            raise UserError(f"dim {dim} of {where} is {size} in the example, which is no multiple of {asked.multiple}.",
                            hint="Give example inputs of a size that the model takes.")  # fmt: skip
        if size < 2:
            raise UserError(
                f"dim {dim} of {where} is to be dynamic, and is {size} in the example: what a model does with one is "
                "often another thing than what it does with more.",
                hint="Give example inputs where it is 2 or more.",
            )
        value = size // asked.multiple
        if self.places and value != self.value:
            raise UserError(
                f"{asked.name} is {self.value} in {self.first}, and {value} in dim {dim} of {where}.",
                hint="One name is one size; call them by two names where they differ.",
            )
        self.value, self.first = value, self.first or f"dim {dim} of {where}"
        self.places.append((leaf, dim, asked.multiple))
        self.least = max(self.least, asked.least)
        self.most = asked.most if self.most is None else min(self.most, asked.most or self.most)

    def wanted(self, name: str) -> Wanted:
        return Wanted(name, self.value, tuple(self.places), self.least, self.most)


def _is_static(meant: Any) -> bool:
    return meant is None or meant is Dim.STATIC or (isinstance(meant, int) and not isinstance(meant, bool))


def _asked(meant: Any, own: str) -> _Asked:
    """A dim in a user's words.

    Args:
        meant: a name, a multiple of one, or a `torch.export.Dim`.
        own: what it is called if nothing says so.
    """
    if meant in (Dim.AUTO, Dim.DYNAMIC) or meant is True:
        return _Asked(re.sub(r"\W+", "_", own))
    if isinstance(meant, str) and (match := _NAMED.fullmatch(meant.strip())) is not None:
        return _Asked(match[2], int(match[1] or 1))
    if isinstance(meant, Dim):
        root = getattr(meant, "root", meant)
        limits = {"least": int(root.min), "most": int(root.max) if root.max < 2**31 else None}
        if root is meant:
            return _Asked(meant.__name__, **limits)  # type: ignore[arg-type]
        if meant.fn(0) == 0:
            return _Asked(root.__name__, int(meant.fn(1)), **limits)  # type: ignore[arg-type]
    raise UserError(f"dynamic holds {meant!r}, which names no size.", hint=_FORM)


def _by_leaf(
    dynamic: Any, structure: pytree.TreeSpec, signature: inspect.Signature
) -> Iterator[tuple[int, Mapping[int, Any], str]]:
    """For each leaf that is spoken of its number, its dims, and what it is called."""
    args, kwargs = pytree.tree_unflatten(range(structure.num_leaves), structure)
    bound = signature.bind(*args, **kwargs)
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        else:
            arguments[name] = value
    if isinstance(dynamic, (tuple, list)):
        dynamic = dict(zip(arguments, dynamic, strict=False))
    if not isinstance(dynamic, Mapping):
        raise UserError(f"dynamic is a {type(dynamic).__name__}.", hint=_FORM)
    for name, spoken in dynamic.items():
        if name not in arguments:
            raise UserError(
                f"dynamic names {name!r}, and the example inputs are {', '.join(arguments) or 'none'}.", hint=_FORM
            )
        yield from _within(spoken, arguments[name], name)


def _within(spoken: Any, value: Any, where: str) -> Iterator[tuple[int, Mapping[int, Any], str]]:
    if spoken is None:
        return
    if isinstance(value, int):
        if isinstance(spoken, (tuple, list)):
            spoken = dict(enumerate(spoken))
        if not isinstance(spoken, Mapping):
            raise UserError(f"dynamic says {spoken!r} of {where}, which names no dims.", hint=_FORM)
        yield value, spoken, where
        return
    keyed = isinstance(value, Mapping)
    items = value.items() if keyed else enumerate(value)
    for key, item in items:
        part = spoken.get(key) if isinstance(spoken, Mapping) else spoken[key] if key < len(spoken) else None
        yield from _within(part, item, f"{where}[{key!r}]")
