"""The tokenizer of a smaller vocabulary: ``tokenizer.json`` with the tokens that stay, under their new numbers.

A text of which all tokens stay has the same tokens as before, for each kind of model: WordPiece takes the longest
piece, Unigram the best row of pieces, and BPE merges what it merged, as long as what it merges on the way is there
(`tokens_needed`).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from atograph.files.reading import read_json
from atograph.passes.declared import Declared

FILE = "tokenizer.json"
TOKENS = "tokens.json"
"""The old number of each token, in the order of the new ones: a file that ``--keep-tokens`` takes, too."""

OLD_NUMBERS = f"{TOKENS} has the old number of each token, and its place there is the new one"

_OF_TOKENIZERS = re.compile(r"token|vocab|merges|tekken|encoder\.json$|bpe|\.(model|spm|codes|tiktoken)$")
"""Names of files with numbers of tokens (``vocab.json``, ``spiece.model``, ``tekken.json``): what they say, `FILE` and
``tokenizer_config.json`` say again."""

_KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def is_of_tokenizer(name: str) -> bool:
    """Whether a file beside weights holds numbers of tokens, so that it is wrong of a smaller vocabulary."""
    return _OF_TOKENIZERS.search(name) is not None


def tokens_needed(folder: Path, tokens: Iterable[int]) -> set[int]:
    """Tokens that a tokenizer needs beside some that stay: special ones, bytes, and what merges go through.

    Args:
        folder: with its ``tokenizer.json``; where there is none, or it is of another kind, nothing is needed.
        tokens: that stay.
    """
    content = _read(folder)
    if not isinstance(content, dict):
        return set()
    model, numbers = content["model"], _numbers(content)
    added = {entry["id"] for entry in content.get("added_tokens", ())}
    needed = set(added)
    if model["type"] == "Unigram":
        needed |= {model["unk_id"]} if model.get("unk_id") is not None else set()
        scores = [score for _piece, score in model["vocab"]]
        needed |= {scores.index(min(scores))} if scores else set()  # what is unknown costs more than this one
    elif model.get("unk_token") in numbers:
        needed.add(numbers[model["unk_token"]])
    if model.get("byte_fallback"):
        needed |= {number for token, number in numbers.items() if token.startswith("<0x") and token.endswith(">")}
    if model["type"] == "BPE":
        if "ByteLevel" in json.dumps([content.get("pre_tokenizer"), content.get("decoder")]):
            needed |= {number for token, number in numbers.items() if len(token) == 1}
        names = {number: token for token, number in numbers.items()}
        ranks = {tuple(pair): rank for rank, pair in enumerate(_merges(model))}
        for token in {*tokens, *needed} - added:
            if token in names:
                parts = _on_the_way(names[token], ranks, model.get("end_of_word_suffix") or "", _prefix(model))
                needed |= {numbers[part] for part in parts if part in numbers}
    return needed


def write_tokens(change: Declared, folder: Path) -> None:
    """Write the old number of each token that stays, in the order of the new ones."""
    (folder / TOKENS).write_text(json.dumps(list(change.kept[""])) + "\n", encoding="utf-8")


def write_tokenizer(source: Path | None, change: Declared, folder: Path) -> str:
    """Write the tokens' new numbers, and the tokenizer with the tokens that stay.

    Args:
        source: the folder of the dense model's tokenizer; None: there is none.
        change: which tokens stay.
        folder: where to write.

    Returns:
        Why there is no tokenizer, in words; empty where there is one.
    """
    kept = change.kept[""]
    write_tokens(change, folder)
    if source is None:
        return "nobody knows where the model was loaded from"
    content = _read(source)
    if isinstance(content, str):
        return content
    new = {token: place for place, token in enumerate(kept)}
    gone = [entry["content"] for entry in content.get("added_tokens", ()) if entry["id"] not in new]
    if gone:
        return f"its token {gone[0]!r} is gone"
    (folder / FILE).write_text(json.dumps(_cut(content, new), ensure_ascii=False) + "\n", encoding="utf-8")
    settings = source / "tokenizer_config.json"
    if settings.is_file():
        said = read_json(settings, "not the settings of a tokenizer")
        if isinstance(said.get("added_tokens_decoder"), dict):
            old = said["added_tokens_decoder"]
            said["added_tokens_decoder"] = {str(new[int(n)]): entry for n, entry in old.items() if int(n) in new}
        (folder / settings.name).write_text(json.dumps(said, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
    return ""


def _read(folder: Path) -> dict[str, Any] | str:
    """A tokenizer; or why it is none that is known, in words."""
    if not (folder / FILE).is_file():
        return f"there is no {FILE} in {folder}"
    content = read_json(folder / FILE, "not a tokenizer")
    kind = content.get("model", {}).get("type") if isinstance(content, dict) else None
    if kind not in _KINDS:
        return f"{FILE} is of another kind than {', '.join(_KINDS)}"
    return content  # type: ignore[no-any-return]


def _numbers(content: Mapping[str, Any]) -> dict[str, int]:
    """Token → number, those that were added included."""
    vocabulary = content["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece: n for n, (piece, _score) in enumerate(vocabulary)}
    return {**pieces, **{entry["content"]: entry["id"] for entry in content.get("added_tokens", ())}}


def _merges(model: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Pairs that are merged, first ones first; older files write them as one text."""
    for pair in model["merges"]:
        yield pair.split(" ", 1) if isinstance(pair, str) else pair


def _prefix(model: Mapping[str, Any]) -> str:
    """What a piece begins with that goes on with a word."""
    return model.get("continuing_subword_prefix") or ""


def _on_the_way(token: str, ranks: Mapping[tuple[str, ...], int], suffix: str, prefix: str = "") -> set[str]:
    """What BPE makes of a token's characters until it has the token; both included.

    >>> sorted(_on_the_way("the", {("h", "e"): 0, ("t", "he"): 1}, ""))
    ['e', 'h', 'he', 't', 'the']
    """
    ends = bool(suffix) and token.endswith(suffix) and token != suffix
    text = token.removesuffix(suffix) if ends else token
    goes_on = bool(prefix) and text.startswith(prefix) and text != prefix
    parts = list(text.removeprefix(prefix)) if goes_on else list(text)
    parts = [prefix * (goes_on or at > 0) + letter for at, letter in enumerate(parts)]
    if ends:
        parts[-1] += suffix
    seen = set(parts)
    while len(parts) > 1:
        pairs = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not pairs:
            break
        _rank, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1][len(prefix) :]]
        seen.add(parts[at])
    return seen


def _cut(content: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer with the tokens that stay, under their new numbers."""
    model = dict(content["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {token: new[number] for token, number in vocabulary.items() if number in new}
    else:
        model["vocab"] = [piece for number, piece in enumerate(vocabulary) if number in new]
        model["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
    if "merges" in model:
        stays = model["vocab"]
        model["merges"] = [
            pair for pair, (a, b) in zip(model["merges"], _merges(model), strict=True)
            if a in stays and b in stays and a + b[len(_prefix(model)) :] in stays
        ]  # fmt: skip
    added = [{**entry, "id": new[entry["id"]]} for entry in content.get("added_tokens", ())]
    return {**content, "model": model, "added_tokens": added,
            "post_processor": _renumbered(content.get("post_processor"), new)}  # fmt: skip


def _renumbered(part: Any, new: Mapping[int, int]) -> Any:
    """What is put around texts, by the new numbers: ``ids`` of templates, pairs of a token and its number."""
    if isinstance(part, dict):
        return {
            name: [new[number] for number in value] if name == "ids" else _renumbered(value, new)
            for name, value in part.items()
        }
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and type(part[1]) is int:
            return [part[0], new[part[1]]]
        return [_renumbered(each, new) for each in part]
    return part
