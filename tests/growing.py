"""Random networks for property tests: a Hypothesis strategy that grows small valid models step by step.

A network is a list of steps; each reads values that were made before it, and makes one or more. A value is an image
(channels, height, width), a sequence (length, channels) or a vector (channels), besides the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Made = tuple[nn.Module, Sequence[Shape]]
"""What a kind of step gives: a module that takes the values which it reads, and the shapes of what it makes."""

WIDTHS = st.sampled_from([2, 3, 4, 6, 8])
IMAGE, SEQUENCE, VECTOR = 3, 2, 1


class Apply(nn.Module):
    """A function of some values, and of modules and parameters of its own."""

    def __init__(self, title: str, function: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.title, self.function = title, function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *values: Tensor) -> Any:
        return self.function(self, *values)

    def extra_repr(self) -> str:
        return self.title


@dataclass(frozen=True)
class Step:
    reads: tuple[int, ...]
    part: int


class Grown(nn.Module):
    """A network of steps."""

    def __init__(self, parts: Sequence[nn.Module], steps: Sequence[Step], outputs: Sequence[int]) -> None:
        super().__init__()
        self.parts, self.steps, self.outputs = nn.ModuleList(parts), tuple(steps), tuple(outputs)

    def forward(self, *inputs: Tensor) -> Any:
        values = list(inputs)
        for step in self.steps:
            made = self.parts[step.part](*(values[index] for index in step.reads))
            values.extend(made if isinstance(made, (tuple, list)) else [made])
        found = tuple(values[index] for index in self.outputs)
        return found[0] if len(found) == 1 else found

    def extra_repr(self) -> str:
        return f"steps={[(step.part, step.reads) for step in self.steps]}, outputs={self.outputs}"


# -- kinds of steps that read one value --------------------------------------------------------------------------------

ONE: dict[str, tuple[int, Callable[[Draw, Shape], Made | None]]] = {}
"""Name → the rank of what is read (0: any), and what makes the step; None where the shape does not allow it."""


def one(rank: int) -> Callable[[Callable[[Draw, Shape], Made | None]], Callable[[Draw, Shape], Made | None]]:
    def register(make: Callable[[Draw, Shape], Made | None]) -> Callable[[Draw, Shape], Made | None]:
        assert make.__name__ not in ONE
        ONE[make.__name__] = (rank, make)
        return make

    return register


def divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish, "softplus": F.softplus, "leaky_relu": F.leaky_relu, "elu": F.elu, "relu6": F.relu6,
    "mish": F.mish, "abs": torch.abs, "square": torch.square, "exp": torch.exp, "cos": torch.cos, "neg": torch.neg,
    "clamp": lambda x: x.clamp(-1, 1), "shifted": lambda x: x + 0.5, "scaled": lambda x: 1.5 * x,
    "softsign": F.softsign, "logsigmoid": F.logsigmoid, "erf": torch.erf,
    "round trip": lambda x: x.flatten(1).view(x.shape), "contiguous": lambda x: x.contiguous(),
    "sqrt": lambda x: (x.square() + 1e-3).sqrt(), "in place": lambda x: torch.relu_(x + 0),
}  # fmt: skip


@one(0)
def activation(draw: Draw, shape: Shape) -> Made:
    name = draw(st.sampled_from(sorted(ACTIVATIONS)))
    function = ACTIVATIONS[name]
    return Apply(name, lambda _self, x: function(x)), [shape]


@one(0)
def parameter(draw: Draw, shape: Shape) -> Made:
    """A raw scale or shift, along the channels."""
    width = shape[0] if len(shape) == IMAGE else shape[-1]
    along = (width, 1, 1) if len(shape) == IMAGE else (width,)
    kind = draw(st.sampled_from(["scale", "shift", "both"]))
    own = nn.Parameter(torch.randn(along))
    forms = {"scale": lambda s, x: x * s.own, "shift": lambda s, x: x + s.own, "both": lambda s, x: x * s.own + s.own}
    return Apply(f"parameter {kind}", forms[kind], own=own), [shape]


@one(0)
def residual(draw: Draw, shape: Shape) -> Made:
    """A block of two layers that is added to what it reads."""
    narrow = draw(WIDTHS)
    if len(shape) == IMAGE:
        inner = nn.Sequential(nn.Conv2d(shape[0], narrow, 1), nn.ReLU(), nn.Conv2d(narrow, shape[0], 3, padding=1))
    else:
        inner = nn.Sequential(nn.Linear(shape[-1], narrow), nn.GELU(), nn.Linear(narrow, shape[-1]))
    return Apply("residual", lambda s, x: x + s.inner(x), inner=inner), [shape]


@one(0)
def halves(draw: Draw, shape: Shape) -> Made | None:
    """Two halves of the channels."""
    dim, width = (0, shape[0]) if len(shape) == IMAGE else (len(shape) - 1, shape[-1])
    if width < 2:
        return None
    first = draw(st.integers(1, width - 1))
    cut = (
        [(first if i == dim else n) for i, n in enumerate(shape)],
        [(width - first if i == dim else n) for i, n in enumerate(shape)],
    )
    return Apply("split", lambda _s, x: x.split([first, width - first], dim + 1)), [tuple(each) for each in cut]


@one(0)
def gated(draw: Draw, shape: Shape) -> Made | None:
    """GLU, or one half of the channels times a function of the other."""
    dim, width = (0, shape[0]) if len(shape) == IMAGE else (len(shape) - 1, shape[-1])
    if width % 2:
        return None
    made = tuple(width // 2 if i == dim else n for i, n in enumerate(shape))
    forms: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "glu": lambda _s, x: F.glu(x, dim + 1),
        "chunk": lambda _s, x: F.silu(x.chunk(2, dim + 1)[0]) * x.chunk(2, dim + 1)[1],
    }
    kind = draw(st.sampled_from(sorted(forms)))
    return Apply(kind, forms[kind]), [made]


@one(IMAGE)
def conv(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    groups = draw(divisors(channels))
    out = groups * draw(st.sampled_from([1, 2, 3]))
    size, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
    layer = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=draw(st.booleans()))
    return layer, [(out, -(-height // stride), -(-width // stride))]


@one(IMAGE)
def transposed(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if height > 8:
        return None
    groups = draw(divisors(channels))
    out = groups * draw(st.sampled_from([1, 2]))
    return nn.ConvTranspose2d(channels, out, 2, 2, groups=groups), [(out, 2 * height, 2 * width)]


@one(IMAGE)
def norm2d(draw: Draw, shape: Shape) -> Made:
    channels = shape[0]
    kind = draw(st.sampled_from(["batch", "group", "instance", "layer"]))
    if kind == "batch":
        return nn.BatchNorm2d(channels), [shape]
    if kind == "group":
        return nn.GroupNorm(draw(divisors(channels)), channels), [shape]
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=draw(st.booleans())), [shape]
    norm = nn.LayerNorm(channels)
    return Apply("layer norm", lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm), [shape]


@one(IMAGE)
def pooled(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if height < 2 or height % 2 or width % 2:
        return None
    kind = draw(st.sampled_from(["max", "average", "adaptive"]))
    half = (height // 2, width // 2)
    layers = {"max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2), "adaptive": nn.AdaptiveAvgPool2d(half)}
    return layers[kind], [(channels, *half)]


@one(IMAGE)
def resized(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if height > 8:
        return None
    mode = draw(st.sampled_from(["nearest", "bilinear"]))
    return Apply(mode, lambda _s, x: F.interpolate(x, scale_factor=2, mode=mode)), [(channels, 2 * height, 2 * width)]


@one(IMAGE)
def shuffled(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    groups = draw(divisors(channels))
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    forms: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "shuffle": lambda _s, x: x.view(-1, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape),
        "permutation": lambda s, x: x.index_select(1, s.order),
        "flip": lambda _s, x: x.flip(3),
        "roll": lambda _s, x: x.roll(1, 2),
        "pad and crop": lambda _s, x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
    }
    kind = draw(st.sampled_from(sorted(forms)))
    made = Apply(kind, forms[kind])
    made.register_buffer("order", order, persistent=False)
    return made, [shape]


@one(IMAGE)
def excited(draw: Draw, shape: Shape) -> Made:
    """Squeeze and excitation."""
    channels, narrow = shape[0], draw(WIDTHS)
    gate = draw(st.sampled_from([torch.sigmoid, F.hardsigmoid]))

    def run(self: Any, x: Tensor) -> Tensor:
        return x * gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))

    return Apply(
        "squeeze and excitation", run, down=nn.Conv2d(channels, narrow, 1), up=nn.Conv2d(narrow, channels, 1)
    ), [shape]


@one(IMAGE)
def pixels(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if channels % 4 or height > 8:
        return None
    return Apply("pixel shuffle", lambda _s, x: F.pixel_shuffle(x, 2)), [(channels // 4, 2 * height, 2 * width)]


@one(IMAGE)
def to_sequence(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    return Apply("to a sequence", lambda _s, x: x.flatten(2).transpose(1, 2)), [(height * width, channels)]


@one(IMAGE)
def to_vector(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    forms: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
        "mean": (lambda _s, x: x.mean((2, 3)), channels),
        "amax": (lambda _s, x: x.amax((2, 3)), channels),
        "flatten": (lambda _s, x: x.flatten(1), channels * height * width),
        "pool": (lambda _s, x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0], channels),
    }
    kind = draw(st.sampled_from(sorted(forms)))
    function, made = forms[kind]
    return Apply(kind, function), [(made,)]


@one(SEQUENCE)
def linear(draw: Draw, shape: Shape) -> Made:
    out = draw(WIDTHS)
    return nn.Linear(shape[-1], out, bias=draw(st.booleans())), [(*shape[:-1], out)]


@one(VECTOR)
def dense(draw: Draw, shape: Shape) -> Made:
    out = draw(WIDTHS)
    kind = draw(st.sampled_from(["linear", "matmul", "einsum", "bilinear"]))
    if kind == "linear":
        return nn.Linear(shape[0], out), [(out,)]
    weight = nn.Parameter(torch.randn(shape[0], out))
    if kind == "bilinear":
        return Apply(kind, lambda s, x: s.layer(x, x), layer=nn.Bilinear(shape[0], shape[0], out)), [(out,)]
    if kind == "matmul":
        return Apply(kind, lambda s, x: x @ s.weight, weight=weight), [(out,)]
    return Apply(kind, lambda s, x: torch.einsum("bi,io->bo", x, s.weight), weight=weight), [(out,)]


@one(0)
def norm(draw: Draw, shape: Shape) -> Made | None:
    if len(shape) == IMAGE:
        return None
    kind = draw(st.sampled_from(["layer", "rms", "l2", "softmax"]))
    if kind == "layer":
        return nn.LayerNorm(shape[-1]), [shape]
    if kind == "rms":
        return nn.RMSNorm(shape[-1]), [shape]
    if kind == "l2":
        return Apply(kind, lambda _s, x: F.normalize(x + 0.01, dim=-1)), [shape]
    return Apply(kind, lambda _s, x: x.softmax(-1)), [shape]


@one(SEQUENCE)
def attention(draw: Draw, shape: Shape) -> Made:
    """Self-attention, keys and values in groups or not, by one op or by hand."""
    length, channels = shape
    groups, per_group, head = (
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([2, 3])),
    )
    heads, fused = groups * per_group, draw(st.booleans())
    query, out = nn.Linear(channels, heads * head), nn.Linear(heads * head, channels)
    key, value = nn.Linear(channels, groups * head), nn.Linear(channels, groups * head)

    def run(self: Any, x: Tensor) -> Tensor:
        q = self.query(x).view(-1, length, heads, head).transpose(1, 2)
        k = self.key(x).view(-1, length, groups, head).transpose(1, 2)
        v = self.value(x).view(-1, length, groups, head).transpose(1, 2)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (t.repeat_interleave(per_group, 1) for t in (k, v))
            y = (q @ k.transpose(-2, -1) / head**0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(-1, length, heads * head))

    return Apply(f"attention {heads}/{groups}×{head}", run, query=query, key=key, value=value, out=out), [shape]


@one(SEQUENCE)
def mixed(draw: Draw, shape: Shape) -> Made | None:
    """torch's own attention and recurrent layers, and a convolution along the sequence."""
    length, channels = shape
    kind, width = draw(st.sampled_from(["multi-head", "lstm", "gru", "conv1d", "tokens"])), draw(WIDTHS)
    if kind == "multi-head":
        layer = nn.MultiheadAttention(channels, draw(divisors(channels)), batch_first=True)
        return Apply(kind, lambda s, x: s.layer(x, x, x, need_weights=False)[0], layer=layer), [shape]
    if kind in ("lstm", "gru"):
        recurrent = (nn.LSTM if kind == "lstm" else nn.GRU)(channels, width, batch_first=True)
        return Apply(kind, lambda s, x: s.layer(x)[0], layer=recurrent), [(length, width)]
    if kind == "conv1d":
        layer1 = nn.Conv1d(channels, width, 3, padding=1)
        return Apply(kind, lambda s, x: s.layer(x.transpose(1, 2)).transpose(1, 2), layer=layer1), [(length, width)]
    across = nn.Linear(length, length)
    return Apply(kind, lambda s, x: x + s.layer(x.transpose(1, 2)).transpose(1, 2), layer=across), [shape]


@one(SEQUENCE)
def sequence_to_vector(draw: Draw, shape: Shape) -> Made:
    forms: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "first": lambda _s, x: x[:, 0], "mean": lambda _s, x: x.mean(1), "sum": lambda _s, x: x.sum(1),
        "weighted": lambda _s, x: torch.einsum("blc,bl->bc", x, x.mean(-1).softmax(-1)),
    }  # fmt: skip
    kind = draw(st.sampled_from(sorted(forms)))
    return Apply(kind, forms[kind]), [(shape[-1],)]


# -- kinds of steps that read two values -------------------------------------------------------------------------------

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


LARGEST = 2000
"""Elements of a value."""


@st.composite
def networks(draw: Draw, most: int = 14) -> tuple[Grown, tuple[Tensor, ...]]:
    """A network in eval mode, with inputs of two samples."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    first = draw(st.sampled_from([(3, 8, 8), (4, 4, 4), (5, 6), (4, 3), (6,)]))
    shapes = [first] + ([first] if draw(st.integers(0, 5)) == 0 else [])
    inputs = tuple(torch.randn(2, *shape) for shape in shapes)
    parts: list[nn.Module] = []
    steps: list[Step] = []
    used: set[int] = set()
    reusable: dict[tuple[Shape, Shape], int] = {}
    for _ in range(draw(st.integers(3, most))):
        if draw(st.integers(0, 3)) == 0 and (found := two(draw, shapes)) is not None:
            reads, part, shape = found
            made: Sequence[Shape] = [shape]
        else:
            index = draw(st.integers(max(0, len(shapes) - 3), len(shapes) - 1))
            rank = len(shapes[index])
            name = draw(st.sampled_from([name for name, (wanted, _) in ONE.items() if wanted in (0, rank)]))
            again = reusable.get((shapes[index], shapes[index]))
            grown = ONE[name][1](draw, shapes[index])
            if grown is None:
                continue
            part, made = grown
            reads = (index,)
            if again is not None and draw(st.integers(0, 4)) == 0:  # the same module once more
                steps.append(Step(reads, again))
                shapes.append(shapes[index])
                used.update(reads)
                continue
            if list(made) == [shapes[index]]:
                reusable[shapes[index], shapes[index]] = len(parts)
        if any(torch.Size(each).numel() > LARGEST for each in made):
            continue
        steps.append(Step(tuple(reads), len(parts)))
        parts.append(part)
        shapes.extend(made)
        used.update(reads)
    outputs = []
    for index in [i for i in range(len(inputs), len(shapes)) if i not in used][-2:] or [len(shapes) - 1]:
        width = shapes[index][0] if len(shapes[index]) == IMAGE else shapes[index][-1]
        if draw(st.integers(0, 3)):  # a head; without one, what it is stays
            head = nn.Conv2d(width, 3, 1) if len(shapes[index]) == IMAGE else nn.Linear(width, 3)
            steps.append(Step((index,), len(parts)))
            parts.append(head)
            shapes.append((3,))
            index = len(shapes) - 1
        outputs.append(index)
    return Grown(parts, steps, outputs).eval(), inputs
