"""One small training, run by `test_train_replicas.py` in one process or in two: ``replicas_run.py FOLDER``."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import atograph
from atograph.slimming.index_map import small_module
from atograph.train import Task, TrainSettings, auto_train_once
from atograph.train.processes import overlap
from atograph.train.processes.replicas import join


class Net(nn.Module):
    """Without batch norm: its statistics are those of a process's own part of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(1, 8)
        self.conv2, self.unused = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Linear(3, 3)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.norm(self.conv1(x)).relu()).relu().mean((2, 3)))


def data(kind: str) -> Any:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(96, 1, 8, 8, generator=generator)
    y = (x.mean((1, 2, 3)) * 40).long().clamp(0, 9)
    if kind in ("list", "accumulate"):  # of uneven parts in two processes
        return list(zip(x.split(15), y.split(15), strict=True))
    if kind == "validation":
        return DataLoader(TensorDataset(x[:33], y[:33]), batch_size=16)
    order = torch.Generator().manual_seed(4)
    return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=order)


def train(kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained weights, and what else has to agree."""
    torch.manual_seed(0 if kind != "loader" else join("cpu").rank)  # the first process's initial weights are everyone's
    model = Net()
    settings = TrainSettings(flops=0.5, epochs=4, device="cpu", controller_min_steps=8, lr=0.02)
    if kind == "accumulate":
        settings = settings.model_copy(update={"accumulate": 2})
    graph = atograph.trace(model, torch.randn(2, 1, 8, 8))
    task = Task(data(kind), data("validation"))
    run = auto_train_once(model, graph, task, settings, shrink=partial(small_module, graph))
    rows = [[row.loss, row.metric, row.flops] for row in run.history]
    return model.state_dict(), {"kept": run.plan.kept, "rows": rows, "slim_from": run.slim_from}


def averaged() -> dict[str, Tensor]:
    """Gradients of passes that differ between the processes, averaged while they come; those before count as well."""
    rank = join("cpu").rank
    parameters = {name: nn.Parameter(torch.ones(6)) for name in ("frozen", "first", "one", "twice", "last", "none")}
    parameters["frozen"].requires_grad_(False)
    parameters["first"].grad = torch.full((6,), 10.0)
    with join("cpu").averaging(parameters.values()):
        loss = sum((rank + 1) * parameters[name].sum() for name in ("first", "twice", "last"))
        (loss + parameters["one"].sum() if rank else loss).backward()  # type: ignore[union-attr, operator]
        if rank:
            (4 * parameters["twice"]).sum().backward()  # its bucket is on its way
    assert not any(parameter._post_accumulate_grad_hooks for parameter in parameters.values())  # type: ignore[attr-defined]
    return {name: each.grad for name, each in parameters.items() if each.grad is not None}


if __name__ == "__main__":
    torch.set_num_threads(1)
    overlap.BUCKET = 48  # so that there are many
    folder = Path(sys.argv[1])
    save_file(averaged(), folder / f"averaged.{join('cpu').rank}.safetensors")
    for kind in ("list", "loader", "accumulate"):
        weights, told = train(kind)
        rank = join("cpu").rank
        save_file(weights, folder / f"{kind}.{rank}.safetensors")
        (folder / f"{kind}.{rank}.json").write_text(json.dumps(told))
