"""Networks with control flow: functions in regions of ``cond``, ``scan``, ``map`` and ``while_loop``, nested.

What decides lies away from zero, which is where a norm without a weight puts its sum, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._higher_order_ops import map as map_over
from torch._higher_order_ops import scan, while_loop

from growing.functions import FUNCTIONS, WIDTH
from growing.network import Draw, Own

Part = Callable[[Tensor], Tensor]


def laid(x: Tensor) -> Tensor:
    """A value of its own, in the order of memory that regions have to agree in."""
    return x.clone(memory_format=torch.contiguous_format)


class Control(nn.Module):
    """An op of control flow around parts that take an image and give one of the same shape.

    Where ``written`` is set it runs as Python would: what the op has to give.
    """

    many = 1

    def __init__(self, *parts: nn.Module, rounds: int = 2) -> None:
        super().__init__()
        self.parts, self.rounds, self.written = nn.ModuleList(parts), rounds, True

    def extra_repr(self) -> str:
        return f"rounds={self.rounds}"


class Cond(Control):
    """Either of two branches."""

    many = 2

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.parts
        decides = x.sum() > 0.05
        if self.written:
            return one(x) if bool(decides) else other(x)
        return torch.cond(decides, lambda x: laid(one(x)), lambda x: laid(other(x)), (x,))


class TwoResults(Control):
    """Branches with two results each, of which one is the other way round."""

    many = 2

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.parts
        decides = x.mean() > 0.01

        def first(x: Tensor) -> tuple[Tensor, Tensor]:
            y = one(x)
            return laid(y), laid(y * x)

        def second(x: Tensor) -> tuple[Tensor, Tensor]:
            y = other(x)
            return laid(x + 1.0), laid(y)

        if self.written:
            a, b = first(x) if bool(decides) else second(x)
        else:
            a, b = torch.cond(decides, first, second, (x,))
        return a + b.relu()


class Around(Control):
    """A part in a branch and outside of it, and a value of the outside read in the branch: both by closure."""

    def forward(self, x: Tensor) -> Tensor:
        (part,) = self.parts
        decides, outside = x.sum() > 0.05, part(x)
        if self.written:
            return x + (part(x + outside) if bool(decides) else x * outside)
        return x + torch.cond(decides, lambda x, o: laid(part(x + o)), lambda x, o: laid(x * o), (x, outside))


class Scanned(Control):
    """Row after row, each with the one before: what is carried starts at zero or at the first row."""

    def forward(self, x: Tensor) -> Tensor:
        (part,) = self.parts
        start = x.new_zeros(len(x), WIDTH, x.shape[3]) if self.rounds % 2 else laid(x[:, :, 0])

        def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            state = part((state * 0.5 + row).unsqueeze(2)).squeeze(2)
            return laid(state), laid(state + row)

        if self.written:
            rows, state = [], start
            for row in x.unbind(2):
                state, given = step(state, row)
                rows.append(given)
            return torch.stack(rows, 2) + state.unsqueeze(2)
        state, given = scan(step, start, x, dim=2)
        return given + state.unsqueeze(2)


class Mapped(Control):
    """Sample by sample."""

    def forward(self, x: Tensor) -> Tensor:
        (part,) = self.parts
        if self.written:
            return torch.stack([part(sample.unsqueeze(0)).squeeze(0) for sample in x])
        return map_over(lambda sample: laid(part(sample.unsqueeze(0)).squeeze(0)), x)


class Repeated(Control):
    """Several rounds, or none."""

    def forward(self, x: Tensor) -> Tensor:
        (part,) = self.parts
        if self.written:
            for _ in range(self.rounds):
                x = part(x)
            return x
        start, rounds = torch.zeros((), dtype=torch.int64), self.rounds
        return while_loop(lambda i, x: i < rounds, lambda i, x: (i + 1, laid(part(x))), (start, x))[1]


class Hidden(nn.Module):
    """A width of its own between two convolutions, which may be grouped, and its parts in between."""

    def __init__(self, part: nn.Module, groups: int) -> None:
        super().__init__()
        self.up, self.norm = nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        self.mid = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=groups)
        self.down, self.part = nn.Conv2d(WIDTH, WIDTH, 1), part

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.part(self.mid(self.norm(self.up(x)).relu())))


KINDS: tuple[type[Control], ...] = (Cond, TwoResults, Around, Scanned, Mapped, Repeated)


class Regional(nn.Module):
    """A convolution, parts one after the other, and a convolution."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.parts = nn.Sequential(*parts)
        self.eval()
        self.write(True)
        with torch.no_grad():
            for own in self.modules():
                if isinstance(own, Own):
                    own(torch.randn(2, WIDTH, 6, 6))  # makes the weights

    def write(self, written: bool) -> None:
        """Run as Python would, or by ops of control flow."""
        for each in self.modules():
            if isinstance(each, Control):
                each.written = written

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.parts(self.first(x)))


INSIDE = sorted({*FUNCTIONS} - {"lstm", "lstm both ways", "gru", "rnn"})
"""What Dynamo follows."""


def part(draw: Draw, depth: int, *, within: bool = False) -> nn.Module:
    """A function, or an op of control flow around others."""
    if depth and draw(st.integers(0, 2)) == 0:
        form = draw(st.sampled_from(KINDS))
        return form(*(chain(draw, depth - 1) for _ in range(form.many)), rounds=draw(st.integers(0, 3)))
    if within and draw(st.integers(0, 1)):
        return Hidden(chain(draw, depth - 1) if depth else nn.ReLU(), draw(st.sampled_from([1, 1, 4, WIDTH])))
    name = draw(st.sampled_from(INSIDE if within else sorted(FUNCTIONS)))
    return Own(name, FUNCTIONS[name])


def chain(draw: Draw, depth: int) -> nn.Module:
    return nn.Sequential(*(part(draw, depth, within=True) for _ in range(draw(st.integers(1, 2)))))


@st.composite
def regional(draw: Draw) -> tuple[Regional, tuple[Tensor, ...]]:
    """A network with regions, with inputs of two samples."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    form = draw(st.sampled_from(KINDS))
    control = form(*(chain(draw, 1) for _ in range(form.many)), rounds=draw(st.integers(0, 3)))
    parts = [
        *([part(draw, 0)] if draw(st.booleans()) else []),
        control,
        *([part(draw, 1)] if draw(st.booleans()) else []),
    ]
    model, x = Regional(parts), torch.randn(2, 3, 6, 6)
    try:
        with torch.no_grad():
            for each in (x, -x):
                model(each)
    except (IndexError, RuntimeError):  # a function that does not take the one row that a scan gives it
        reject()
    return model, (x,)
