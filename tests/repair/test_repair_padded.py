"""A module whose code knows no size of zero: its layers hold slim weights, and run with a unit of zeros beside them."""

from __future__ import annotations

import copy
import io

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.repair.padded import Padding, pad
from benchmarks.exact import perturb


class Pieces(nn.Module):
    """A norm before a `split`, one piece of which is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.norm = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.left, self.right = nn.Conv2d(6, 8, 1), nn.Conv2d(10, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.norm(self.both(x)).split([6, 10], 1)
        return x + self.left(a.relu()) + self.right(b.relu())


class Shuffled(nn.Module):
    """What two layers give is shuffled, by a view that has no size of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.one(x), self.two(x)], 1)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return x + self.out(y)


class Deep(nn.Module):
    """Depthwise convolutions of pieces, one of which is gone, and of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 18, 1)
        self.small, self.large = (nn.Conv2d(6, 6, size, padding=size // 2, groups=6) for size in (3, 5))
        self.all = nn.Conv2d(18, 18, 3, padding=1, groups=18)
        self.out = nn.Conv2d(18, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.wide(x).split([6, 6, 6], 1)
        return x + self.out(self.all(torch.cat([a, self.small(b), self.large(c)], 1)))


class Scaled(nn.Module):
    """A parameter of the user's own stands where a piece is gone; its layer is called by another module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.pieces = Pieces()
        self.pieces.norm = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.pieces.both(x) * self.scale).split([6, 10], 1)
        return x + self.pieces.left(a) + self.pieces.right(b)


class Tied(Pieces):
    """Two layers have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.again = nn.Identity(), nn.Conv2d(8, 16, 1)  # type: ignore[assignment]
        self.again.weight = self.both.weight

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.both(x) + self.again(x + 1)).split([6, 10], 1)
        return x + self.left(a) + self.right(b)


BLOCKS = {
    "a norm before a split": (Pieces, ("block.left.weight", 1)),
    "a shuffle": (Shuffled, ("block.two.weight", 0)),
    "depthwise convolutions": (Deep, ("block.large.weight", 0)),
    "a weight of two layers": (Tied, ("block.left.weight", 1)),
    "a parameter": (Scaled, ("block.pieces.left.weight", 1)),
}
"""Block → what makes it, and a parameter's dim whose group is to lose all of its units."""


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, padding=1), block, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


def made_slim(name: str) -> tuple[atograph.Slim, Tensor]:
    build, (parameter, dim) = BLOCKS[name]
    torch.manual_seed(0)
    model, x = Net(build()).eval().double(), torch.randn(3, 3, 6, 6).double()
    perturb(model)
    graph = atograph.trace(model, x)
    (group,) = [each.name for each in graph.prunable if (parameter, dim) in each.members]
    others = graph.plan(random=0, keep=0.5).kept
    return atograph.slim(graph, graph.plan(kept={**others, group: ()})), x


@pytest.mark.parametrize("name", BLOCKS)
def test_the_module_comes_back_and_holds_nothing_of_what_is_gone(name: str) -> None:
    slim, x = made_slim(name)
    module, state = slim.module, slim.program.state_dict
    assert module is not None, slim.why_no_module
    assert any("a unit of zeros beside its own" in text for text in slim.repairs)
    for tensor, value in module.named_parameters():
        assert value.shape == state[tensor].shape
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for inputs in (x, x[:1], torch.cat([x, x])):
        with torch.no_grad():
            expected = slim(inputs)
            for each in (module, copy.deepcopy(module), torch.load(saved, weights_only=False)):
                torch.testing.assert_close(each(inputs), expected, rtol=1e-9, atol=1e-9)
                saved.seek(0)


def test_a_copy_runs_with_its_own_weights() -> None:
    slim, x = made_slim("a shuffle")
    assert slim.module is not None
    other = copy.deepcopy(slim.module)
    with torch.no_grad():
        other.get_parameter("block.out.weight").zero_()
        assert not torch.allclose(other(x), slim.module(x))
        torch.testing.assert_close(slim.module(x), slim(x), rtol=1e-9, atol=1e-9)


def test_training_reaches_the_slim_weights_and_statistics() -> None:
    slim, x = made_slim("a norm before a split")
    module = slim.module
    assert module is not None
    mean, weight = (module.get_buffer("block.norm.running_mean").clone(), module.get_parameter("block.both.weight"))
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(x).square().mean().backward()
    assert weight.grad is not None and weight.grad.shape == weight.shape and bool(weight.grad.abs().sum() > 0)
    optimizer.step()
    module.eval()
    assert module.get_buffer("block.norm.running_mean").shape == mean.shape
    assert not torch.equal(module.get_buffer("block.norm.running_mean"), mean)
    with torch.no_grad():
        torch.testing.assert_close(module(x), slim(x), rtol=1e-9, atol=1e-9)


def test_statistics_are_those_of_the_slim_units() -> None:
    norm, x = nn.BatchNorm1d(3).double(), torch.randn(16, 2).double()
    reference = nn.BatchNorm1d(2).double().train()
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(reference, name).detach().clone()))
    norm.running_mean, norm.running_var = torch.zeros(2).double(), torch.ones(2).double()
    pad(norm, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (Padding(0, 3, (0, 2)),)))
    wide = norm.train()(torch.stack([x[:, 0], torch.zeros(16), x[:, 1]], 1))
    torch.testing.assert_close(wide[:, [0, 2]], reference(x), rtol=1e-9, atol=1e-9)
    assert torch.equal(wide[:, 1], torch.zeros(16).double())
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)


def test_a_recurrent_layer_reads_wider_weights() -> None:
    layer = nn.GRU(4, 2)
    reference, x = copy.deepcopy(layer), torch.randn(5, 3, 4)
    x[..., 1] = 0
    layer.weight_ih_l0 = nn.Parameter(layer.weight_ih_l0[:, [0, 2, 3]].detach())
    pad(layer, {"weight_ih_l0": (Padding(1, 4, (0, 2, 3)),)})
    torch.testing.assert_close(layer(x), reference(x))
    assert layer._flat_weights[0] is layer.weight_ih_l0


def test_a_module_that_raises_holds_its_weights_again() -> None:
    layer = nn.Linear(4, 2)
    weight = layer.weight
    pad(layer, {"weight": (Padding(1, 5, (0, 1, 3, 4)),)})
    with pytest.raises(RuntimeError):
        layer(torch.randn(3, 4))
    assert layer.weight is weight


def test_it_is_written_as_onnx() -> None:
    slim, x = made_slim("depthwise convolutions")
    assert slim.module is not None
    module, x = slim.module.float(), x.float()
    session = onnxruntime.InferenceSession(torch.onnx.export(module, (x,)).model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(x))


def test_it_is_traced_and_compiled() -> None:
    slim, x = made_slim("a norm before a split")
    module = slim.module
    assert module is not None
    with torch.no_grad():
        again = torch.export.export(module, (x,)).module()(x)
        torch.testing.assert_close(again, slim(x), rtol=1e-9, atol=1e-9)
        compiled = torch.compile(module, backend="eager")(x)
        torch.testing.assert_close(compiled, slim(x), rtol=1e-9, atol=1e-9)
        graph = atograph.trace(module, x)
        torch.testing.assert_close(atograph.slim(graph, graph.plan(kept={}))(x), slim(x), rtol=1e-9, atol=1e-9)
