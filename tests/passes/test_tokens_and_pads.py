"""Code that froze widths for no reason: one norm group, rows scattered by a mask, zeros beside, learned tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exactly import free, made_slim
from torch import Tensor, nn
from torch.nn import functional as F

import atograph


class Net(nn.Module):
    """A linear layer (6 → 16), a function of its output [b, 5, 16] and of the network, a linear layer (→ 3)."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm, self.group, self.plain = nn.LayerNorm(16), nn.GroupNorm(1, 16), nn.GroupNorm(1, 16, affine=False)
        self.token = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self))


def latents(x: Tensor, net: Any) -> Tensor:
    """Perceiver: tokens ask, through a norm, and keep what they were."""
    asking = net.token.expand(len(x), -1, -1)
    told = (net.q(net.norm(asking)) @ net.k(x).mT).softmax(-1) @ x
    return asking + told


def class_token(x: Tensor, net: Any) -> Tensor:
    tokens = torch.cat([net.token[:1].expand(len(x), -1, -1), x], 1)
    return tokens[:, :1] + net.q(net.norm(tokens[:, :1])).relu() + x.mean(1, keepdim=True)


def scattered(x: Tensor, net: Any) -> Tensor:
    """Rows of another modality put where the text has places for them."""
    places = (torch.arange(5) > 2).expand(len(x), 5)
    return x.masked_scatter(places.unsqueeze(-1).expand_as(x), F.linear(x[:, :2], net.q.weight))


def scattered_by_rows(x: Tensor, net: Any) -> Tensor:
    places = (torch.arange(5) % 2 == 0)[None, :, None]
    return x.masked_scatter(places, net.q(x[:, :3]).flatten(0, 1))


def filtered(x: Tensor, net: Any) -> Tensor:
    """There and back through spectra of windows."""
    window = torch.hann_window(8).to(x)
    signal = F.pad(net.q(x.relu()).transpose(1, 2).flatten(0, 1), (0, 27))
    spectrum = torch.stft(signal, 8, 2, window=window, return_complex=True)
    return torch.istft(spectrum * 0.5, 8, 2, window=window, length=32)[:, :5].unflatten(0, (len(x), -1)).transpose(1, 2)


NETS: dict[str, tuple[Callable[[Tensor, Any], Tensor], int]] = {
    "one norm group": (lambda x, net: net.group(x.transpose(1, 2)).transpose(1, 2), 16),
    "one norm group without weights": (lambda x, net: net.plain(x.transpose(1, 2)).transpose(1, 2), 16),
    "one norm group of images": (lambda x, net: F.group_norm(x.mT.unsqueeze(3), 1).squeeze(3).mT.relu(), 16),
    "rows scattered": (scattered, 16),
    "rows scattered by a broadcast mask": (scattered_by_rows, 16),
    "rows chosen by a mask": (lambda x, _: x[:, torch.tensor([True, False, True, True, False])] + 1, 16),
    "zeros around": (lambda x, net: F.pad(F.linear(x, net.q.weight[:8]), (4, 4)) + x, 24),
    "zeros behind": (lambda x, net: F.pad(F.linear(x, net.q.weight[:8]), (0, 8)) + x, 24),
    "another number behind": (lambda x, _: F.pad(x[..., :12], (0, 4), value=0.5), 12),
    "latents": (latents, 32),
    "class token": (class_token, 16),
    "spectra and back": (filtered, 32),
    "three tensors": (lambda x, net: torch.einsum("bnd,de,e->bne", x, net.q.weight, net.k.bias), 32),
    "linear attention": (lambda x, _: torch.einsum("...nd,...md,...me->...ne", x, x.relu(), x.cos()), 16),
}


@pytest.mark.parametrize("name", NETS)
def test_units_that_may_go(name: str) -> None:
    torch.manual_seed(0)
    function, units = NETS[name]
    assert sum(free(made_slim(Net(function), torch.randn(2, 5, 6), seed=1))) >= units


def test_a_token_that_is_kept_is_zeroed_with_its_units() -> None:
    graph = atograph.trace(Net(latents).eval(), torch.randn(2, 5, 6))
    zeroed = {part.parameter for part in graph.groups.named("first").zeroing}
    assert {"token", "first.weight", "first.bias"} <= zeroed


def test_a_mask_of_single_values_takes_them_in_order() -> None:
    graph = atograph.trace(Net(lambda x, _: x.masked_scatter(x > 0, x.cos())).eval(), torch.randn(2, 5, 6))
    assert free(graph) == []


def test_a_shortcut_with_zero_channels() -> None:
    """As in PyramidNet: the residual stream grows by channels that start as zeros."""

    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return self.last(self.conv(x) + F.pad(x, (0, 0, 0, 0, 4, 4)))

    torch.manual_seed(0)
    assert sum(free(made_slim(Grows(), torch.randn(2, 3, 5, 5), seed=1))) == 16
