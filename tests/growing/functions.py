"""Small functions between two layers: what people write between convolutions, and what is odd about it.

Each takes an image (16 channels) and the step that it is applied by, and gives one of the same shape. Where it
jumps (comparing, sorting), the jump lies away from zero: there masked and slim may differ in their last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 16
SOME = torch.arange(WIDTH) % 3 == 0
ALONG = torch.linspace(0.5, 1.5, WIDTH)


def per_channel(p: Any, name: str) -> Tensor:
    """A weight for each channel, laid out along them."""
    return p.weight(name, WIDTH, 1, 1) * 2.0


def mask(p: Any) -> Tensor:
    """A buffer that says of each channel whether it counts."""
    return p.constant("mask", SOME)[:, None, None]


def scale(p: Any) -> Tensor:
    """A buffer with a number for each channel."""
    return p.constant("scale", ALONG)[:, None, None]


def tokens(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, h·w, c)."""
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor, like: Tensor) -> Tensor:
    """What `tokens` made of an image."""
    return x.transpose(1, 2).unflatten(2, like.shape[2:])


def front(x: Tensor, before: int, after: int, value: float = 0.0) -> Tensor:
    """Channels added (or cut off) at both ends."""
    return F.pad(x, (0, 0, 0, 0, before, after), value=value)


def recurrent(x: Tensor, p: Any, kind: type[nn.Module], **how: Any) -> Tensor:
    """Pixel after pixel."""
    width = WIDTH // 2 if how.get("bidirectional") else WIDTH
    return image(p.layer(kind, WIDTH, width, batch_first=True, **how)(tokens(x))[0], x)


def written(x: Tensor, p: Any) -> Tensor:
    x = x.clone()
    x[:, -4:] *= 2
    x[:, :3] = x[:, 3:6].relu()
    return x


def filled_in_place(x: Tensor, p: Any) -> Tensor:
    x = x * 1.0
    x[:, 2:5] = 0.7
    x[:, :, 1] = 0.3
    return x


def added_in_place(x: Tensor, p: Any) -> Tensor:
    x = x.clone()
    x[:, ::2] += x[:, 1::2].sigmoid()
    x[:, 4:8].add_(per_channel(p, "w")[:4])
    return x


def masked_in_place(x: Tensor, p: Any) -> Tensor:
    x = x.clone()
    x[:, SOME] = 0.25
    x[x > 1.3] = 1.3
    return x


def into_zeros(x: Tensor, p: Any) -> Tensor:
    y = x.new_zeros(x.shape)
    y[:, :8] = x[:, 8:]
    return y + 0.5 * x


def into_constants(x: Tensor, p: Any) -> Tensor:
    y = torch.full_like(x, 0.3)
    y[:, 4:12] = x[:, 4:12]
    return y


def attention(x: Tensor, p: Any) -> Tensor:
    q, k, v = p.layer(nn.Linear, WIDTH, 3 * WIDTH)(tokens(x)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return image(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), x)


FUNCTIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    # what is filled in
    "masked fill": lambda x, p: x.masked_fill(SOME[:, None, None], 0.3),
    "masked fill by a buffer": lambda x, p: x.masked_fill(mask(p), -0.7),
    "masked fill with zero": lambda x, p: x.masked_fill(~mask(p), 0.0),
    "masked fill by values": lambda x, p: x.masked_fill(x < 0.1, -0.5),
    "masked fill by other values": lambda x, p: x.masked_fill(x.cos() * per_channel(p, "w") > 0.3, 0.0),
    "masked fill with a weight": lambda x, p: x.masked_fill(x < 0.1, p.weight("v", 1).sum()),
    "where the mean": lambda x, p: torch.where(x.mean((2, 3), keepdim=True) >= 0.01, x, per_channel(p, "b")),
    "where a weight": lambda x, p: torch.where(x > per_channel(p, "w"), x.cos(), x * per_channel(p, "b")),
    "where the largest": lambda x, p: torch.where(x.amax(1, True) == x, x, x * 0.1),
    "where a number": lambda x, p: torch.where(x > 0.2, x, 0.4),
    "where numbers": lambda x, p: torch.where(x > 0.2, 1.5, -0.5) * x.cos(),
    "where two weights": lambda x, p: torch.where(x > 0.15, per_channel(p, "a"), per_channel(p, "b")),
    "where a mask": lambda x, p: torch.where(mask(p), x, x.sigmoid()),
    "padded by a number": lambda x, p: F.pad(x, (1, 0, 0, 1), value=1.5)[:, :, 1:, :-1],
    "padded and turned": lambda x, p: front(x, -2, 2).flip(1),
    "padded channels": lambda x, p: front(x[:, 2:-1], 2, 1, 0.6),
    "padded both ways": lambda x, p: front(x, 3, 2, -0.4)[:, 1:-4],
    "turned and padded": lambda x, p: x + front(x.flip(1)[:, :-3], 3, 0),
    "reflected": lambda x, p: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 2:, 2:],
    "constants beside": lambda x, p: torch.cat([x[:, 4:], x.new_full((len(x), 4, *x.shape[2:]), 0.8)], 1),
    "zeros beside": lambda x, p: torch.cat([x, torch.zeros_like(x)], 1)[:, 5:21] + x,
    "ones like": lambda x, p: x * torch.ones_like(x).mul(per_channel(p, "w")) + torch.full_like(x, 0.1),
    "index fill": lambda x, p: x.index_fill(1, torch.tensor([0, 2, 9]), 0.5),
    "index fill of rows": lambda x, p: x.index_fill(2, torch.tensor([1]), 0.5),
    "scattered": lambda x, p: x.scatter(2, (x[:, :, :2] > 0.1).long(), 0.9),
    "nan to num": lambda x, p: torch.nan_to_num(x, nan=0.2),
    "threshold": lambda x, p: F.threshold(x, 0.1, 0.6),
    # masks and tables of buffers
    "times a mask": lambda x, p: x * SOME[:, None, None],
    "times a buffer": lambda x, p: x * mask(p),
    "plus a buffer": lambda x, p: x + scale(p),
    "over a buffer": lambda x, p: x / scale(p),
    "power of a buffer": lambda x, p: (x.abs() + 0.1) ** scale(p),
    # parameters that multiply and divide
    "times a weight": lambda x, p: x * per_channel(p, "w"),
    "plus a weight": lambda x, p: x + per_channel(p, "w"),
    "over a weight": lambda x, p: x / per_channel(p, "w"),
    "over a weight's size": lambda x, p: x / (per_channel(p, "w").abs() + 0.1),
    "over squares": lambda x, p: x / (1 + x.square()),
    "a weight over squares": lambda x, p: per_channel(p, "b") / (x.square() + 0.1),
    "a weight over another": lambda x, p: x.cos() * (per_channel(p, "a") / (per_channel(p, "b").square() + 0.2)),
    "exp of a weight": lambda x, p: x.sin() * per_channel(p, "a").exp(),
    "a weight times two": lambda x, p: (x.cos() * per_channel(p, "a")) * per_channel(p, "a").sigmoid(),
    "minus a weight": lambda x, p: per_channel(p, "a") - x,
    "lerp": lambda x, p: torch.lerp(x, x.cos(), per_channel(p, "a")),
    "addcdiv": lambda x, p: torch.addcdiv(x, x.sin(), per_channel(p, "a").square() + 0.3, value=0.5),
    "hypot": lambda x, p: torch.hypot(x, per_channel(p, "a")),
    "remainder": lambda x, p: torch.remainder(x, per_channel(p, "a").abs() + 0.5),
    "by a layer": lambda x, p: x * p.layer(nn.Conv2d, WIDTH, WIDTH, 1)(x.mean((2, 3), keepdim=True)).sigmoid(),
    "over a layer": lambda x, p: x / (1.2 + p.layer(nn.Conv2d, WIDTH, WIDTH, 1)(x).abs()),
    "layer over it": lambda x, p: p.layer(nn.Conv2d, WIDTH, WIDTH, 1)(x) / (1.2 + x.abs()),
    "maximum of a weight": lambda x, p: torch.maximum(x, per_channel(p, "a")),
    "prelu": lambda x, p: F.prelu(x, p.weight("slope", WIDTH)),
    # over channels
    "cumsum": lambda x, p: x.cumsum(1),
    "cumprod": lambda x, p: (1 + 0.3 * x.tanh()).cumprod(1),
    "cumsum turned": lambda x, p: x.flip(1).cumsum(1).flip(1),
    "cumsum of rows": lambda x, p: x.cumsum(2),
    "sort": lambda x, p: x.sort(1).values,
    "sort of rows": lambda x, p: x.sort(2).values,
    "topk": lambda x, p: x * x.topk(3, 1).values[:, 2:],
    "topk 1": lambda x, p: x - x.topk(1, dim=1).values,
    "topk of rows": lambda x, p: x + x.topk(2, dim=2).values.mean(2, keepdim=True),
    "softmax": lambda x, p: x + x.softmax(1),
    "softmax of rows": lambda x, p: x * x.softmax(3),
    "log softmax": lambda x, p: x * x.log_softmax(1),
    "softmin": lambda x, p: F.softmin(x, 2),
    "norm of order 3": lambda x, p: x / (x.norm(p=3, dim=1, keepdim=True) + 0.1),
    "norm of order 1": lambda x, p: x * x.norm(p=1, dim=(1, 3), keepdim=True).tanh(),
    "normalised": lambda x, p: F.normalize(x.cos(), dim=1),
    "normalised rows": lambda x, p: F.normalize(x, dim=2),
    "normalised by order 4": lambda x, p: F.normalize(x + per_channel(p, "w"), p=4, dim=1),
    "least norm": lambda x, p: x * torch.linalg.vector_norm(x.tanh().exp(), float("-inf"), dim=1, keepdim=True),
    "largest norm": lambda x, p: x * torch.linalg.vector_norm(x, float("inf"), dim=(1, 2), keepdim=True).tanh(),
    "rolled": lambda x, p: x + x.roll(3, 1),
    "rolled rows": lambda x, p: x + x.roll(1, 2),
    "logsumexp": lambda x, p: x * x.logsumexp(1, keepdim=True).tanh(),
    "variance": lambda x, p: x * x.var(1, keepdim=True).tanh(),
    "deviation": lambda x, p: x / (x.std(1, keepdim=True, correction=0) + 0.3),
    "variance of all": lambda x, p: x / (x.var((1, 2, 3), keepdim=True) + 0.5),
    "variance of rows": lambda x, p: x + x.var(2, keepdim=True, correction=2).tanh(),
    "product": lambda x, p: x * (x.tanh() * 0.3 + 1).prod(1, keepdim=True),
    "least": lambda x, p: x - x.amin(1, keepdim=True),
    "least of cosines": lambda x, p: x * x.cos().amin(1, keepdim=True),
    "largest": lambda x, p: x - x.max(1, keepdim=True).values,
    "largest of what is shifted": lambda x, p: x - (x - 5).amax(1, keepdim=True).tanh(),
    "largest by a weight": lambda x, p: x - (x * per_channel(p, "a")).amax((1, 2), keepdim=True),
    "largest of all": lambda x, p: x * x.max().tanh(),
    "largest of what is filled": lambda x, p: x + x.masked_fill(x < 0.1, -0.4).amax(1, keepdim=True),
    "whether any": lambda x, p: x * (x > 0.4).any(1, keepdim=True),
    "whether all": lambda x, p: x * (x > -0.6).all(1, keepdim=True),
    "how many": lambda x, p: x * (x > 0.1).sum(1, keepdim=True) / 7,
    "how many, at most": lambda x, p: x * (x > 0.1).long().amax(1, keepdim=True),
    "how many not zero": lambda x, p: x * x.relu().count_nonzero(1)[:, None] / 5,
    "share": lambda x, p: x * (x > 0.1).double().mean(1, keepdim=True).to(x.dtype),
    "median": lambda x, p: x - x.median(1, keepdim=True).values,
    "cummax": lambda x, p: x.cummax(1).values,
    "differences": lambda x, p: front(x.diff(dim=1), 1, 0),
    "gather": lambda x, p: x.gather(1, (x > 0.05).long()),
    "gather rows": lambda x, p: x.gather(2, (x > 0.05).long()),
    "one hot": lambda x, p: x * (x.argmax(1, keepdim=True) == torch.arange(WIDTH)[:, None, None]),
    "taken in order": lambda x, p: x.take_along_dim((x + 0.01 * ALONG[:, None, None]).argsort(1), 1),
    "taken rows": lambda x, p: x.take_along_dim(x.mean((1, 3), keepdim=True).argsort(2), 2),
    "windows": lambda x, p: x.unfold(1, 4, 4).sum(-1).repeat_interleave(4, 1),
    "copies": lambda x, p: x[:, :8].repeat(1, 2, 1, 1) + x[:, 8:].repeat_interleave(2, 1),
    "softmax in groups": lambda x, p: x.view(len(x), 4, 4, *x.shape[2:]).softmax(2).flatten(1, 2) + x,
    "largest in groups": lambda x, p: (
        x.unflatten(1, (4, 4)) - x.unflatten(1, (4, 4)).amax(2, keepdim=True)
    ).flatten(1, 2),
    "mean in groups": lambda x, p: x * x.unflatten(1, (4, 4)).mean(1).repeat(1, 4, 1, 1),
    "without the mean": lambda x, p: x - x.mean(1, keepdim=True),
    "standardised": lambda x, p: (x - x.mean(1, keepdim=True)) / (
        (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True) + 0.1).sqrt(),
    "cosine": lambda x, p: x * F.cosine_similarity(x, x.roll(1, 0) + 0.2, dim=1)[:, None],
    "largest of neighbours": lambda x, p: F.max_pool3d(x[:, None], (3, 1, 1), 1, (1, 0, 0))[:, 0],
    # index, slices, order
    "from the end": lambda x, p: x[:, torch.tensor([-1, -3, 0, 2, -2, 5, 5, 1, 4, 3, 6, 7, 8, -8, 9, -4])],
    "the last": lambda x, p: x * x[:, -1:] + x[:, -3, None],
    "every other": lambda x, p: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "shuffled": lambda x, p: x.view(len(x), 4, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2),
    "permuted": lambda x, p: x[:, torch.arange(WIDTH).view(2, 8).t().flatten()],
    "chosen by a mask": lambda x, p: torch.cat([x[:, SOME], x[:, ~SOME]], 1),
    "written": written,
    "filled in place": filled_in_place,
    "added in place": added_in_place,
    "masked in place": masked_in_place,
    "into zeros": into_zeros,
    "into constants": into_constants,
    "index copy": lambda x, p: x.index_copy(1, torch.tensor([1, 4]), x[:, 8:10].sigmoid()),
    "index add": lambda x, p: x.index_add(1, torch.tensor([1, 4]), x[:, 8:10].cos(), alpha=0.5),
    "in halves": lambda x, p: torch.cat([x.chunk(2, 1)[1].exp().clamp(max=3), x.chunk(2, 1)[0]], 1),
    "gated by half": lambda x, p: torch.cat([F.glu(x, 1), x[:, :8]], 1),
    "rotated": lambda x, p: x * ALONG.cos()[:, None, None] + torch.cat([-x[:, 8:], x[:, :8]], 1) * scale(p),
    # one value for each
    "at least": lambda x, p: x.clamp(min=0.2),
    "at most": lambda x, p: x.clamp(max=-0.1),
    "between": lambda x, p: x.clamp(0.1, 0.9),
    "between weights": lambda x, p: x.clamp(per_channel(p, "a") - 1, per_channel(p, "a") + 0.5),
    "plus a number": lambda x, p: x + 0.37,
    "one minus": lambda x, p: 1 - x,
    "sigmoid": lambda x, p: x.sigmoid(),
    "exp": lambda x, p: x.clamp(-3, 1).exp(),
    "reciprocal": lambda x, p: (x.square() + 0.3).reciprocal(),
    "relu": lambda x, p: x.relu(),
    "gelu": lambda x, p: F.gelu(x),
    "softplus": lambda x, p: F.softplus(x),
    "cos": lambda x, p: x.cos(),
    "sign": lambda x, p: (x + 0.013).sign() * 0.5,
    "rounded": lambda x, p: (x * 4 + 0.313).floor() / 4,
    "log": lambda x, p: x.abs().add(0.1).log(),
    "rsqrt": lambda x, p: (x.square() + 0.2).rsqrt(),
    "compared": lambda x, p: x * (x <= 0.4) + (x > 0.21),
    "as integers": lambda x, p: (x * 8 + 0.21).long() // 3 + 0.1 * x,
    "mish": lambda x, p: F.mish(x - 0.5),
    # layers
    "lstm": lambda x, p: recurrent(x, p, nn.LSTM),
    "lstm both ways": lambda x, p: recurrent(x, p, nn.LSTM, bidirectional=True, num_layers=2),
    "gru": lambda x, p: recurrent(x, p, nn.GRU) + x,
    "rnn": lambda x, p: recurrent(x, p, nn.RNN, nonlinearity="relu"),
    "attention": attention,
    "convolution": lambda x, p: p.layer(nn.Conv2d, WIDTH, WIDTH, 3, padding=1)(x),
    "depthwise": lambda x, p: p.layer(nn.Conv2d, WIDTH, WIDTH, 3, padding=1, groups=WIDTH)(x),
    "in groups": lambda x, p: p.layer(nn.Conv2d, WIDTH, WIDTH, 1, groups=4)(x),
    "transposed": lambda x, p: p.layer(nn.ConvTranspose2d, WIDTH, WIDTH, 3, padding=1)(x),
    "transposed in groups": lambda x, p: p.layer(nn.ConvTranspose2d, WIDTH, WIDTH, 3, padding=1, groups=2)(x),
    "bottleneck": lambda x, p: F.conv2d(
        F.conv2d(x, p.weight("down", 6, WIDTH, 1, 1)).cos() * p.weight("gate", 6, 1, 1), p.weight("up", WIDTH, 6, 1, 1)
    ),
    "batch norm": lambda x, p: p.layer(nn.BatchNorm2d, WIDTH)(x),
    "plain batch norm": lambda x, p: p.layer(nn.BatchNorm2d, WIDTH, affine=False)(x),
    "group norm": lambda x, p: p.layer(nn.GroupNorm, 4, WIDTH)(x),
    "one group norm": lambda x, p: p.layer(nn.GroupNorm, 1, WIDTH)(x),
    "plain group norm": lambda x, p: F.group_norm(x, 8),
    "instance norm": lambda x, p: p.layer(nn.InstanceNorm2d, WIDTH, affine=True)(x),
    "layer norm": lambda x, p: image(p.layer(nn.LayerNorm, WIDTH)(tokens(x)), x),
    "plain layer norm": lambda x, p: image(F.layer_norm(tokens(x), (WIDTH,)), x),
    "rms norm": lambda x, p: image(p.layer(nn.RMSNorm, WIDTH)(tokens(x)), x),
    "local response": lambda x, p: F.local_response_norm(x, 3),
    "einsum": lambda x, p: torch.einsum("bchw,dc,d->bdhw", x, p.weight("w", WIDTH, WIDTH), p.weight("v", WIDTH)),
    "einsum over rows": lambda x, p: torch.einsum("bchw,bcwk->bchk", x, x.transpose(2, 3)).tanh(),
    "channels by channels": lambda x, p: image((tokens(x) @ (x.flatten(2) @ tokens(x)).softmax(-1)), x),
    "linear": lambda x, p: image(p.layer(nn.Linear, WIDTH, WIDTH)(tokens(x)), x),
    "tied": lambda x, p: image(
        F.linear(F.linear(tokens(x), p.weight("w", 5, WIDTH)).sigmoid(), p.weight("w", 5, WIDTH).t()), x
    ),
    "pooled": lambda x, p: x + F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0),
    "pooled with ones": lambda x, p: F.avg_pool2d(x.exp().clamp(max=3), 3, 1, 1),
}  # fmt: skip
