"""A batch that is not the first dim of every input: what recurrent layers of torch keep is [layers, batch, width]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.proof.certificate import STEPS, certify
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import export, load
from atograph.targets.table import targets_of


class Recurrent(nn.Module):
    """A layer that keeps its state, between two that read it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.into, self.layer, self.out = nn.Linear(5, 12), layer, nn.Linear(10, 3)

    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.layer(self.into(x).relu(), state)
        return self.out(y), state


class Streaming(nn.Module):
    """A buffer whose batch is first, and a state whose batch is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer, self.out = nn.Conv1d(4, 12, 3), nn.GRU(12, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        x = torch.cat([state[0], x], -1)
        y, hidden = self.layer(self.conv(x).relu().transpose(1, 2), state[1])
        return self.out(y), (x[..., -2:], hidden)


def lstm(layers: int) -> nn.Module:
    return Recurrent(nn.LSTM(12, 10, num_layers=layers, batch_first=True))


Make = Callable[[int, int], tuple[Any, ...]]

CASES: dict[str, tuple[Callable[[], nn.Module], Make, Any]] = {
    "as many layers as samples": (
        lambda: lstm(2),
        lambda b, t: (torch.randn(b, t, 5), (torch.zeros(2, b, 10), torch.zeros(2, b, 10))),
        {"x": {1: "time"}},
    ),
    "a buffer and a state": (
        Streaming,
        lambda b, t: (torch.randn(b, 4, t), (torch.zeros(b, 4, 2), torch.zeros(1, b, 10))),
        {"x": {2: "time"}},
    ),
    "named": (
        lambda: Recurrent(nn.GRU(12, 10, batch_first=True)),
        lambda b, t: (torch.randn(b, t, 5), torch.zeros(1, b, 10)),
        {"x": {0: "streams"}, "state": {1: "streams"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_batch_is_a_size_like_others(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs, dynamic = CASES[case]
    model = make().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    example = torch.utils._pytree.tree_map(lambda leaf: leaf.double(), inputs(2, 7))
    graph = atograph.trace(model, example, dynamic=dynamic, state={"1": "state"})
    names = [size.name for size in graph.program.interface.dynamic]
    assert names == (["streams"] if case == "named" else ["batch", "time"])
    assert not graph.program.interface.still and "fixed to" not in str(graph)
    slim = atograph.slim(graph, graph.plan(random=1))
    masked = atograph.mask(model, slim.plan).eval()
    for batch, time in ((2, 7), (5, 7), (1, 7), *(() if case == "named" else ((3, 1), (4, 30)))):
        args = torch.utils._pytree.tree_map(lambda leaf: leaf.double(), inputs(batch, time))
        (cut, _), before = slim.cut_state(*args), masked(*args)
        torch.testing.assert_close(slim(*cut)[0], before[0], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(model(*args)[0], before[0])


def test_the_certificate_tries_it_at_other_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Recurrent(nn.GRU(12, 10, batch_first=True)).eval()
    args = (torch.randn(3, 6, 5), torch.zeros(1, 3, 10))
    graph = atograph.trace(model, args, dynamic={"x": {1: "time"}}, state={"1": "state"})
    slim = atograph.slim(graph, graph.plan(random=1))
    (target,) = targets_of(("onnx",))
    file = load(target, export(target, slim.program, tmp_path / target.file), slim.program)
    entries = certify(atograph.mask(model, slim.plan), slim, [file], Inputs(args, {}))
    assert [(entry.batch, entry.sizes, entry.steps) for entry in entries] == [
        (1, {}, 1), (3, {"time": 4}, 1), (3, {"time": 10}, 1), (3, {}, 1), (3, {}, STEPS),
    ]  # fmt: skip


class EachSample(nn.Module):
    """Looks at each sample, and has a table that happens to be as wide as there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        rows = [self.b((self.a(row) + table.sum()).relu()) for row in x]
        return torch.stack(rows)


def test_a_dim_that_is_no_batch_is_not_taken_for_it() -> None:
    graph = atograph.trace(EachSample().eval(), (torch.randn(3, 6), torch.randn(2, 3)))
    assert not graph.program.interface.dynamic and "The batch is fixed" in str(graph)


class FromAnywhere(nn.Module):
    """A triangle whose diagonal is the length of the cache: no argument at all where that is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.q, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, past: Tensor) -> Any:
        keys = torch.cat([past, self.k(x)], 1)
        new, whole = x.shape[1], keys.shape[1]
        seen = torch.ones(new, whole, dtype=x.dtype).tril(whole - new)
        return self.out((self.q(x) @ keys.transpose(1, 2) * seen) @ keys), keys


def test_an_argument_that_is_the_default_at_one_size_is_no_limit() -> None:
    torch.manual_seed(0)
    model = FromAnywhere().double().eval()
    x = torch.randn(2, 3, 6, dtype=torch.double)
    past = lambda length, width=8: torch.zeros(2, length, width, dtype=torch.double)  # noqa: E731
    graph = atograph.trace(model, (x, past(4)), dynamic={"x": {1: "new"}}, state={"1": "past"})
    assert {size.name: size.least for size in graph.program.interface.dynamic} == {"new": 1, "past_sequence": 0}
    slim = atograph.slim(graph, graph.plan(random=0))
    masked = atograph.mask(model, slim.plan).eval()
    for length in (0, 1, 9):
        cut = slim.cut_state(x, past(length))[0]
        torch.testing.assert_close(slim(*cut)[0], masked(x, past(length))[0], rtol=1e-9, atol=1e-12)


def test_the_name_of_the_batch_is_no_name_of_another_size() -> None:
    with pytest.raises(UserError, match="dynamic calls a size 'batch', which is what the first dim of the inputs is"):
        atograph.trace(nn.Conv1d(3, 8, 3).eval(), torch.randn(2, 3, 9), dynamic={"input": {2: "batch"}})


def test_other_words_for_checks_are_refused() -> None:
    with pytest.raises(UserError, match="checks is 'keep' or 'drop', not 'no'"):
        atograph.trace(nn.Linear(3, 8), torch.randn(2, 3), checks="no")  # type: ignore[arg-type]
