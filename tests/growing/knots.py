"""Steps that tie axes in unusual ways: what people write where no layer does it, a function of a value and the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from growing.network import IMAGE, SEQUENCE, VECTOR


def first(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first channels, and as many after them."""
    return x[:, :size], x[:, size : 2 * size]


def pairs(x: Tensor) -> Tensor:
    """(b, c, ...) → (b, c/2, 2, ...), without the last channel if they are odd."""
    return x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2))


def halves(x: Tensor) -> Tensor:
    """(b, c, ...) → (b, 2, c/2, ...), without the last channel if they are odd."""
    return x[:, : x.shape[1] // 2 * 2].unflatten(1, (2, -1))


def tied(x: Tensor, weight: Tensor) -> Tensor:
    """There and back through one weight."""
    return F.linear(F.linear(x, weight).relu(), weight.t())


def written(x: Tensor) -> Tensor:
    y = x * 1.0
    y[:, :2] += x[:, 1:3]
    y[:, 1] = y[:, 0].relu()
    return y


def rotated(x: Tensor) -> Tensor:
    angle = torch.arange(x.shape[-1]) * 0.3
    one, other = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-other, one], -1) * angle.sin()


def deviations(x: Tensor, *dims: int) -> Tensor:
    return x - x.mean(dims, keepdim=True)


def standardised(x: Tensor) -> Tensor:
    """By a variance of a sum over another count."""
    away = x - x.sum(1, keepdim=True) / x.shape[1]
    return away / ((away * away).sum(1, keepdim=True) / (x.shape[1] + 1) + 0.1).sqrt()


def latents(x: Tensor, p: Any) -> Tensor:
    """Learned tokens that ask, and to which what they are told is added."""
    asking = p.weight("latents", 2, x.shape[2]).expand(len(x), -1, -1)
    query = F.linear(F.layer_norm(asking, (x.shape[2],), p.weight("a", x.shape[2])), p.weight("q", 4, x.shape[2]))
    told = (query @ F.linear(x, p.weight("k", 4, x.shape[2])).mT).softmax(-1) @ x
    return asking + told


KNOTS: dict[int, dict[str, Callable[[Any, Any], Any]]] = {
    0: {
        "neighbours": lambda x, p: x[:, :-1] + x[:, 1:],
        "every other": lambda x, p: x[:, ::2],
        "a part added to another": lambda x, p: torch.cat([sum(first(x, 2)), x[:, 2:]], 1),
        "parts swapped": lambda x, p: torch.cat([x[:, 2:], x[:, :2]], 1) * x,
        "ends repeated": lambda x, p: torch.cat([x[:, :1], x, x[:, -1:]], 1),
        "one half twice": lambda x, p: torch.cat([first(x, 2)[0], first(x, 2)[0].cos()], 1),
        "interleaved": lambda x, p: torch.stack([x, x.cos()], 2).flatten(1, 2),
        "interleaved by hand": lambda x, p: halves(torch.cat([x, x.sin()], 1)).transpose(1, 2).flatten(1, 2),
        "copies": lambda x, p: x.unsqueeze(2).expand(-1, -1, 3, *[-1] * (x.dim() - 2)).flatten(1, 2),
        "copies in a row": lambda x, p: x.unsqueeze(1).expand(-1, 2, *[-1] * (x.dim() - 1)).flatten(1, 2),
        "some twice": lambda x, p: x[:, torch.tensor([0, 0, 2, 1])],
        "some away": lambda x, p: x.index_select(1, torch.tensor([2, 0])),
        "turned over": lambda x, p: x + x[:, torch.arange(x.shape[1] - 1, -1, -1)],
        "largest and smallest": lambda x, p: x * (x.amax(1, keepdim=True) - x.cos().amin(1, keepdim=True)),
        "largest of what is not negative": lambda x, p: x * torch.sigmoid(x.abs().max(1, keepdim=True)[0]),
        "largest with its place": lambda x, p: x + sum(x.max(1, keepdim=True)),
        "largest of all": lambda x, p: x * (x.amax(tuple(range(1, x.dim())), keepdim=True) + p.weight("v", 5).max()),
        "largest of two kinds": lambda x, p: x * torch.cat([x.sigmoid(), x[:, :2]], 1).max(1, keepdim=True).values,
        "largest of two": lambda x, p: pairs(x).amax(2),
        "sum of two": lambda x, p: pairs(x).sum(2),
        "softmax of two": lambda x, p: pairs(x).softmax(2).flatten(1, 2),
        "product of two": lambda x, p: pairs(x).prod(2),
        "mean of halves": lambda x, p: halves(x).mean(1),
        "halves by their mean": lambda x, p: (halves(x) - halves(x).mean(1, keepdim=True)).flatten(1, 2),
        "gated by the mean": lambda x, p: x * torch.sigmoid(x.mean(1, keepdim=True)),
        "without the mean": lambda x, p: x - x.mean(1, keepdim=True),
        "variance written out": lambda x, p: x * torch.rsqrt(deviations(x, 1).square().mean(1, keepdim=True) + 0.1),
        "variance of all written out": lambda x, p: (
            deviations(x, *range(1, x.dim())) * deviations(x, *range(1, x.dim())).pow(2).sum(1, keepdim=True)
        ),
        "variance over other dims": lambda x, p: x + (deviations(x, 1).pow(2)).mean(-1, keepdim=True),
        "squares of deviations used twice": lambda x, p: (
            deviations(x, 1).pow(2) + deviations(x, 1).square().sum(1, keepdim=True)
        ),
        "standardised by hand": lambda x, p: standardised(x),
        "sum of deviations": lambda x, p: x + deviations(x, 1).sum(1, keepdim=True) + deviations(x, 1).mean(),
        "length of deviations": lambda x, p: x * deviations(x, 1).norm(dim=1, keepdim=True),
        "variance of halves": lambda x, p: (
            halves(x) * (halves(x) - halves(x).mean(2, keepdim=True)).square().sum(2, keepdim=True)
        ).flatten(1, 2),
        "above the mean": lambda x, p: torch.where(x > x.mean(1, keepdim=True) + 0.1, x, x * 0.1),
        "written into": lambda x, p: written(x),
        "filled in part": lambda x, p: x.index_fill(1, torch.tensor([0, 2]), 0.5),
        "added to some": lambda x, p: x.index_add(1, torch.tensor([0, 2]), x[:, :2].cos()),
        "padded and cut": lambda x, p: F.pad(x.transpose(1, -1), (1, 2))[..., 1:-2].transpose(1, -1),
        "cut and padded": lambda x, p: F.pad(x.transpose(1, -1)[..., 1:], (1, 0)).transpose(1, -1),
        "as many zeros": lambda x, p: F.pad(x.transpose(1, -1), (2, 3)).transpose(1, -1),
        "a part among zeros": lambda x, p: x + F.pad(x[:, 1:3].transpose(1, -1), (1, x.shape[1] - 3)).transpose(1, -1),
        "a number beside": lambda x, p: F.pad(x.transpose(1, -1), (0, 2), value=0.5).transpose(1, -1).cos(),
        "scaled by numbers": lambda x, p: x.transpose(1, -1) * torch.linspace(0, 1, x.shape[1]),
        "shifted and scaled": lambda x, p: (x.transpose(1, -1) + p.weight("b", x.shape[1])) * p.weight("a", x.shape[1]),
        "at least": lambda x, p: torch.maximum(x.transpose(1, -1), p.weight("least", x.shape[1])),
        "divided by a learned step": lambda x, p: (
            torch.round(x.transpose(1, -1) / p.weight("s", x.shape[1]) + 0.1234) * p.weight("s", x.shape[1])
        ),
        "a function of two weights": lambda x, p: x.transpose(1, -1) * (p.weight("a", 1) + p.weight("b", x.shape[1])),
    },
    IMAGE: {
        "kernel from weights": lambda x, p: F.conv2d(x, p.weight("w", 4, x.shape[1], 1, 1) * p.weight("g", 4, 1, 1, 1)),
        "kernel by a learned step": lambda x, p: F.conv2d(
            x, torch.tanh(p.weight("w", 4, x.shape[1], 1, 1) / p.weight("s", 4, 1, 1, 1)) * p.weight("s", 4, 1, 1, 1)
        ),
        "kernel by its length": lambda x, p: F.conv2d(
            x, p.weight("w", 4, x.shape[1], 1, 1) / p.weight("w", 4, x.shape[1], 1, 1).square().sum(
                (1, 2, 3), keepdim=True).sqrt()
        ),
        "kernel per sample": lambda x, p: F.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            F.linear(x.mean((2, 3)), p.weight("w", 3 * x.shape[1], x.shape[1])).view(-1, x.shape[1], 1, 1),
            groups=len(x),
        ).view(len(x), 3, *x.shape[2:]),
        "kernel per sample and channel": lambda x, p: F.conv2d(
            x.reshape(1, -1, *x.shape[2:]), x.cos().mean((2, 3)).view(-1, 1, 1, 1), groups=len(x) * x.shape[1]
        ).view(x.shape),
        "kernel once for all": lambda x, p: F.conv2d(
            x, p.weight("w", 1, 1, 3, 3).expand(x.shape[1], 1, 3, 3), groups=x.shape[1]
        ),
        "pixels as channels": lambda x, p: x.flatten(2).transpose(1, 2).unsqueeze(3),
        "rows as channels": lambda x, p: x.flatten(1, 2).unsqueeze(3),
        "one group of all": lambda x, p: F.group_norm(x, 1, p.weight("a", x.shape[1]), p.weight("b", x.shape[1])),
        "some places": lambda x, p: x.flatten(2)[:, :, torch.arange(x.shape[2] * x.shape[3]) % 3 > 0],
        "channels by place": lambda x, p: torch.einsum("bchw,bdhw->bcd", x, x.cos()),
        "windows": lambda x, p: x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 1, 4, 5, 2, 3).flatten(1, 3),
        "crosswise": lambda x, p: x.mean(2, keepdim=True) * x.mean(3, keepdim=True),
    },
    SEQUENCE: {
        "tied": lambda x, p: tied(x, p.weight("w", 3, x.shape[2])),
        "tied to itself": lambda x, p: tied(x, p.weight("w", x.shape[2], x.shape[2])),
        "low rank": lambda x, p: F.linear(
            x, p.weight("w", 4, x.shape[2]) + p.weight("up", 4, 2) @ p.weight("down", 2, x.shape[2])
        ),
        "channels by channels": lambda x, p: x.transpose(1, 2) @ x,
        "rotated": lambda x, p: rotated(x),
        "one matrix a half": lambda x, p: torch.einsum(
            "blgi,gio->blgo", x.unflatten(2, (2, -1)), p.weight("w", 2, x.shape[2] // 2, 3)
        ).flatten(2),
        "weights over places": lambda x, p: torch.einsum(
            "bls,blc->bsc", F.linear(x, p.weight("w", 2, x.shape[2])).softmax(1), x
        ),
        "norm of halves": lambda x, p: F.layer_norm(x.unflatten(2, (2, -1)), (x.shape[2] // 2,)).flatten(2),
        "three tensors": lambda x, p: torch.einsum("bld,de,e->ble", x, p.weight("w", x.shape[2], 4), p.weight("v", 4)),
        "linear attention": lambda x, p: torch.einsum(
            "...nd,...md,...me->...ne", x, F.relu(x), F.linear(x, p.weight("w", 3, x.shape[2]))
        ),
        "latents": lambda x, p: latents(x, p),
        "positions": lambda x, p: x + p.weight("places", 9, x.shape[2])[: x.shape[1]],
        "one word in front": lambda x, p: torch.cat([p.weight("first", 1, 1, x.shape[2]).expand(len(x), -1, -1), x], 1),
    },
    VECTOR: {
        "outer product": lambda x, p: (x[:, :, None] * x[:, None, :2]).flatten(1, 2),
        "outer product as a sequence": lambda x, p: x[:, :, None] * x[:, None].cos(),
        "sums of differences": lambda x, p: (x[:, :, None] - x[:, None]).square().mean(2),
        "tied": lambda x, p: tied(x, p.weight("w", 3, x.shape[1])),
        "as a square": lambda x, p: x.unflatten(1, (2, -1)).transpose(1, 2),
        "by a product of weights": lambda x, p: x @ (p.weight("a", x.shape[1], 3) @ p.weight("b", 3, 4)),
        "three at once": lambda x, p: torch.einsum("bi,ijk,bj->bk", x, p.weight("w", x.shape[1], x.shape[1], 3), x),
    },
}  # fmt: skip
