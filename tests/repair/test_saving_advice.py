"""Before the training: that save_pretrained will refuse, what to do about it, and what length a file takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_repair_config import Config, Model
from torch import Tensor, nn

import atograph
from atograph.run.latency_budget import magnitude_plan
from atograph.run.saving.advice import length_line, saving_line
from atograph.train.settings import TrainSettings


class Saving(Model):
    def save_pretrained(self, folder: str) -> None:
        raise AssertionError


def line(model: nn.Module, flops: float, **steering: Any) -> str:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    graph = atograph.trace(model.eval(), torch.randn(2, 6, 5)).steered(**steering)
    settings = TrainSettings(flops=flops)
    return saving_line(graph, atograph.slim(graph, magnitude_plan(graph, settings)), settings)


def test_what_it_advises_can_be_saved() -> None:
    told = line(Saving(Config()), 0.8)
    assert told.startswith("save_pretrained will refuse a module slimmed like this: ") and "slim.save(folder)" in told
    assert told.endswith("with --uniform a configuration can say the result.")
    assert line(Saving(Config()), 0.8, uniform=True) == ""


def test_nothing_is_advised_that_would_not_help() -> None:
    told = line(Saving(Config()), 0.9, freeze=["stem:out", "blocks.0.up", "blocks.0.qkv"])  # one layer cannot stay
    assert told.startswith("save_pretrained will refuse") and "--uniform" not in told


def test_who_saves_by_other_means_is_told_nothing() -> None:
    assert line(Model(Config()), 0.8) == ""


class Taking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(ids.float().flatten(1).mean(1, keepdim=True))


@pytest.mark.parametrize(("ids", "dynamic", "said"), [
    (torch.zeros(2, 9, dtype=torch.long), None, "ids of exactly 9 per sample, .*--dynamic ids:1=sequence"),
    (torch.zeros(2, 7, dtype=torch.int32), None, "ids of exactly 7 per sample"),
    (torch.zeros(2, 7, dtype=torch.int32), {"ids": {1: "sequence"}}, "^$"),
    (torch.zeros(2, 9), None, "^$"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None, "^$"),
])  # fmt: skip
def test_tokens_have_the_length_of_the_example(ids: Tensor, dynamic: Any, said: str) -> None:
    program = atograph.trace(Taking(), ids, dynamic=dynamic).program
    assert re.search(said, length_line(program, "slim.onnx"))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(8, 4), nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.up(self.embed(words)).relu().mean(1))


@pytest.mark.long
def test_a_run_says_so_before_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    data = [(torch.randint(8, (4, 6)), torch.tensor([0, 1, 0, 1]))]
    atograph.compress(Words(), data, flops=0.6, epochs=1, method="magnitude", quiet=False)
    told = capsys.readouterr().out
    assert 0 <= told.index("slim.onnx will take words of exactly 6") < told.index("epoch 1/1")
