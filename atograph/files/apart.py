"""Tensors that a checkpoint holds in parts, under a library's names for them: experts of a mixture, each of its own.

Models of transformers hold all experts of a layer in one tensor; their checkpoints, ``save_pretrained``'s too, have
``block_sparse_moe.experts.0.w1.weight`` for each. How these become one says the library's own table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from atograph.files.checkpoint import Checkpoint, Stored


def put_together(checkpoint: Checkpoint, model: nn.Module | None) -> None:
    """Give a checkpoint the names of a model of transformers, and its tensors in one where it holds them in parts.

    What is put together is still in the files, a row in several pieces. A name of the model's, and what has no place in
    it, stay as they are.

    Args:
        checkpoint: of the model.
        model: with or without values.
    """
    own = {} if model is None else model.state_dict()
    if model is None or checkpoint.tensors.keys() <= own.keys():
        return
    table = _table(model)
    parts: dict[str, dict[int, dict[int, Stored]]] = {}
    tensors: dict[str, Stored] = {}
    for name, stored in checkpoint.tensors.items():
        target, piece, pieces = (name, 0, 0) if name in own else _place_of(name, table)
        if target not in own:
            tensors[name] = stored
        elif not pieces:
            tensors[target] = replace(stored, name=target)
        else:
            member = int(re.findall(r"\.(\d+)(?=\.)", name)[-1])
            parts.setdefault(target, {}).setdefault(member, {})[piece] = stored
    for target, members in parts.items():
        rows = [[pieces[at] for at in sorted(pieces)] for _member, pieces in sorted(members.items())]
        joined = _joined(target, rows) if [*sorted(members)] == [*range(len(members))] else None
        tensors |= {stored.name: stored for row in rows for stored in row} if joined is None else {target: joined}
    checkpoint.tensors = tensors


def _table(model: nn.Module) -> Sequence[Any]:
    """How names of checkpoints become those of a model; empty where they are the same."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # before its fifth version, there was none
        return ()
    return get_model_conversion_mapping(model)  # type: ignore[arg-type]


def _place_of(name: str, table: Sequence[Any]) -> tuple[str, int, int]:
    """The model's name for a tensor of a checkpoint; of one in parts which of how many pieces of a row it is, else 0 of
    0."""
    if not table:
        return name, 0, 0
    from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

    for entry in table:
        if isinstance(entry, WeightRenaming):
            name, _pattern = entry.rename_source_key(name)
    for entry in table:
        if isinstance(entry, WeightConverter):
            target, pattern = entry.rename_source_key(name)
            kinds = [(type(operation), getattr(operation, "dim", None)) for operation in entry.operations]
            if pattern is not None and kinds in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
                return target, entry.source_patterns.index(pattern), len(entry.source_patterns)
    return name, 0, 0


def _joined(name: str, rows: Sequence[Sequence[Stored]]) -> Stored | None:
    """One tensor of rows that are in several pieces; None where they do not fit together."""
    kinds = {tuple((piece.dtype, piece.shape) for piece in row) for row in rows}
    first = rows[0][0]
    if len(kinds) != 1 or len({(piece.dtype, piece.shape[1:]) for piece in rows[0]}) != 1 or not first.shape:
        return None
    shape = (len(rows), sum(piece.shape[0] for piece in rows[0]), *first.shape[1:])
    return Stored(name, first.file, first.dtype, shape, first.start, parts=tuple(map(tuple, rows)))
