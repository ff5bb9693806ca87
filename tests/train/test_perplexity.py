"""The perplexity of a language model: over all tokens of the data, and of each form of the network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.train import Perplexity
from atograph.train.task import Task

_CPU = torch.device("cpu")


class Words(nn.Module):
    """Tells of each token which one comes next, as a dict, and never looks at the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(11, 8), nn.Linear(8, 32), nn.Linear(32, 11)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.hidden(self.embed(input_ids)).relu())
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def rows(count: int, length: int, seed: int) -> dict[str, Tensor]:
    ids = torch.randint(11, (count, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def test_it_is_over_all_tokens_and_none_that_are_marked() -> None:
    torch.manual_seed(0)
    net, data = Words().eval(), [rows(3, 6, 0), rows(1, 9, 1)]
    data[1]["labels"] = data[1]["labels"].clone()
    data[1]["labels"][:, 4:] = -100
    loss = nn.CrossEntropyLoss(reduction="sum")
    summed = 15 * net(**data[0])["loss"] + loss(net(data[1]["input_ids"])["logits"][0, :3], data[1]["labels"][0, 1:4])
    task = Task(data, data, metric=Perplexity)
    assert task.evaluate(net, data, _CPU) == pytest.approx(math.exp(summed.item() / 18))
    assert task.better == "min" and Task(data).better == "max"


def test_labels_that_stand_where_they_are_predicted() -> None:
    metric, logits = Perplexity(shift=0), torch.zeros(1, 2, 4)
    logits[0, 0, 3] = logits[0, 1, 1] = 100
    metric.update(logits, torch.tensor([[3, 1]]))
    assert metric.compute() == pytest.approx(1)
    metric.reset()
    assert metric.compute() is None
    with pytest.raises(UserError, match="logits \\[N, T, C\\] and labels"):
        metric.update(logits[0], torch.tensor([3, 1]))


def test_a_run_measures_it_of_every_form() -> None:
    torch.manual_seed(0)
    data = [rows(4, 6, seed) for seed in range(4)]
    found = atograph.compress(
        Words(), data, val_data=data, metric=Perplexity(), flops=0.7, method="magnitude", epochs=1, outputs=["logits"]
    ).report.metrics
    assert found.name == "Perplexity" and found.masked is not None and found.masked < 100
    assert found.masked == pytest.approx(found.slim) == pytest.approx(found.onnx)


def test_labels_that_are_missing_are_told_how_to_make() -> None:
    data = [{"input_ids": rows(2, 6, 0)["input_ids"]}]
    with pytest.raises(UserError, match="needs a loss in the output or labels") as error:
        atograph.compress(Words(), data, flops=0.7)
    assert error.value.hint is not None and '"labels": input_ids' in error.value.hint
