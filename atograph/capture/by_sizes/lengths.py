"""Lengths of state that grow from call to call: dynamic by themselves, and what is as long as both goes along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from atograph.capture.by_sizes.dynamic import Wanted, Wishes
from atograph.passes.ir.program import Program
from atograph.passes.ir.state import carried

BEFORE, AFTER = "past_sequence", "total_sequence"
"""What the length that goes in is called, and the one that comes out; numbered where there are several."""


def with_lengths(wishes: Wishes, program: Program) -> Iterator[Wishes]:
    """Wishes with the lengths of a program's state that grow, to be tried in order; nothing where none grows.

    A dim of another input that is as long in the example as what comes out is taken for that length (a mask over past
    and new tokens): first all of these, then each, then none.

    Args:
        wishes: what else is to be dynamic.
        program: captured with the example's lengths, with its state.
    """
    inputs, asked = program.interface.inputs, {place[:2] for size in wishes.sizes for place in size.places}
    grown: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for before, later in carried(program).items():
        leaf = inputs.index(before.name)
        sizes = zip(before.meta["val"].shape, later.meta["val"].shape, strict=True)
        for dim, (one, other) in enumerate(sizes):
            if int(one) != int(other) and (leaf, dim) not in asked and one > 1:
                grown.setdefault((int(one), int(other)), []).append((leaf, dim, 1))
    if not grown or not wishes.batch:
        return
    lengths, following = list[Wanted](), list[Wanted]()
    for number, ((length, total), places) in enumerate(grown.items()):
        name = _numbered(BEFORE, number)
        lengths.append(Wanted(name, length, tuple(places), least=0))
        along = tuple(place for place in _of_size(total, program) if place[:2] not in asked)
        new = [size.name for size in wishes.sizes if size.value == total - length and not size.parts]
        if along:
            parts, plus = (name, *new[:1]), 0 if new else total - length
            following.append(Wanted(_numbered(AFTER, number), total, along, parts=parts, plus=plus))
    yield from (replace(wishes, sizes=(*wishes.sizes, *lengths, *along)) for along in _choices(following))
    yield replace(wishes, sizes=(*wishes.sizes, *lengths))


def _choices(following: Sequence[Wanted]) -> Iterator[tuple[Wanted, ...]]:
    """All dims that go along; then, where some may be so long by chance, one of them after the other."""
    if following:
        yield tuple(following)
    most = max((len(size.places) for size in following), default=0)
    for index in range(most if most > 1 else 0):
        yield tuple(replace(size, places=size.places[index : index + 1] or size.places[:1]) for size in following)


def _of_size(size: int, program: Program) -> Iterator[tuple[int, int, int]]:
    """The dims of inputs that are no state, but the first, which are so long."""
    for node in program.input_nodes():
        if node.name not in program.interface.state_pairs and isinstance(node.meta.get("val"), torch.Tensor):
            for dim, each in enumerate(node.meta["val"].shape):
                if dim and int(each) == size:
                    yield program.interface.inputs.index(node.name), dim, 1


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name
