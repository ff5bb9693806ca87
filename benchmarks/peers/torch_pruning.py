"""Torch-Pruning on a model of the zoo, out of the box: half of every Conv and Linear goes, then the model runs, or not.

It is no dependency of atograph: ``pip install --no-deps torch-pruning==1.6.1``.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from benchmarks.exact import Inputs
from benchmarks.models import build
from benchmarks.zoo.part import Record, first_line, forget_imports
from benchmarks.zoo.row import tiny_network

INSTALL = "pip install --no-deps torch-pruning==1.6.1"


def installed() -> bool:
    """Whether Torch-Pruning can be imported."""
    return importlib.util.find_spec("torch_pruning") is not None


def measure(name: str, record: Record) -> None:
    """Fill in the part ``torch-pruning`` of a row: what became of the model, and seconds per stage."""
    torch.set_num_threads(1)
    with record.stage("warm-up"):
        _prune(tiny_network(), ((torch.randn(2, 3, 8, 8),), {}), Record())
    forget_imports()
    model, inputs = build(name)
    before = _parameters(model)
    _prune(model, inputs, record)
    seconds = record.values["seconds"]
    record.add(total=seconds["dependencies"] + seconds["prune"])
    if _parameters(model) == before:
        record.add(outcome="pruned nothing")
        return
    with record.stage("run"), torch.no_grad():
        try:
            model(*inputs[0], **inputs[1])
            record.add(outcome="ran", params=_parameters(model) / before)
        except Exception as error:
            record.add(outcome="failed", error=f"after pruning: {first_line(error)}")


def _prune(model: nn.Module, inputs: Inputs, record: Record) -> None:
    """Plan and prune; both happen in the pruner's one step."""
    import torch_pruning as tp

    args, kwargs = inputs
    with record.stage("dependencies"):
        pruner = tp.pruner.BasePruner(
            model, kwargs or args, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5
        )
    with record.stage("prune"):
        pruner.step()


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
