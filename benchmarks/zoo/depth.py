"""One model of the zoo without whole branches: a random half of every group, and half of the groups that may go."""

from __future__ import annotations

import torch

import atograph
from atograph.proof.flop_count import count_flops
from atograph.values.batch_size import with_batch
from benchmarks.exact import compare_plan, in_float64, perturb, settle
from benchmarks.models import build
from benchmarks.zoo.part import Record
from benchmarks.zoo.row import casts


def measure(name: str, record: Record) -> None:
    """Fill in the part ``depth`` of a row, in float64 where the model runs in it."""
    torch.set_num_threads(1)
    model, inputs = build(name)
    perturb(model)
    settle(model, *inputs)
    inputs, no_float64 = in_float64(model, inputs)
    if no_float64:
        record.add(no_float64=no_float64)
    graph = atograph.trace(model, *inputs)
    may_go = [group.name for group in graph.groups.emptying().prunable if group.least == 0]
    record.add(may_go=len(may_go), float32_inside=casts(graph.program))
    if not may_go:
        return
    plan = graph.plan(random=0, keep=0.5, depth=True)
    record.add(emptied=len(plan.emptied))
    with record.stage("proof"):
        found = compare_plan(graph, plan, inputs)
        args, kwargs = with_batch(inputs, 1)
        counted = count_flops(found.slim, *args, **kwargs)
        record.add(difference=found.difference, moved=found.moved, alive=found.alive)
        record.add(predicted=found.slim.flops, counted=counted, kept=found.slim.flops / max(1, graph.flops))
    with record.stage("module"):
        record.add(slim=found.slim.module is not None, why_not=found.slim.why_no_module)
