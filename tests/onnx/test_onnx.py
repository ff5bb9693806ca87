"""The ONNX file: what its inputs and outputs are called, what it says about itself, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import atograph
from atograph.ort.model import OnnxModel
from atograph.values.difference import relative_difference


@dataclass
class Both:
    score: Tensor
    parts: tuple[Tensor, Tensor]


pytree.register_dataclass(Both)


class Pair(NamedTuple):
    logits: Tensor
    energy: Tensor


class Net(nn.Module):
    """Two convolutions, the first with batch norm, and what some function makes of their output and the input."""

    def __init__(self, returns: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.second, self.returns = nn.Conv2d(8, 3, 1), returns

    def forward(self, image: Tensor) -> Any:
        return self.returns(self.second(torch.relu(self.norm(self.first(image)))), image)


def slimmed(returns: Callable[[Tensor, Tensor], Any] = lambda y, x: y) -> tuple[atograph.Slim, Tensor]:
    torch.manual_seed(0)
    model, image = Net(returns), torch.randn(2, 3, 4, 4)
    model(image)  # batch norm has statistics of its own
    graph = atograph.trace(model.eval(), image)
    return atograph.slim(graph, graph.plan(flops=0.6)), image


@pytest.mark.parametrize(
    ("returns", "names"),
    [
        (lambda y, x: y, ["output"]),
        (lambda y, x: (y, y), ["output_0", "output_1"]),
        (lambda y, x: [y, (y + 1, y * 2)], ["output_0", "output_1_0", "output_1_1"]),
        (lambda y, x: {"logits": y, "hidden": [y + 1]}, ["logits", "hidden_0"]),
        (lambda y, x: {"image": y}, ["image_out"]),
        (lambda y, x: {"relu": y, "conv2d": y + 1, "first.weight": y * 2}, ["relu", "conv2d", "first.weight"]),
        (lambda y, x: (x, y), ["output_0", "output_1"]),
        (lambda y, x: (y, torch.ones(3)), ["output_0", "output_1"]),
        (lambda y, x: {"logits": y, "loss": None}, ["logits"]),
        (lambda y, x: (7, y, "text"), ["output_1"]),
        (lambda y, x: Both(y, (y + 1, y)), ["score", "parts_0", "parts_1"]),
    ],
    ids=["tensor", "same twice", "nested", "dict", "input's name", "names inside", "input", "constant", "none",
         "numbers", "dataclass"],
)  # fmt: skip
def test_outputs_are_called_as_the_model_returns_them(
    returns: Callable[[Tensor, Tensor], Any], names: list[str], tmp_path: Path
) -> None:
    slim, image = slimmed(returns)
    path = slim.to_onnx(tmp_path / "slim.onnx")
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == names
    expected, spec = pytree.tree_flatten(slim(image))
    found, found_spec = pytree.tree_flatten(OnnxModel(path, slim.program)(image))
    assert spec == found_spec
    for one, other in zip(expected, found, strict=True):
        assert relative_difference(one, other) < 1e-6 if isinstance(one, Tensor) else one == other


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Pair:
        y = torch.relu(self.left(left)) * torch.relu(self.right(right))
        return Pair(self.head(y), y.sum(1))


def test_keywords_go_by_their_names(tmp_path: Path) -> None:
    left, right = torch.randn(3, 4), torch.randn(3, 4)
    graph = atograph.trace(TwoInputs(), (), {"left": left, "right": right})
    slim = atograph.slim(graph, graph.plan(random=0))
    model = OnnxModel(slim.to_onnx(tmp_path / "slim.onnx"), slim.program)
    for one, other in zip(slim(left=left, right=right), model(right=right, left=left), strict=True):
        assert relative_difference(one, other) < 1e-6


@pytest.mark.parametrize("kind", ["named tuple", "dataclass"])
def test_a_saved_program_needs_no_class_of_the_user(kind: str, tmp_path: Path) -> None:
    if kind == "named tuple":
        inputs: Any = (torch.randn(3, 4), torch.randn(3, 4))
        graph = atograph.trace(TwoInputs(), inputs)
        slim, names = atograph.slim(graph, graph.plan(random=0)), ["logits", "energy"]
    else:
        slim, image = slimmed(lambda y, x: Both(y, (y + 1, y)))
        inputs, names = (image,), ["score", "parts"]
    slim.save(tmp_path)
    found = atograph.load(tmp_path)(*inputs)
    assert type(found) is dict and list(found) == names
    for one, other in zip(pytree.tree_leaves(slim(*inputs)), pytree.tree_leaves(found), strict=True):
        assert torch.equal(one, other)


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    slim, _image = slimmed()
    model = onnx.load(slim.to_onnx(tmp_path / "slim.onnx", metadata={"atograph.budgets": "flops=0.6"}))
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said == {
        "atograph.plan": slim.plan.digest,
        "atograph.model": slim.plan.fingerprint,
        "atograph.flops": f"{slim.flops} of {2 * 16 * (3 * 8 + 8 * 3)}",
        "atograph.params": f"{slim.params} of {3 * 8 + 8 + 2 * 8 + 8 * 3 + 3}",
        "atograph.budgets": "flops=0.6",
    }
    assert (model.producer_name, model.producer_version) == ("atograph", "0.1.0")
    other = slim.plan.model_copy(update={"kept": {"g0": (0, 1)}})
    assert other.digest != slim.plan.digest == slimmed()[0].plan.digest


def test_there_is_nothing_in_it_that_is_not_needed(tmp_path: Path) -> None:
    slim, _image = slimmed()
    graph = onnx.load(slim.to_onnx(tmp_path / "slim.onnx")).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "Conv"]  # the batch norm is in the first
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info]
    kept = len(slim.plan.kept["g0"])
    assert [shape for shape in dims if shape[0] == "batch"] == [["batch", kept, 4, 4]] * 2


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    slim, image = slimmed()
    path = slim.to_onnx(tmp_path / "slim.onnx", external_data=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["slim.onnx", "slim.onnx.data"]
    assert relative_difference(slim(image), OnnxModel(path, slim.program)(image)) < 1e-6


def test_what_onnx_cannot_express_is_named(tmp_path: Path) -> None:
    slim, _image = slimmed(lambda y, x: torch.special.i1e(y))
    with pytest.raises(atograph.UserError, match=r"torch\.onnx cannot export this program: .*bessel_i1e") as raised:
        slim.to_onnx(tmp_path / "slim.onnx")
    assert "\x1b" not in str(raised.value) and not [*tmp_path.iterdir()]


SMALL = {
    "a sum": lambda h: h * h.relu().sum(-1, keepdim=True) / ((h - 100).relu() + 1e-15).sum(-1, keepdim=True),
    "a difference": lambda h: 1e-12 / ((h - 100).relu() - 1e-9),
    "a product": lambda h: (h * 1.000009 - h) * 1e5,
    "a quotient": lambda h: (h / 1.000009 - h) * 1e5,
}


@pytest.mark.parametrize("case", SMALL)
def test_numbers_near_0_and_1_stay_in_the_file(case: str, tmp_path: Path) -> None:
    """The optimiser of torch.onnx would take them for 0 and 1: a division by 0, or nothing that is left."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x)) + SMALL[case](x).mean())  # type: ignore[no-any-return]

    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    graph = atograph.trace(Net(), x)
    slim = atograph.slim(graph, graph.plan(flops=0.6))
    file = OnnxModel(slim.to_onnx(tmp_path / "slim.onnx"), slim.program)
    assert torch.isfinite(slim(x)).all() and relative_difference(slim(x), file(x)) < 0.02


@pytest.mark.parametrize(
    "returns",
    [lambda y, x: y, lambda y, x: ((y > 0) + y * x.long(), (y > x).sum() / 2 + y.half(), x.long() / 3)],
    ids=["one type", "types that are promoted"],
)
@pytest.mark.long
def test_a_table_of_translations_that_is_read_once_gives_the_same_file(
    returns: Callable[[Tensor, Tensor], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atograph.onnx.export.one_by_one", nullcontext)
    slim, _input = slimmed(returns)
    first, again, other = (
        slim.to_onnx(tmp_path / f"{name}.onnx", opset=opset).read_bytes()
        for name, opset in (("first", None), ("again", None), ("other", 21))
    )
    monkeypatch.setattr("atograph.onnx.export.read_once", nullcontext)
    assert slim.to_onnx(tmp_path / "plain.onnx").read_bytes() == first == again
    assert slim.to_onnx(tmp_path / "plain21.onnx", opset=21).read_bytes() == other


CLAMPS = {
    "positional": lambda h: h.clamp(-1, 0.2),
    "named": lambda h: torch.clamp(h, max=1, min=0.5),
    "clip": lambda h: torch.clip(h, -0.5, 3),
    "in place": lambda h: (h * 2).clamp_(-1, 0.25),
    "integers": lambda h: (h * 3).long().clamp(-1, 2.5).float(),
}


@pytest.mark.parametrize("case", CLAMPS)
def test_an_integer_and_a_fraction_as_bounds(case: str, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x))) + CLAMPS[case](x).mean(-1, keepdim=True)  # type: ignore[no-any-return]

    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    graph = atograph.trace(nn.Sequential(Net()), x)  # whose input is called `input`, as a function of Python's
    slim = atograph.slim(graph, graph.plan(flops=0.6))
    file = OnnxModel(slim.to_onnx(tmp_path / "slim.onnx"), slim.program)
    assert relative_difference(slim(x), file(x)) < 1e-5


class Code(nn.Module):
    """Two layers, the first of which is called like an attribute of torch's own modules."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.code, self.last, self.function = nn.Linear(8, 16), nn.Linear(16, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.code(x)))  # type: ignore[no-any-return]


def test_a_module_called_like_something_of_torch(tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    graph = atograph.trace(Code(torch.relu), x)
    slim = atograph.slim(graph, graph.plan(flops=0.6))
    file = OnnxModel(slim.to_onnx(tmp_path / "slim.onnx"), slim.program)
    assert relative_difference(slim(x), file(x)) < 1e-5


def test_a_module_called_like_something_of_torch_where_torch_traces_the_program(tmp_path: Path) -> None:
    graph = atograph.trace(Code(lambda h: torch.rsub(h, 1.0)), torch.randn(3, 8))
    with pytest.raises(atograph.UserError, match="a parameter, buffer or module called code"):
        atograph.slim(graph, graph.plan(flops=0.6)).to_onnx(tmp_path / "slim.onnx")
