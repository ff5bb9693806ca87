"""What is handed over are the weights that the slim module has by then, or a refusal in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes import TwoConvs
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import atograph
from atograph.passes.errors import UserError


class Tied(nn.Module):
    """Two layers of one weight, one of them with a norm of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
        self.normed, self.table = weight_norm(nn.Linear(16, 16)), nn.Embedding(8, 16)
        self.last.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.normed(self.first(x).relu()).relu()
        return self.last(y + self.table.weight.mean(0))


def slimmed(make: Callable[[], nn.Module], x: Tensor) -> tuple[nn.Module, atograph.Slim]:
    torch.manual_seed(0)
    dense = make().eval()
    graph = atograph.trace(dense, x)
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    assert slim.module is not None
    return dense, slim


def tuned(module: nn.Module, x: Tensor) -> nn.Module:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()
    for _ in range(3):
        optimizer.zero_grad()
        (module(x.to(next(module.parameters()))) - 1).square().mean().backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize(
    ("make", "x"),
    [(TwoConvs, torch.randn(4, 1, 8, 8)), (lambda: Tied().train(), torch.randn(4, 8))],
    ids=["batch norm", "tied and normed"],
)
def test_every_hand_over_has_the_weights_of_now(make: Callable[[], nn.Module], x: Tensor, tmp_path: Path) -> None:
    dense, slim = slimmed(make, x)
    before, module = {name: value.clone() for name, value in dense.state_dict().items()}, slim.module
    assert module is not None
    first = slim(x), slim.program.module()(x)  # what is kept from here on is not to be handed over
    tuned(module, x)
    wanted = module(x)
    assert not torch.allclose(first[0], wanted, atol=1e-3)
    torch.testing.assert_close(first[0], first[1])
    for got in (slim(x), slim.as_module()(x), slim.program.module()(x), slim.double()(x.double()).float()):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(atograph.load(slim.save(tmp_path / "run"))(x), wanted, rtol=1e-4, atol=1e-5)
    if make is not TwoConvs:
        return
    file = pytest.importorskip("onnxruntime").InferenceSession(slim.to_onnx(tmp_path / "slim.onnx"))
    (got,) = file.run(None, {file.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), wanted.detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def _assigned(module: nn.Module) -> None:
    module.load_state_dict({name: value * 2 for name, value in module.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.double(),
        lambda m: m.bfloat16(),
        _assigned,
        lambda m: m.compile(backend="eager"),
        lambda m: m.head.register_forward_hook(lambda _module, _args, _result: None),
    ],
    ids=["float64", "bfloat16", "assigned", "compiled", "watched"],
)
def test_what_is_no_change_of_the_model_is_followed(move: Callable[[nn.Module], object]) -> None:
    x = torch.randn(4, 1, 8, 8)
    _dense, slim = slimmed(TwoConvs, x)
    module = slim.module
    assert module is not None
    move(module)
    tuned(module, x)
    got = slim(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, module.float()(x), rtol=1e-4, atol=1e-5)


def _set(name: str, value: object) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, value)

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set("bn1", nn.Identity()), "bn1 was BatchNorm2d, and is Identity"),
        (_set("head", nn.Linear(3, 7)), r"head.weight was \[10, \d+\], and is \[7, 3\]"),
        (_set("adapter", nn.Linear(3, 7)), "adapter is new"),
        (_set("bn1.eps", 0.5), "does not compute what its slim program does; bn1.eps changed"),
        (
            lambda m: m.head.register_forward_pre_hook(lambda _module, args: (args[0] + 1,)),
            "does not compute what its slim program does; head.hooks changed",
        ),
        (
            lambda m: m.conv2.register_forward_hook(lambda _module, _args, result: result * 2),
            "does not compute what its slim program does; conv2.hooks changed",
        ),
        (
            lambda m: setattr(m.conv2, "forward", lambda h: type(m.conv2).forward(m.conv2, h) * 0),
            "does not compute what its slim program does; conv2.forward changed",
        ),
        (lambda m: m.to("meta"), "on the meta device, without values"),
        (lambda m: weight_norm(m.conv1), "conv1 was Conv2d, and is ParametrizedConv2d"),
    ],
)
def test_a_module_of_another_structure_is_refused(change: Callable[[nn.Module], object], text: str) -> None:
    x = torch.randn(4, 1, 8, 8)
    _dense, slim = slimmed(TwoConvs, x)
    assert slim.module is not None
    change(slim.module)
    for hand_over in (lambda: slim(x), lambda: slim.program, slim.double, lambda: slim.to_onnx("never.onnx")):
        with pytest.raises(UserError, match=f"has changed since it was made slim: .*{text}"):
            hand_over()


def test_training_the_dense_model_on_leaves_the_slim_one() -> None:
    """Tensors that keep all units are not those of the dense model."""
    x = torch.randn(4, 1, 8, 8)
    dense, slim = slimmed(TwoConvs, x)
    before = slim(x)
    tuned(dense, x)
    assert torch.equal(slim(x), before)


def test_other_weights_beside_the_program_are_refused(tmp_path: Path) -> None:
    """Who writes trained weights over ``slim.safetensors`` would get those of the program without a word."""
    x = torch.randn(4, 1, 8, 8)
    _dense, slim = slimmed(TwoConvs, x)
    folder, module = slim.save(tmp_path / "run"), slim.module
    assert module is not None
    save_file(tuned(module, x).state_dict(), folder / "slim.safetensors")
    with pytest.raises(
        UserError, match=r"is another one here than in slim.pt2.* slim.save\(folder\), which writes both"
    ):
        atograph.load(folder)
    torch.testing.assert_close(atograph.load(slim.save(folder))(x), module(x), rtol=1e-4, atol=1e-5)


class Casts(nn.Module):
    """Takes inputs of any type, and keeps a constant of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.last = nn.Embedding(5, 8), nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        y = self.inner(x.to(torch.float32) + self.embed(ids)).relu() + torch.full((16,), 0.5)
        return self.last(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_of_another_type_are_told_of(dtype: torch.dtype) -> None:
    """Where an op does not take them: the program keeps its types, whatever its module was cast to."""
    x = torch.randn(4, 1, 8, 8)
    _dense, slim = slimmed(TwoConvs, x)
    assert slim.module is not None
    slim.module.to(dtype)
    name = str(dtype).removeprefix("torch.")
    told = f"the program takes .* of float32, and was called with {name}. Cast the inputs .* trace that"
    for form in (slim, slim.as_module()):
        with pytest.raises(UserError, match=told):
            form(x.to(dtype))
    with pytest.raises(UserError, match="of float64, and was called with float32"):
        slim.double()(x)
    torch.testing.assert_close(slim(x).to(dtype), slim.module(x.to(dtype)), rtol=0.1, atol=0.1)


def test_inputs_of_another_type_that_the_ops_take() -> None:
    torch.manual_seed(0)
    x, ids = torch.randn(3, 8), torch.tensor([0, 4, 2])
    graph = atograph.trace(Casts(), (x, ids))
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    torch.testing.assert_close(slim(x.double(), ids.int()), slim(x, ids))
    with pytest.raises(UserError, match="ids of int64, and was called with float32"):
        slim(x, ids.float())
    with pytest.raises(IndexError):  # the types are right: torch's own words
        slim(x, ids + 9)
