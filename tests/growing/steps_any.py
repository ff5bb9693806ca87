"""Kinds of steps that read a value of any rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from growing.network import IMAGE, WIDTHS, Apply, Draw, Made, Shape, kind

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish, "softplus": F.softplus, "leaky_relu": F.leaky_relu, "elu": F.elu, "relu6": F.relu6,
    "mish": F.mish, "abs": torch.abs, "square": torch.square, "exp": torch.exp, "cos": torch.cos, "neg": torch.neg,
    "clamp": lambda x: x.clamp(-1, 1), "shifted": lambda x: x + 0.5, "scaled": lambda x: 1.5 * x,
    "softsign": F.softsign, "logsigmoid": F.logsigmoid, "erf": torch.erf,
    "round trip": lambda x: x.flatten(1).view(x.shape), "contiguous": lambda x: x.contiguous(),
    "sqrt": lambda x: (x.square() + 1e-3).sqrt(), "in place": lambda x: torch.relu_(x + 0),
}  # fmt: skip


@kind(0)
def activation(draw: Draw, shape: Shape) -> Made:
    name = draw(st.sampled_from(sorted(ACTIVATIONS)))
    function = ACTIVATIONS[name]
    return Apply(name, lambda _self, x: function(x)), [shape]


@kind(0)
def parameter(draw: Draw, shape: Shape) -> Made:
    """A raw scale or shift, along the channels."""
    width = shape[0] if len(shape) == IMAGE else shape[-1]
    along = (width, 1, 1) if len(shape) == IMAGE else (width,)
    kind = draw(st.sampled_from(["scale", "shift", "both"]))
    own = nn.Parameter(torch.randn(along))
    forms = {"scale": lambda s, x: x * s.own, "shift": lambda s, x: x + s.own, "both": lambda s, x: x * s.own + s.own}
    return Apply(f"parameter {kind}", forms[kind], own=own), [shape]


@kind(0)
def residual(draw: Draw, shape: Shape) -> Made:
    """A block of two layers that is added to what it reads."""
    narrow = draw(WIDTHS)
    if len(shape) == IMAGE:
        inner = nn.Sequential(nn.Conv2d(shape[0], narrow, 1), nn.ReLU(), nn.Conv2d(narrow, shape[0], 3, padding=1))
    else:
        inner = nn.Sequential(nn.Linear(shape[-1], narrow), nn.GELU(), nn.Linear(narrow, shape[-1]))
    return Apply("residual", lambda s, x: x + s.inner(x), inner=inner), [shape]


@kind(0)
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


@kind(0)
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
