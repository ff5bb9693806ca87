"""Values at the end of their type, which mask others: no scale, and equal where both are there."""

from __future__ import annotations

from math import inf, isinf, nan

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.repair.observe.samples import Sample
from atograph.values.difference import relative_difference

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
LEAST = float(torch.finfo(HALF).min)


@pytest.mark.parametrize(("dtype", "one", "other", "expected"), [
    (BRAIN, [1.0, -inf, 4.0], [1.0, -inf, 4.0], 0.0),
    (BRAIN, [1.0, -inf, 4.0], [1.0, -inf, 4.5], 0.5 / 4.5),
    (HALF, [1.0, LEAST, 4.0], [1.0, LEAST, 4.5], 0.5 / 4.5),  # it is no scale: or else nothing would be compared
    (HALF, [1.0, LEAST, 4.0], [1.0, -inf, 4.0], 0.0),  # finfo.min + score overflows, by a rounding of the score
    (HALF, [1.0, LEAST + 64, 4.0], [1.0, -inf, 4.0], 64 / 65504),
    (HALF, [1.0, -inf, 4.0], [-inf, 1.0, 4.0], inf),
    (HALF, [1.0, -inf, 4.0], [1.0, inf, 4.0], inf),
    (HALF, [1.0, LEAST, 4.0], [1.0, 0.0, 4.0], 1.0),
    (HALF, [1.0, -inf, 4.0], [1.0, -30000.0, 4.0], inf),
    (SINGLE, [1.0, -inf, 4.0], [1.0, -1e9, 4.0], inf),
    (HALF, [1.0, 2.0, 4.0], [1.0, nan, 4.0], inf),
    (HALF, [1.0, nan, 4.0], [1.0, 2.0, 4.0], 0.0),  # nobody has written there
])  # fmt: skip
def test_samples_with_values_at_the_end_of_their_type(
    dtype: torch.dtype, one: list[float], other: list[float], expected: float
) -> None:
    difference = Sample.of(torch.tensor(one, dtype=dtype)).difference(Sample.of(torch.tensor(other, dtype=dtype)))
    assert difference == pytest.approx(expected)


def test_outputs_overflow_by_rounding_as_well() -> None:
    least = torch.tensor([1.0, LEAST], dtype=HALF)
    assert relative_difference(least, torch.tensor([1.0, -inf], dtype=HALF)) == 0.0
    assert isinf(relative_difference(least.float(), torch.tensor([1.0, -inf])))
    assert isinf(relative_difference(torch.tensor([1.0, 5.0]), torch.tensor([1.0, -inf])))


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    """The scores of what comes later are masked: with ``-inf`` in their place or added, or with the least number."""

    def __init__(self, width: int, masking: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.masking = masking

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).view(*x.shape[:2], 4, -1).transpose(1, 2) for each in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        if self.masking == "filled":
            scores = scores.masked_fill(later, -inf)
        else:
            least = -inf if self.masking == "added" else torch.finfo(x.dtype).min
            scores = scores + torch.zeros(later.shape, dtype=x.dtype).masked_fill(later, least)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    def __init__(self, masking: str, width: int = 192) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, width), nn.Linear(width, 50)
        self.attentions = nn.ModuleList(Attention(width, masking) for _ in range(2))
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for norm, attention in zip(self.norms, self.attentions, strict=False):
            x = x + attention(norm(x))
        return self.head(self.norms[-1](x))


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("masking", ["filled", "added", "least"])
def test_a_masked_model_in_half_precision_has_its_slim_module(dtype: torch.dtype, masking: str) -> None:
    torch.manual_seed(0)
    model = Decoder(masking).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    graph = atograph.trace(model, torch.randint(0, 50, (2, 9)))
    slim = atograph.slim(graph, graph.plan(flops=0.6))
    assert not slim.why_no_module
    assert slim.module.head.in_features < 192  # the residual stream is narrower
