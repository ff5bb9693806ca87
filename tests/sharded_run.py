"""Small trainings of a sharded model, run by `test_train_sharded.py` in two processes: ``sharded_run.py FOLDER``."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import atograph
from atograph.slimming.index_map import small_module
from atograph.train import Task, auto_train_once
from atograph.train.processes.replicas import join
from atograph.train.pruning.selection import BY_CRITERION, GivenPlan, GivenScores, Selection
from atograph.train.settings import settings_of

KINDS: dict[str, dict[str, Any]] = {
    "progressive": {"method": "progressive", "optimizer": "adamw", "accumulate": 2, "clip": 1.0, "slim_at": "never"},
    "ato": {"controller_min_steps": 12, "slim_at": "never"},
    "budget": {"controller_search": "budget", "controller_masked": 0.3, "controller_min_steps": 12, "slim_at": "never"},
    "magnitude": {"controller": False, "prior": "magnitude", "metric_mode": "max", "ema": 0.5, "slim_at": "never"},
    "plan": {"method": "progressive", "slim_at": "never"},
    "scores": {"method": "at-once", "slim_at": "never"},
}


def selection_for(kind: str, graph: atograph.Graph) -> Selection:
    """What decides: a plan that is given, scores, or the criterion."""
    if kind == "plan":
        return GivenPlan(graph.plan(random=3, keep=0.6))
    if kind == "scores":
        return GivenScores({group.name: torch.arange(group.size) * 0.37 % 1 for group in graph.prunable})
    return BY_CRITERION


class Block(nn.Module):
    """Tied to nothing, with a width of its own."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Net(nn.Module):
    """Widths that two processes do not share evenly, and a head of one row, which one of them has nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 13)
        self.blocks = nn.ModuleList([Block(13, 17), Block(13, 9)])
        self.head = nn.Linear(13, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def train(kind: str, *, shard: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained weights, and what else has to agree."""
    torch.manual_seed(0)
    model = Net().double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(90, 6, generator=generator).double()
    y = x[:, :1].sin() + x[:, 1:2]
    data = list(zip(x.split(15), y.split(15), strict=True))
    graph = atograph.trace(model, x[:2])
    selection = selection_for(kind, graph)
    budget = {} if kind == "plan" else {"flops": 0.5}
    asked = settings_of({**budget, "epochs": 4, "device": "cpu", "lr": 0.02, "shard": shard, **KINDS[kind]})
    settings = selection.fitted(graph.groups, graph.program, selection.adapted(asked))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    task = Task(data, data[:3], loss=loss, metric=lambda model, batch: -float(loss(model, batch)))
    run = auto_train_once(model, graph, task, settings, shrink=partial(small_module, graph), selection=selection)
    rows = [[row.loss, row.metric, row.flops] for row in run.history]
    told = {"kept": run.plan.kept, "rows": rows, "best": run.best_epoch}
    return model.state_dict(), {**told, "slim_from": run.slim_from, "why_dense": run.why_dense}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for kind in KINDS:
        weights, told = train(kind, shard=True)
        rank = join("cpu").rank
        save_file(weights, folder / f"{kind}.{rank}.safetensors")
        (folder / f"{kind}.{rank}.json").write_text(json.dumps(told))
