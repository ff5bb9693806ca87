"""What a number in a configuration counts: rows of tensors, members of lists of modules. It is found by trying."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.repair.config import Shapes, configured_parts, shapes_of, shapes_with


@dataclass(frozen=True)
class Counted:
    """A number in a configuration, and what it counts.

    Attributes:
        field: its name, dotted where configurations are nested.
        size: the number.
        rows: tensor → rows for each of the things counted, which come one after the other.
        dims: tensor → the dim that these rows lie along, where it is not the first: only ones come before it.
        lists: what the names of modules begin with of which there is one for each, up to the number: ``mlp.experts.``.
        routers: tensors of ``rows`` with one or two dims and one row for each: what a router may hold.
    """

    field: str
    size: int
    rows: Mapping[str, int]
    lists: tuple[str, ...]
    routers: tuple[str, ...]
    dims: Mapping[str, int]

    def blocks(self) -> list[str]:
        """The modules that have all that is counted once, one for each layer that has any.

        Of ``layers.0.mlp.gate.weight``, ``layers.0.mlp.experts.down`` and the same in layer 1 they are ``layers.0.mlp``
        and ``layers.1.mlp``.
        """
        layers: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for path in (tuple(name.split(".")[:-1]) for name in (*self.rows, *self.lists)):
            first = next((at for at, word in enumerate(path) if word.isdigit()), -1)
            layers.setdefault(path[: first + 1], []).append(path)
        return [".".join(_common(paths)) for paths in layers.values()]

    def routers_of_blocks(self) -> dict[str, list[str]]:
        """Block → the tensors of it that a router may hold."""
        return {block: [name for name in self.routers if is_in(name, block)] for block in self.blocks()}

    def origins(
        self, names: Sequence[str], kept: Mapping[str, Sequence[int]]
    ) -> Iterator[tuple[str, str, torch.Tensor | None]]:
        """For each tensor of the smaller model its name there, the dense one's, and that one's rows (None: all), which
        lie along ``dims``.

        Args:
            names: of the smaller model's tensors.
            kept: block → those that stay.
        """
        for name in names:
            block = _holding(name, kept)
            ids = kept.get(block, ()) if block is not None else ()
            each = self.rows.get(name)
            if each is not None and ids:
                numbers = torch.tensor(ids)
                yield name, name, (numbers[:, None] * each + torch.arange(each)).flatten()
                continue
            listed = next((head for head in self.lists if name.startswith(head)), None)
            place, _dot, rest = name[len(listed or "") :].partition(".")
            if listed is not None and ids and place.isdigit():
                yield name, f"{listed}{ids[int(place)]}.{rest}", None
                continue
            yield name, name, None


def numbers_in(config: object, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers of a configuration and of those within it, by dotted names."""
    for name, value in vars(config).items():
        if type(value) is int:
            yield prefix + name, value
        elif hasattr(value, "to_dict") and hasattr(value, "__dict__") and not name.startswith("_"):
            yield from numbers_in(value, f"{prefix}{name}.")


def the_number(model: nn.Module, name: re.Pattern[str], what: str, hint: str) -> tuple[str, nn.Module, Counted]:
    """The number that counts something, in the configuration of a model or of a part of it.

    Args:
        model: with the part.
        name: of the number.
        what: is counted, ``vocabulary``.
        hint: where there is none.

    Returns:
        The part's name, the part, and what the number counts.

    Raises:
        UserError: there is no such number, or several.
    """
    matches, why = [], ""
    parts = list(configured_parts(model))
    for path, part in parts:
        for number, size in numbers_in(vars(part)["config"]):
            if name.search(number) and size > 1:
                found = counted(part, number, size, size - 1)
                if isinstance(found, Counted):
                    matches.append((path, part, found))
                else:
                    why = why or found
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{path}.config.{found.field}".lstrip(".") for path, _part, found in matches)
        raise UserError(f"there is more than one {what}: {names}.", hint="Give the part of the model that is meant.")
    if not parts:
        why = "no part of it is made from a configuration, as models of transformers are"
    why = why or "no such number in its configuration counts rows or modules"
    raise UserError(f"no {what} was found in {type(model).__name__}: {why}.", hint=hint)


def counted(part: nn.Module, field: str, size: int, number: int) -> Counted | str:
    """What a number in the configuration of a module counts.

    Args:
        part: made from a configuration.
        field: the number's name.
        size: the number.
        number: a smaller one to try.

    Returns:
        It; or in words, why it counts nothing that can go one by one. Empty words: it shapes nothing.
    """
    before = shapes_of(part)
    config = vars(part)["config"]
    after = shapes_with(type(part), config, {field: number})
    if after is None:
        return f"with {field} = {number} in its configuration no model can be made"
    made = shapes_with(type(part), config, {})
    if made != before:
        odd = next((name for name in before if made is None or made.get(name) != before[name]), "a tensor")
        return f"it is not what its configuration makes: {odd} is another one"
    rows, dims, lists = {}, {}, set()
    for name, shape in before.items():
        if name not in after:
            head = _list_of(name, number, after)
            if head is None:
                return ""
            lists.add(head)
        elif after[name] != shape:
            dim = next((dim for dim, pair in enumerate(zip(shape, after[name], strict=False)) if len({*pair}) > 1), 0)
            each, rest = divmod(shape[dim] if shape else 1, size)
            if rest or prod(shape[:dim]) != 1 or after[name] != (*shape[:dim], each * number, *shape[dim + 1 :]):
                return ""
            rows[name] = each
            if dim:
                dims[name] = dim
    if not after.keys() <= before.keys() or not (rows or lists):
        return ""
    routers = tuple(name for name, each in rows.items() if each == 1 and len(before[name]) <= 2)
    return Counted(field, size, rows, tuple(sorted(lists)), routers, dims)


def _list_of(name: str, number: int, after: Shapes) -> str | None:
    """What the names of some modules begin with, one of which has a tensor, where those from a number on are gone."""
    for found in re.finditer(r"(\d+)\.", name):
        if int(found[1]) >= number and f"{name[: found.start()]}0{name[found.end() - 1 :]}" in after:
            return name[: found.start()]
    return None


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared: list[str] = []
    for words in zip(*paths, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return tuple(shared)


def _holding(name: str, blocks: Mapping[str, object]) -> str | None:
    """The innermost of some modules that holds a tensor."""
    return max((block for block in blocks if is_in(name, block)), key=len, default=None)


def is_in(name: str, module: str) -> bool:
    """Whether a tensor or module lies within a module."""
    return not module or name.startswith(f"{module}.")
