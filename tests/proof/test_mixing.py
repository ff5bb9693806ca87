"""A language model that has lost all of its attentions is exact, and useless: that is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.proof.mixing import why_alone
from atograph.spec.example_inputs import Inputs

IDS = torch.tensor([[1, 2, 3, 4], [5, 5, 6, 5]])


class Layer(nn.Module):
    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mixes:
            q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.o(y.transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu())


class Language(nn.Module):
    def __init__(self, mixes: Sequence[bool]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10)
        self.layers = nn.ModuleList(Layer(each) for each in mixes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize(("mixes", "drop", "alone"), [
    ([True, True], ["layers.*.v"], True),
    ([True, True], ["layers.0.v"], False),
    ([True, True], ["layers.*.up"], False),
    ([False, False], ["layers.*.up"], False),
])  # fmt: skip
def test_a_network_whose_tokens_do_not_see_each_other_any_more(mixes: list[bool], drop: list[str], alone: bool) -> None:
    torch.manual_seed(0)
    model = Language(mixes).eval()
    graph = atograph.trace(model, IDS)
    slim = atograph.slim(graph, graph.steered(drop=drop).plan(kept={}))
    assert slim.plan.emptied
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = why_alone(model, slim, Inputs((IDS,), {}))
    assert said.startswith("each token is looked at alone") == alone
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_tells_it_before_and_after_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    result = atograph.compress(
        Language([True, True]), [IDS] * 2, example_inputs=IDS, loss=lambda model, ids: model(ids).square().mean(),
        epochs=1, device="cpu", drop=["layers.*.v"], quiet=False,
    )  # fmt: skip
    assert any(note.startswith("each token is looked at alone") for note in result.report.notes)
    printed = capsys.readouterr()
    assert "goes so far that each token is looked at alone" in " ".join((printed.out + printed.err).split())
