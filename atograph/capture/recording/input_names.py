"""Names of input tensors: those of the parameters of ``forward``, and the keys on the way to each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

from atograph.passes.torch_private import pytree


def paths_of(arguments: Mapping[str, object], signature: inspect.Signature) -> Iterator[tuple[str, list[int]]]:
    """A name for each leaf, a list of its number, made of the keys on the way to it."""
    for name, value in arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from _paths_within("", value)
        else:
            yield from _paths_within(name, value)


def _paths_within(name: str, value: object) -> Iterator[tuple[str, list[int]]]:
    is_leaf = lambda item: isinstance(item, list) and len(item) == 1 and type(item[0]) is int  # noqa: E731
    for keys, leaf in pytree.tree_flatten_with_path(value, is_leaf=is_leaf)[0]:
        parts = [name, *(re.sub(r"\W+", "_", pytree.keystr((key,))).strip("_") for key in keys)]
        yield "_".join(part for part in parts if part), leaf
