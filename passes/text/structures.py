"""How arguments and results lie in containers, as plain tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator

from atograph.passes.ir.outputs import paths_of
from atograph.passes.torch_private import TreeSpec


def filled(spec: TreeSpec, leaves: Iterator[object]) -> object:
    """The structure with these leaves; a container of another class becomes a dict of its parts by their names."""
    if spec.is_leaf():
        return next(leaves)
    parts = [filled(child, leaves) for child in spec.children()]
    if spec.type is tuple or spec.type is list:
        return spec.type(parts)
    if spec.type is dict:
        return dict(zip(spec.context, parts, strict=True))
    # a part that holds nothing has no name, and is not missed
    ends = [(child.num_leaves, part) for child, part in zip(spec.children(), parts, strict=True) if child.num_leaves]
    paths, named = iter(paths_of(spec)), {}
    for count, part in ends:
        named[next(paths)[0]] = part
        for _ in range(count - 1):
            next(paths)
    return named
