"""Tokens of a vocabulary that go: which ones stay, and the model without the others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import index
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn

from atograph.declared.counted import the_number
from atograph.declared.reduced import Reduced
from atograph.declared.smaller import smaller
from atograph.declared.special import special_tokens
from atograph.declared.tokenizer import tokens_needed
from atograph.files.loaded_from import loaded_from
from atograph.files.reading import Unreadable, read_as, read_bytes, refusal
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.passes.public import public

HINT = (
    "A file of tokens is a JSON list of their numbers, or has one number a line. A text has those that its tokenizer "
    'gives: tokenizer(text)["input_ids"].'
)

_DIGITS = re.compile(r"[0-9]{1,18}")


@public("atograph")
def keep_tokens(model: nn.Module, tokens: Iterable[int], tokenizer: str | Path | None = None) -> Reduced:
    """A model with fewer tokens: rows of its embeddings and of its head go. Another function, as declared.

    Tokens that stay keep their order and get new numbers from 0 on: ``reduced.change.kept[""]`` has the old number of
    each. Those that the configuration names (``eos_token_id``, ...) stay in any case, and it gets their new numbers.

    Args:
        model: of transformers, or one with such a model in it; it is left as it is.
        tokens: numbers of those that stay.
        tokenizer: the folder of its ``tokenizer.json``; those stay, too, that it needs to give these: special ones,
            single bytes, and what its merges go through. A text of which all tokens stay has the same ones afterwards
            (`Reduced.save_tokenizer`). None: that of where the model was loaded from, if there is one.

    Raises:
        UserError: a number is no token of the model's, or none or all stay; or its vocabulary cannot be told.
    """
    path, part, found = the_number(
        model, re.compile(r"(^|\.)vocab_size$"), "vocabulary", "Tokens are counted by vocab_size in its configuration."
    )
    config = vars(part)["config"]
    special = special_tokens(config, getattr(part, "generation_config", None), size=found.size)
    wanted = _numbers(tokens)
    odd = next((token for token in sorted(wanted) if not 0 <= token < found.size), None)
    if odd is not None:
        raise UserError(f"{odd} is no token of this model: they are 0 to {found.size - 1} ({found.field}).", hint=HINT)
    if not wanted:
        raise UserError("no token would stay.", hint=HINT)
    folder = loaded_from(part) if tokenizer is None else Path(tokenizer)
    needed = set() if folder is None else tokens_needed(folder, wanted | special.keys())
    needed = {token for token in needed if token < found.size}
    kept = tuple(sorted({*wanted, *special, *needed}))
    besides = _besides(wanted, special, needed)
    if len(kept) == found.size:
        raise UserError(f"all {found.size:,} tokens of this model would stay{f': {besides}' if besides else ''}.",
                        hint="Name fewer.")  # fmt: skip
    change = Declared(kind="tokens", part=path, field=found.field, size=found.size, kept={"": kept})
    return Reduced(model, smaller(model, change), change, besides)


def _besides(wanted: set[int], special: Iterable[int], needed: set[int]) -> str:
    """How many were named, and what stays besides; empty where nothing does."""
    named, of_config = len(wanted), len({*special} - wanted)
    of_tokenizer = len(needed - wanted - {*special})
    parts = [f"{of_config:,} special ones that its configuration names"] if of_config else []
    if of_tokenizer:
        parts.append(
            f"{of_tokenizer:,} that its tokenizer needs: special ones, single bytes and pieces that merges go through"
        )
    return f"{named:,} that were named and, with them, {' and '.join(parts)}" if parts else ""


def _numbers(tokens: Iterable[int]) -> set[int]:
    """Numbers of tokens.

    Raises:
        UserError: one is none.
    """
    numbers = set()
    for token in tokens:
        try:
            numbers.add(index(token))
        except TypeError:
            raise UserError(f"{token!r} is no number of a token.", hint=HINT) from None
    return numbers


def read_tokens(path: Path) -> list[int]:
    """The tokens that a file names.

    Raises:
        UserError: it cannot be read, or is no list of numbers.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")  # editors of Windows put a mark before it
    except Unreadable as error:
        raise refusal(error, path, "cannot read the tokens", HINT) from error
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 from byte {error.start:,} on.", where=str(path), hint=HINT) from error
    if path.suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        tokens = read_as(path, TypeAdapter(list[int]), "this is no list of tokens", hint=HINT)
    else:
        tokens = []
        for number, line in enumerate(text.splitlines(), 1):
            odd = next((word for word in line.split() if not _DIGITS.fullmatch(word)), None)
            if odd is not None:
                raise UserError(f"{odd[:40]!r} is no number of a token.", where=f"{path}, line {number}", hint=HINT)
            tokens += [int(word) for word in line.split()]
    if not tokens:
        raise UserError("it names no token.", where=str(path), hint=HINT)
    return tokens
