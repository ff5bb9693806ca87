"""GELU that a model writes out, in the forms that people write, as one op."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from math import pi
from typing import Any

import torch

from atograph.passes.patterns.replace import Replacement

aten = torch.ops.aten
_Form = Callable[..., Any]

_ERF: tuple[_Form, ...] = (lambda x: torch.erf(x / 2**0.5), lambda x: torch.erf(x * 0.5**0.5))
_TANH: tuple[_Form, ...] = (
    lambda x: torch.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3)),
    lambda x: torch.tanh((2 / pi) ** 0.5 * (x + 0.044715 * (x * x * x))),
    lambda x: torch.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x * x * x)),
    lambda x: torch.tanh((2 / pi) ** 0.5 * x * (1 + 0.044715 * x * x)),
)
"""Between -1 and 1, as Hendrycks and Gimpel have it (arXiv 1606.08415), and as their approximation has it."""

_HALVES: tuple[_Form, ...] = (
    lambda x, t: 0.5 * x * (1 + t),
    lambda x, t: x * (0.5 * (1 + t)),
    lambda x, t: 0.5 * (x * (1 + t)),
)


def _written(half: _Form, inner: _Form, approximate: str) -> Replacement:
    return Replacement(lambda x: half(x, inner(x)), partial(_gelu, approximate))


def _gelu(approximate: str, x: Any) -> Any:
    return aten.gelu(x, approximate=approximate)


WRITTEN_OUT = (
    *(_written(half, inner, "none") for half, inner in product(_HALVES, _ERF)),
    *(_written(half, inner, "tanh") for half, inner in product(_HALVES, _TANH)),
)
