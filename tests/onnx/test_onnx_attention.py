"""Attention in ONNX: of any rank, with masks of any kind, and rows that may look at nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

import atograph
from atograph.ort.model import OnnxModel
from atograph.values.difference import relative_difference

WIDTH, LENGTH = 16, 6


class Attention(nn.Module):
    """Self-attention that arranges its queries, keys and values as it is told to."""

    def __init__(self, arrange: Callable[[Tensor], Tensor], keys: int = WIDTH, **options: object) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, keys), nn.Linear(WIDTH, keys)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.arrange, self.options = arrange, options

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (self.arrange(part(x)) for part in (self.q, self.k, self.v))
        y = attend(q, k, v, attn_mask=mask, **self.options)  # type: ignore[arg-type]
        y = self.o(y.transpose(-2, -3).reshape(x.shape) if y.dim() > 3 else y)
        return self.down(torch.relu(self.up(y)))  # type: ignore[no-any-return]


class Biased(Attention):
    """Attention with a learned bias, as T5 has it, for each sample."""

    def __init__(self) -> None:
        super().__init__(heads)
        self.bias = nn.Parameter(torch.randn(1, 4, LENGTH, LENGTH))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, self.bias.expand(len(x), -1, -1, -1))


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def windows(x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).unflatten(-1, (-1, 4)).transpose(2, 3)


def blind(kind: str, length: int = LENGTH) -> Tensor:
    """A causal mask over a sequence whose first two positions are padding: they may look at nothing."""
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    seen[:, :2] = False
    if kind == "bool":
        return seen
    return torch.zeros(length, length).masked_fill(~seen, -torch.inf if kind == "-inf" else torch.finfo().min)


CASES: dict[str, tuple[nn.Module, Tensor | None]] = {
    "three dimensions": (Attention(lambda x: x), None),
    "three, causal": (Attention(lambda x: x, is_causal=True), None),
    "five dimensions": (Attention(windows), None),
    "five, causal": (Attention(windows, is_causal=True, scale=0.7), None),
    "fewer keys than queries": (Attention(heads, keys=8, enable_gqa=True), None),
    "fewer keys, causal": (Attention(heads, keys=8, enable_gqa=True, is_causal=True), None),
    "fewer keys, causal, windows": (Attention(windows, keys=8, enable_gqa=True, is_causal=True), None),
    "blind rows": (Attention(heads), blind("bool")),
    "blind rows, minus infinity": (Attention(heads), blind("-inf")),
    "blind rows, the smallest number": (Attention(heads), blind("smallest")),
    "blind rows of three dimensions": (Attention(lambda x: x), blind("bool")),
    "blind rows of fewer keys": (Attention(heads, keys=8, enable_gqa=True), blind("bool")),
    "a bias that is expanded": (nn.Sequential(Biased()), None),
    "a mask for each sample": (Attention(heads), torch.stack([blind("bool"), ~blind("bool")])[:, None]),
}


OF_OPSET_23 = [("blind rows", 23), ("five dimensions", 23)]
"""torch.onnx itself has another way to write it from there on."""


@pytest.mark.long
@pytest.mark.parametrize(("case", "opset"), [*((case, None) for case in CASES), *OF_OPSET_23])
def test_attention_is_the_same_in_onnx_runtime(case: str, opset: int | None, tmp_path: Path) -> None:
    model, mask = CASES[case]
    x = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    inputs = (x,) if mask is None else (x, mask)
    graph = atograph.trace(model, inputs)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    file = OnnxModel(slim.to_onnx(tmp_path / "slim.onnx", opset=opset), slim.program)
    with torch.no_grad():
        assert relative_difference(slim(*inputs), file(*inputs)) < 1e-5
