"""What atograph does with one model of the zoo: captured, analysed, planned, made slim, and proved equal in float64."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn

import atograph
from atograph.capture.to_program import capture
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.proof.flop_count import count_flops
from atograph.values.batch_size import with_batch
from atograph.values.structures import tensors_of
from benchmarks.exact import Inputs, as_double, compare_plan, perturb, settle
from benchmarks.models import build
from benchmarks.zoo.part import Record, first_line, forget_imports

PLANS: dict[str, dict[str, Any]] = {"random": {"random": 0, "keep": 0.5}, "magnitude": {"flops": 0.3}}
"""The plans that are proved exact: a random half of every group, and 0.3 of the FLOPs by magnitude."""

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def measure(name: str, record: Record) -> None:
    """Fill in the part ``atograph`` of a row: one model from first to last, which all of it has to leave as it is."""
    torch.set_num_threads(1)
    with record.stage("warm-up"):
        _job(tiny_network(), ((torch.randn(2, 3, 8, 8),), {}), Record())
    forget_imports()
    with record.stage("build"):
        model, inputs = build(name)
    graph = _job(model, inputs, record)
    again = graph.program.rewritten(graph.program.graph, graph.program.state)
    with record.stage("analysis warm"):  # no import and no cache is new to it
        Pipeline.parse(ANALYSE).run(again)
    prove(model, inputs, record)


def tiny_network() -> nn.Module:
    """What a process tries first, so that imports on first use count for no model."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
    ).eval()


def _job(model: nn.Module, inputs: Inputs, record: Record) -> atograph.Graph:
    """From the model to its slim program, stage by stage, with what the graph says on the way."""
    with record.stage("capture"):
        program = capture(model, *inputs)
    record.add(nodes=len(program.graph.nodes))
    with record.stage("analysis"):
        program = Pipeline.parse(ANALYSE).run(program)
    graph = atograph.Graph(program, model)
    record.add(**describe(graph))
    with record.stage("plan"):
        try:
            plan = graph.plan(**PLANS["magnitude"])
        except UserError:  # recorded where the plan is proved
            plan = graph.plan(**PLANS["random"])
    with record.stage("rewrite"):
        atograph.slim(graph, plan)
    return graph


def describe(graph: atograph.Graph) -> dict[str, Any]:
    """What the analysis found: ops without a rule, groups, and how much of the model can go."""
    nothing = {group.name: 0 for group in graph.prunable}
    frozen = Counter(group.frozen.text for group in graph.groups if group.frozen is not None)
    return {
        "unknown": graph.program.fact(Axes).unknown,
        "groups": len(graph.prunable),
        "units": sum(group.size for group in graph.prunable),
        "share": 1 - int(graph.cost.params(nothing)) / max(1, graph.params),
        "smallest": graph.smallest(floor=0.0) / max(1, graph.flops),
        "frozen": dict(frozen.most_common()),
    }


def prove(model: nn.Module, inputs: Inputs, record: Record) -> atograph.Graph:
    """Compare masked and slim at both plans, in float64 where the model runs in it. Gives the graph of the plans."""
    perturb(model)
    with record.stage("dense in float64"):
        try:
            inputs_used, dense = _run(model.double(), as_double(inputs))
        except RuntimeError as error:  # a kernel that knows no float64
            record.add(no_float64=first_line(error))
            inputs_used, dense = _run(model.float(), inputs)
    with record.stage("trace in float64"):
        graph = atograph.trace(model, *inputs_used)
    record.add(float32_inside=casts(graph.program))
    for name, how in PLANS.items():
        with record.stage(f"{name} plan"):
            try:
                record.add(**{name: _proof(graph, how, inputs_used, dense)})
            except Exception as error:
                record.add(**{name: {"error": first_line(error)}})
    return graph


def _run(model: nn.Module, inputs: Inputs) -> tuple[Inputs, list[torch.Tensor]]:
    settle(model, *inputs)
    with torch.no_grad():
        return inputs, tensors_of(model(*inputs[0], **inputs[1]))


def _proof(graph: atograph.Graph, how: dict[str, Any], inputs: Inputs, dense: list[torch.Tensor]) -> dict[str, Any]:
    try:
        plan = graph.plan(**how)
    except UserError as refusal:
        return {"refused": refusal.message}
    found = compare_plan(graph, plan, inputs, dense)
    sizes = {group.name: group.size for group in graph.prunable if group.size > 1}
    args, kwargs = with_batch(inputs, 1)
    return {
        "difference": found.difference,
        "moved": found.moved,
        "alive": found.alive,
        "kept": found.slim.flops / max(1, graph.flops),
        "predicted": found.slim.flops,
        "counted": count_flops(found.slim, *args, **kwargs),
        "degenerate": bool(sizes) and all(plan.counts[name] == 1 for name in sizes),
        "at_one_unit": sum(plan.counts[name] == 1 for name in sizes),
    }


def casts(program: Program) -> bool:
    """Whether a float64 program computes something in a narrower float."""
    graphs = [module.graph for module in program.modules() if isinstance(module, fx.GraphModule)]
    return any(
        isinstance(value, torch.Tensor) and value.dtype in _NARROW
        for graph in graphs
        for node in graph.nodes
        if node.op == "call_function"
        for value in _values(node.meta.get("val"))
    )


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
