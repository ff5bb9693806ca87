"""Tokens that have a meaning of their own, in configurations: they always stay, and get their new numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ONE = re.compile(r"(^|_)token_(ids?|index)$|^(bos|eos|pad|unk|sep|cls|mask)_index$")
"""Names of tokens that a model or its generation needs."""

_LISTED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids")
"""Names of rows of tokens that say nothing of a token that is gone."""


def special_tokens(*configs: object, size: int) -> dict[int, str]:
    """Token → the name that a configuration has for it.

    Args:
        configs: of a model, and of its generation; None is none.
        size: of the vocabulary; numbers beyond it are no tokens.
    """
    found: dict[int, str] = {}
    for config in configs:
        for name, value in _values(config):
            if _ONE.search(name.rpartition(".")[2]):
                for token in value if isinstance(value, (list, tuple)) else [value]:
                    if type(token) is int and 0 <= token < size:
                        found.setdefault(token, name)
    return found


def with_tokens(config: object, kept: Sequence[int]) -> dict[str, Any]:
    """What a configuration says of tokens, by their new numbers: name, dotted where they are nested, → value.

    Args:
        config: of a model, or of its generation; special tokens of it are kept.
        kept: those that stay.
    """
    new = {token: place for place, token in enumerate(kept)}
    changed: dict[str, Any] = {}
    for name, value in _values(config):
        last = name.rpartition(".")[2]
        if _ONE.search(last):
            mapped = (
                [new.get(each, each) for each in value] if isinstance(value, (list, tuple)) else new.get(value, value)
            )
        elif last in _LISTED and isinstance(value, (list, tuple)):
            entries = [_entry(each, new, positions=last == "forced_decoder_ids") for each in value]
            mapped = [each for each in entries if each is not None]
        else:
            continue
        if mapped != value:
            changed[name] = mapped
    return changed


def _entry(entry: Any, new: Mapping[int, int], *, positions: bool) -> object:
    """One entry of a row by the new numbers: a token, several, or a position and a token; None where one is gone."""
    if isinstance(entry, int):
        return new.get(entry)
    at, tokens = (list(entry[:1]), list(entry[1:])) if positions else ([], list(entry))
    mapped = [new.get(token) for token in tokens]
    return None if None in mapped else [*at, *mapped]


def _values(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a configuration says, by dotted names: of an object, or of what a file holds."""
    of_file = isinstance(config, Mapping)
    entries: Mapping[Any, Any] = config if isinstance(config, Mapping) else {} if config is None else vars(config)
    for name, value in ((str(name), value) for name, value in entries.items()):
        nested = isinstance(value, Mapping) if of_file else hasattr(value, "to_dict") and hasattr(value, "__dict__")
        if nested and not name.startswith("_"):
            yield from _values(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
