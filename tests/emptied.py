"""Small networks with a branch that may lose all of its units, and networks whose branches may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Around(nn.Module):
    """A stem, a block, a head: what the block does is given, with its layers."""

    def __init__(self, block: Callable[[Around, Tensor], Tensor], *, images: bool = True, **layers: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.stem: nn.Module = nn.Conv2d(3, 8, 3, padding=1) if images else nn.Linear(6, 8)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head: nn.Module = nn.Conv2d(8, 4, 1) if images else nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self, self.stem(x)))

    def __getattr__(self, name: str) -> nn.Module:
        return super().__getattr__(name)  # type: ignore[return-value]


class Case(NamedTuple):
    """A network, what it takes, and the groups that are to be emptied together.

    Attributes:
        build: makes the network.
        emptied: names of the groups.
        gone: parameters that the slim program does not have any more.
        reason: a part of why not; empty where they may.
    """

    build: Callable[[], nn.Module]
    emptied: str
    gone: tuple[str, ...] = ()
    reason: str = ""
    images: bool = True

    @property
    def inputs(self) -> Tensor:
        torch.manual_seed(1)
        return torch.randn(3, 3, 6, 6) if self.images else torch.randn(3, 5, 6)


def _conv(a: int, b: int, size: int = 1, **more: int | bool) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, padding=size // 2, **more)  # type: ignore[arg-type]


def _residual_mlp() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.out(F.gelu(s.mid(s.norm(x))))

    return Around(block, images=False, norm=nn.LayerNorm(8), mid=nn.Linear(8, 16), out=nn.Linear(16, 8))


def _without_bias() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.drop(s.scale(s.out(F.relu(s.mid(x)))))

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    return Around(block, images=False, mid=nn.Linear(8, 16), out=nn.Linear(16, 8, bias=False), scale=Scale(),
                  drop=nn.Dropout(0.1))  # fmt: skip


def _residual_conv() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return F.relu(x + s.bn2(s.b(F.relu(s.bn1(s.a(x))))))

    return Around(block, a=_conv(8, 16, 3, bias=False), bn1=nn.BatchNorm2d(16), b=_conv(16, 8, 3, bias=False),
                  bn2=nn.BatchNorm2d(8))  # fmt: skip


def _inverted() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.out(F.relu6(s.bn(s.deep(F.relu6(s.wide(x))))))

    return Around(block, wide=_conv(8, 24), deep=_conv(24, 24, 3, groups=24), bn=nn.BatchNorm2d(24), out=_conv(24, 8))


def _stacked() -> nn.Module:
    """A branch of two inner widths, one of which is emptied: the constant is convolved, with zeros around it."""

    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.c(F.relu(s.b(F.relu(s.a(x)))))

    return Around(block, a=_conv(8, 16), b=_conv(16, 12, 3), c=_conv(12, 8, 3))


class _Attention(nn.Module):
    def __init__(self, *, written_out: bool = False) -> None:
        super().__init__()
        self.written_out = written_out
        self.qkv, self.proj = nn.Linear(8, 3 * 4 * 6), nn.Linear(4 * 6, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        if self.written_out:
            y = ((q @ k.transpose(-2, -1)) / 6**0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, 24))


def _attention(*, written_out: bool = False) -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        x = x + s.attention(s.norm(x))
        return x + s.out(F.gelu(s.mid(s.norm2(x))))

    return Around(block, images=False, norm=nn.LayerNorm(8), attention=_Attention(written_out=written_out),
                  norm2=nn.LayerNorm(8), mid=nn.Linear(8, 16), out=nn.Linear(16, 8))  # fmt: skip


def _gated() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        gate, up = s.both(s.norm(x)).chunk(2, -1)
        return x + s.down(F.silu(gate) * up)

    return Around(block, images=False, norm=nn.RMSNorm(8, eps=1e-6), both=nn.Linear(8, 32, bias=False),
                  down=nn.Linear(16, 8, bias=False))  # fmt: skip


def _recurrent() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.out(s.lstm(x)[0])

    return Around(block, images=False, lstm=nn.LSTM(8, 10, num_layers=2, batch_first=True), out=nn.Linear(10, 8))


def _side_by_side() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.out(torch.cat([F.relu(s.a(x)), F.relu(s.b(x)), torch.sigmoid(s.c(x))], 1))

    return Around(block, a=_conv(8, 6, 3), b=_conv(8, 5), c=_conv(8, 4), out=_conv(15, 8))


def _dense() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return s.out(torch.cat([x, F.relu(s.a(x))], 1))

    return Around(block, a=_conv(8, 6, 3), out=_conv(14, 8))


def _moved_about() -> nn.Module:
    """What is left of a `cat` goes through ops that have no weights."""

    def block(s: Around, x: Tensor) -> Tensor:
        return s.out(F.pad(torch.cat([x, s.a(x)], 1).transpose(1, 2), [0, 1]).transpose(1, 2).cos())

    return Around(block, a=_conv(8, 6, bias=False), out=_conv(14, 8))


def _squeeze() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x * torch.sigmoid(s.up(F.silu(s.down(x.mean((2, 3), keepdim=True)))))

    return Around(block, down=_conv(8, 4), up=_conv(4, 8))


def _gated_constant() -> nn.Module:
    """What is left of the branch is scaled by a gate that looks at it."""

    def block(s: Around, x: Tensor) -> Tensor:
        y = F.leaky_relu(s.out(F.relu(s.mid(x))))
        return x + y * torch.sigmoid(s.gate(y.mean((2, 3), keepdim=True)))

    return Around(block, mid=_conv(8, 12), out=_conv(12, 8), gate=_conv(8, 8))


def _parallel() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return s.a2(F.relu(s.a(x))) + s.b2(F.relu(s.b(x)))

    return Around(block, a=_conv(8, 6), a2=_conv(6, 8), b=_conv(8, 6, 3), b2=_conv(6, 8))


def _split() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        a, b = s.both(x).split([6, 10], 1)
        return x + s.a2(F.relu(a)) + s.b2(F.relu(b))

    return Around(block, both=_conv(8, 16), a2=_conv(6, 8), b2=_conv(10, 8))


def _grouped() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.b(F.relu(s.a(x)))

    return Around(block, a=_conv(8, 12), b=_conv(12, 8, 3, groups=4))


def _only_path() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return s.b(F.relu(s.a(x)))

    return Around(block, a=_conv(8, 12), b=_conv(12, 8))


def _multiplied() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x * torch.tanh(s.b(F.relu(s.a(x))))

    return Around(block, a=_conv(8, 12), b=_conv(12, 8, bias=False))


def _mean() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + torch.relu(s.a(x)).mean(1, keepdim=True)

    return Around(block, a=_conv(8, 12))


def _largest() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + torch.relu(s.a(x)).amax(1, keepdim=True)

    return Around(block, a=_conv(8, 12))


def _softmax() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.b(s.a(x).softmax(1))

    return Around(block, a=_conv(8, 12), b=_conv(12, 8))


def _divided() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        y = F.relu(s.a(x)) + 0.0
        return x + s.b(y / y.sum(1, keepdim=True))

    return Around(block, a=_conv(8, 12), b=_conv(12, 8))


def _unit_length() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.b(F.normalize(s.a(x), dim=1))

    return Around(block, a=_conv(8, 12), b=_conv(12, 8))


def _norm(eps: float) -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.b(s.norm(s.a(x)))

    return Around(block, images=False, a=nn.Linear(8, 12), norm=nn.RMSNorm(12, eps=eps), b=nn.Linear(12, 8))


def _weight_norm() -> nn.Module:
    def block(s: Around, x: Tensor) -> Tensor:
        return x + s.b(F.relu(s.a(x)))

    return Around(block, images=False, a=nn.Linear(8, 12),
                  b=nn.utils.parametrizations.weight_norm(nn.Linear(12, 8)))  # fmt: skip


# fmt: off
CASES: dict[str, Case] = {
    "residual mlp": Case(_residual_mlp, "g2", ("norm.weight", "mid.weight", "out.weight"), images=False),
    "without a bias": Case(_without_bias, "g2", ("out.weight", "scale.gamma"), images=False),
    "residual conv": Case(_residual_conv, "g2", ("a.weight", "bn1.weight", "b.weight")),
    "inverted residual": Case(_inverted, "g2", ("wide.weight", "deep.weight", "bn.bias", "out.weight")),
    "first of two": Case(_stacked, "g2", ("a.weight", "b.weight")),
    "second of two": Case(_stacked, "g3", ("a.weight", "b.weight", "c.weight")),
    "heads": Case(_attention, "g3", ("norm.weight", "attention.qkv.bias"), images=False),
    "widths of values": Case(_attention, "g4", ("norm.weight", "attention.qkv.bias"), images=False),
    "heads written out": Case(lambda: _attention(written_out=True), "g3", ("norm.weight",), images=False),
    "attention and mlp": Case(_attention, "g3 g5", ("norm.weight", "mid.weight"), images=False),
    "gated": Case(_gated, "g2", ("norm.weight", "both.weight", "down.weight"), images=False),
    "lstm": Case(_recurrent, "g3", ("lstm.weight_ih_l1", "out.weight"), images=False),
    "part of a cat": Case(_side_by_side, "g2", ("a.weight",)),
    "parts of a cat": Case(_side_by_side, "g2 g4", ("a.weight", "c.bias")),
    "the whole cat": Case(_side_by_side, "g2 g3 g4", ("a.weight", "out.weight")),
    "growth of a dense block": Case(_dense, "g2", ("a.weight",)),
    "moved about": Case(_moved_about, "g2", ("a.weight",)),
    "gate": Case(_squeeze, "g2", ("down.weight", "up.weight")),
    "gate of a constant": Case(_gated_constant, "g2", ("mid.weight", "out.weight")),
    "one of two ways": Case(_parallel, "g2", ("a.weight", "a2.weight")),
    "a piece of a split": Case(_split, "g2", ("a2.weight",)),
    "both pieces of a split": Case(_split, "g2 g3", ("both.weight", "a2.weight")),
    "inputs of each group": Case(_grouped, "g3", ("a.weight", "b.weight")),
    "unit length": Case(_unit_length, "g2", ("a.weight", "b.weight")),
    "norm of what is gone": Case(lambda: _norm(1e-6), "g2", ("a.weight", "norm.weight"), images=False),
    "only way": Case(_only_path, "g2", reason="no longer depend on x"),
    "both of two ways": Case(_parallel, "g2 g4", reason="g2, g4 cannot lose all of their units at once"),
    "times zero": Case(_multiplied, "g2", reason="no longer depend on x"),
    "mean": Case(_mean, "g2", reason="mean of no units"),
    "largest": Case(_largest, "g2", reason="amax of no units"),
    "softmax": Case(_softmax, "g2", reason="softmax over this axis"),
    "divided by its sum": Case(_divided, "g2", reason="infinite or 0/0"),
    "norm without eps": Case(lambda: _norm(0.0), "g2", reason="infinite or 0/0", images=False),
    "weight norm": Case(_weight_norm, "g2", reason="infinite or 0/0", images=False),
}
# fmt: on
