"""Ops that are taken apart one by one before a file is written: it is the file of a program that torch traces anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from networks import build
from torch import Tensor, nn

import atograph
from atograph.onnx import decompositions
from atograph.passes.torch_private import onnx_passes


class Between(nn.Module):
    """Linear, a function of its output [batch, 3, 16], linear."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(8, 16), nn.LazyLinear(4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))  # type: ignore[no-any-return]


def attention() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Embedding(20, 16), layer, nn.Linear(16, 4)), torch.randint(0, 20, (2, 7))


def types(h: Tensor) -> Tensor:
    """The rows of `aten.to` that look at a device or a layout, which code that is traced hardly ever calls by name."""
    h = torch.ops.aten.to.device(h, torch.device("cpu"), torch.float64)
    return torch.ops.aten.to.dtype_layout(h, dtype=torch.float32, layout=torch.strided, device=torch.device("cpu"))


def between(function: Callable[[Tensor], Tensor]) -> Callable[[], tuple[nn.Module, Tensor]]:
    def made() -> tuple[nn.Module, Tensor]:
        model, x = Between(function), torch.randn(2, 3, 8)
        model(x)
        return model, x

    return made


TAKEN_APART: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "residual": lambda: build("residual"),
    "attention": attention,
    "flatten": between(lambda h: torch.relu(h).flatten(1)),
    "unflatten": between(lambda h: h.unflatten(-1, (4, -1)).tanh().mean(1).unflatten(1, (2, 2))),
    "squeeze": between(lambda h: h[:, :1, None].squeeze((1, -2)).sin()),
    "squeeze of one of two": between(lambda h: h[:, :1].squeeze((1, 2)).sin()),
    "dropout": between(lambda h: nn.functional.dropout(h.relu(), 0.5, training=False)),
    "contiguous": between(lambda h: h.transpose(1, 2).contiguous().view(-1, 48)),
    "types": between(lambda h: h + (h > 0).to(torch.float32) + h.to(torch.float32) + types(h)),
    "masks": between(lambda h: h * (((h > 0) & (h < 1)) | (h > 2))),
    "reshape": between(lambda h: h.transpose(1, 2).reshape(-1, 24)),
}
"""Networks all of whose ops have a row, or a word in torch.onnx."""

TRACED_ANEW: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "flattened over the batch": between(lambda h: h.flatten(0, 1).relu()),
    "an op without a row": between(lambda h: torch.rsub(h, 1.0)),
}


def written(model: nn.Module, x: Tensor, path: Path) -> Path:
    torch.manual_seed(0)
    graph = atograph.trace(model.eval(), x)
    return atograph.slim(graph, graph.plan(random=0, keep=0.5)).to_onnx(path)


def computed(path: Path) -> list[Any]:
    """What a file's outputs are made of: op, attributes and inputs, down to weights; no names of what is inside."""
    graph = onnx.load(path).graph
    terms: dict[str, Any] = {"": None, **{value.name: value.name for value in graph.input}}
    terms |= {
        tensor.name: (tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in graph.initializer
    }
    for node in graph.node:
        attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
        term = hash((node.domain, node.op_type, *attributes, *(terms[name] for name in node.input)))
        terms |= {name: (term, index) for index, name in enumerate(node.output)}
    return [(value.name, terms[value.name]) for value in graph.output]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The programs that torch traces anew within it."""
    own, traced = onnx_passes.decompose_with_registry, list[object]()
    with monkeypatch.context() as patch:
        patch.setattr(onnx_passes, "decompose_with_registry", lambda *args: (traced.append(args), own(*args))[1])
        yield traced


@pytest.mark.long
@pytest.mark.parametrize("name", [*TAKEN_APART, *TRACED_ANEW])
def test_the_file_is_that_of_a_program_traced_anew(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = {**TAKEN_APART, **TRACED_ANEW}[name]()
    with counted(monkeypatch) as traced:
        path = written(model, x, tmp_path / "one_by_one.onnx")
    assert len(traced) == (name in TRACED_ANEW)
    monkeypatch.setattr("atograph.onnx.export.one_by_one", nullcontext)
    assert computed(path) == computed(written(model, x, tmp_path / "traced.onnx"))


def test_a_squeeze_that_takes_nothing_away(tmp_path: Path) -> None:
    """torch, which traces the program, gives an op that torch.onnx has no word for."""
    model, x = between(lambda h: h.squeeze((1, -1)).sin())()
    path = written(model, x, tmp_path / "slim.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node][-3:] == ["Sin", "MatMul", "Add"]


def test_each_row_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    met = set[object]()

    def noted(target: object, row: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda node: (met.add(target), row(node))[1]

    rows = {target: noted(target, row) for target, row in decompositions.ROWS.items()}
    monkeypatch.setattr(decompositions, "ROWS", rows)
    for name in ("residual", "attention", "flatten", "unflatten", "contiguous", "types", "masks"):
        written(*TAKEN_APART[name](), tmp_path / "file.onnx")
    assert met == set(rows)


def test_the_program_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = build("residual")
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    before = str(slim.program.graph)
    slim.to_onnx(tmp_path / "first.onnx")
    assert str(slim.program.graph) == before and torch.equal(slim.program.module()(x), slim(x))
