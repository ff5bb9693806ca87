"""A model is copied with what its last call left in it, and what cannot be copied is named."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.values.eval_mode import copy_of


class Leaves(nn.Module):
    """Each call leaves something behind, by a function of the module and its activation."""

    def __init__(self, leave: Callable[[Leaves, Tensor], None]) -> None:
        super().__init__()
        self.first, self.last, self.leave = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), leave

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        self.leave(self, y)
        return self.last(y)  # type: ignore[no-any-return]


def weight_norm() -> nn.Module:
    from torch.nn.utils import weight_norm

    with warnings.catch_warnings(action="ignore"):
        return nn.Sequential(weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), weight_norm(nn.Conv2d(16, 4, 1)))


def state(model: Leaves, y: Tensor) -> None:
    model.state = y


def in_a_list(model: Leaves, y: Tensor) -> None:
    vars(model).setdefault("kept", [])[:] = [{"y": (y, y.mean())}]


def a_view(model: Leaves, y: Tensor) -> None:
    model.whole, model.part = y, y[:, :2]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": weight_norm,
    "a state": lambda: Leaves(state),
    "in a list": lambda: Leaves(in_a_list),
    "a view": lambda: Leaves(a_view),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_is_copied_after_a_call(kind: str) -> None:
    model, x = MODELS[kind](), torch.randn(2, 3, 8, 8)
    model(x).sum().backward()
    copied = copy_of(model)
    assert torch.equal(copied(x), model(x))
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}


def test_views_of_one_tensor_stay_views() -> None:
    model = Leaves(a_view)
    model(torch.randn(2, 3, 8, 8))
    copied = copy_of(model)
    assert copied.whole.data_ptr() == copied.part.data_ptr() != model.whole.data_ptr()


@pytest.mark.parametrize("kind", ["weight norm", "in a list"])
def test_it_comes_back_slim_from_a_training(kind: str) -> None:
    model, data = MODELS[kind](), [(torch.randn(2, 3, 8, 8),) for _ in range(3)]
    result = atograph.compress(
        model, data, example_inputs=data[0][0], flops=0.6, epochs=3, loss=lambda m, b: (m(b[0]) - 1).pow(2).mean()
    )
    assert result.slim.module is not None, result.slim.why_no_module


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1))
    model[1].lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"^1\.lock: the model cannot be copied"):
        copy_of(model)


def test_to_look_at_a_weight_changes_no_state() -> None:
    """In training a spectral norm steps each time that its weight is looked at; the slim module has the program's."""
    from torch.nn.utils.parametrizations import spectral_norm

    torch.manual_seed(0)
    model = nn.Sequential(
        spectral_norm(nn.Conv2d(3, 16, 3)), nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(16, 4, 1)), nn.Flatten()
    )
    graph = atograph.trace(model, torch.randn(2, 3, 8, 8))
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    assert slim.module is not None, slim.why_no_module
    own = {name: value for name, value in slim.module.named_buffers() if name.endswith("_u")}
    assert own and all(torch.equal(value, slim.passes_program.state[name]) for name, value in own.items())


class Tapped(nn.Module):
    """Functions that mean the module itself: a hook that keeps a feature, an activation with the module's own scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.kept = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), dict[str, Tensor]()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.first.register_forward_hook(lambda module, inputs, output: self.kept.__setitem__("y", output))
        self.act = lambda x, *, by=3.0: torch.relu(x) * self.scale * by

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        return self.last(self.act(self.kept["y"]))  # type: ignore[no-any-return]


def test_functions_of_a_copy_mean_the_copy() -> None:
    model, x, y = Tapped(), torch.randn(2, 3, 8, 8), torch.randn(5, 3, 8, 8)
    expected = model(x)
    copied = copy_of(model)
    with torch.no_grad():
        copied.scale.zero_()
    assert copied(y).shape[0] == 5 and torch.equal(copied(y), copied.last.bias.view(-1, 1, 1).expand_as(copied(y)))
    assert model.kept["y"].shape[0] == 2 and torch.equal(model(x), expected)


def test_functions_of_a_slim_module_mean_it() -> None:
    model, x, y = Tapped().eval(), torch.randn(2, 3, 8, 8), torch.randn(5, 3, 8, 8)
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    assert slim.module is not None, slim.why_no_module
    for each in (slim, slim.module):
        torch.testing.assert_close(each(y), masked(y))
