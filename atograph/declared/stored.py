"""A dense checkpoint as that of a smaller model: rows and names of what stays, and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from atograph.declared.counted import counted
from atograph.declared.smaller import declared_of
from atograph.declared.special import with_tokens
from atograph.files.checkpoint import Checkpoint
from atograph.passes.declared import Declared
from atograph.repair.config import empty_with, shapes_of


def choose_rows(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Make a dense checkpoint one of a smaller model: its tensors have the rows and names that the model has.

    Args:
        checkpoint: of the model before its changes; what is of no use stays as it is, for who looks at it to refuse.
        model: after them, on the meta device or not; without changes nothing happens.
    """
    changes = declared_of(model)
    for place, change in enumerate(changes):
        part = model.get_submodule(change.part)
        numbers = {each.field: each.count for each in changes[:place] if each.part == change.part}
        numbers |= {each.field: each.size for each in changes[place:] if each.part == change.part}
        dense = empty_with(type(part), vars(part)["config"], numbers)
        found = counted(dense, change.field, change.size, change.count)
        if isinstance(found, str):
            continue
        prefix = f"{change.part}." if change.part else ""
        small = empty_with(type(part), vars(part)["config"], {**numbers, change.field: change.count})
        stored = {}
        for name, origin, rows in found.origins(list(shapes_of(small)), change.kept):
            there = checkpoint.tensors.get(prefix + origin)
            if there is None:
                continue
            if rows is not None and origin not in found.dims and there.shape[:1] == (change.size * found.rows[origin],):
                chosen = tuple(rows.tolist())
                chosen = chosen if there.chosen is None else tuple(there.chosen[row] for row in chosen)
                there = replace(there, shape=(len(chosen), *there.shape[1:]), chosen=chosen)
            stored[prefix + name] = replace(there, name=prefix + name)
        of_dense = {prefix + name for name in shapes_of(dense)}
        others = {name: there for name, there in checkpoint.tensors.items() if name not in of_dense}
        checkpoint.tensors = {**others, **stored}


def with_changes(config: Mapping[str, Any], change: Declared, aliases: Mapping[str, str]) -> dict[str, Any]:
    """A dense configuration, as a file holds it, after a change.

    Args:
        config: the file's content.
        change: what stays.
        aliases: other names that a configuration's class has for its numbers → the names.
    """
    values: dict[str, Any] = {change.field: change.count}
    if change.kind == "tokens":
        values |= with_tokens(config, change.kept[""])
    made = dict(config)
    for name, value in values.items():
        *path, last = name.split(".")
        place = made
        for word in path:
            place[word] = dict(place.get(word) or {})
            place = place[word]
        others = [alias for alias, real in aliases.items() if real == last and alias in place]
        for each in [*([last] if last in place or not others else []), *others]:
            place[each] = value
    return made
