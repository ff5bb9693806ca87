"""One model of the zoo as its own module, slim, under a plan that keeps a random half of every group."""

from __future__ import annotations

import torch

import atograph
from benchmarks.exact import in_float64, perturb, settle
from benchmarks.models import build
from benchmarks.zoo.part import Record


def measure(name: str, record: Record) -> None:
    """Fill in the part ``module`` of a row, in float64 where the model runs in it, so that differences show."""
    torch.set_num_threads(1)
    model, inputs = build(name)
    perturb(model)
    settle(model, *inputs)
    inputs, no_float64 = in_float64(model, inputs)
    if no_float64:
        record.add(no_float64=no_float64)
    graph = atograph.trace(model, *inputs)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    with record.stage("module"):
        record.add(slim=slim.module is not None, why_not=slim.why_no_module)
    attributes = [repair for repair in slim.repairs if " → " in repair]
    record.add(attributes=len(attributes), calls=len(slim.repairs) - len(attributes))
