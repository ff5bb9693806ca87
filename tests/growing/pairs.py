"""Steps that read two values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from growing.network import IMAGE, Apply, Draw, Shape

SAME: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "gate": lambda a, b: a * torch.sigmoid(b),
    "maximum": torch.maximum, "where": lambda a, b: torch.where(a > 0, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "divide": lambda a, b: a / (b.abs() + 1), "stack": lambda a, b: torch.stack([a, b], 0).sum(0),
}  # fmt: skip


def two(draw: Draw, shapes: Sequence[Shape]) -> tuple[tuple[int, int], nn.Module, Shape] | None:
    """A step that reads two values: of one shape, or that differ in their channels."""
    equal = [(i, j) for i, a in enumerate(shapes) for j, b in enumerate(shapes) if i != j and a == b]
    beside = [
        (i, j) for i, a in enumerate(shapes) for j, b in enumerate(shapes)
        if i != j and len(a) == len(b) and (a[1:] == b[1:] if len(a) == IMAGE else a[:-1] == b[:-1])
    ]  # fmt: skip
    if beside and draw(st.booleans()):
        i, j = draw(st.sampled_from(beside))
        dim = 0 if len(shapes[i]) == IMAGE else len(shapes[i]) - 1
        made = tuple(n + shapes[j][dim] if k == dim else n for k, n in enumerate(shapes[i]))
        return (i, j), Apply("cat", lambda _s, a, b: torch.cat([a, b], dim + 1)), made
    if equal:
        pair = draw(st.sampled_from(equal))
        name = draw(st.sampled_from(sorted(SAME)))
        function = SAME[name]
        return pair, Apply(name, lambda _s, a, b: function(a, b)), shapes[pair[0]]
    return None
