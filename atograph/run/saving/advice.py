"""What would let ``save_pretrained`` write the slim model: told before the training, when it can still be chosen."""

from __future__ import annotations

from torch import nn

from atograph.graph.graph import Graph
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.repair.saving import why_unsaved
from atograph.run.latency_budget import magnitude_plan
from atograph.run.saving.served import PRETRAINED, saved_parts
from atograph.slimming.slim import Slim, slim
from atograph.train.settings import TrainSettings


def saving_line(graph: Graph, slimmed: Slim, settings: TrainSettings) -> str:
    """Why a module like this one cannot be saved by ``save_pretrained``, and what to do; empty where it can."""
    why = "" if slimmed.module is None else _why_unsaved(slimmed.module)
    if not why:
        return ""
    tail = f"a run has no folder {PRETRAINED} then, and slim.save(folder) writes it all the same"
    if not graph.groups.kinds and _saves(graph, settings):
        tail += "; with --uniform a configuration can say the result"
    return f"save_pretrained will refuse a module slimmed like this: {why}; {tail}."


def length_line(program: Program, file: str) -> str:
    """That a file takes sequences of the example's length only; empty for inputs that are no tokens."""
    interface = program.interface
    dynamic = {(place.placeholder, place.dim) for size in interface.dynamic for place in size.places}
    for node in program.input_nodes():
        value = node.meta["val"]
        tokens = value.dim() == 2 and value.shape[1] > 1 and not (value.is_floating_point() or value.is_complex())
        if tokens and (node.name, 1) not in dynamic:
            advice = (
                f"--dynamic {node.name}:1=sequence makes the length free"
                if not interface.still
                else ("give example_inputs of the length that is deployed, and pad to it")
            )
            return f"{file} will take {node.name} of exactly {value.shape[1]} per sample, as in the example: {advice}."
    return ""


def _saves(graph: Graph, settings: TrainSettings) -> bool:
    """Whether a plan with uniform widths gives a module that can be saved."""
    try:
        steered = graph.steered(uniform=True)
        module: nn.Module | None = slim(steered, magnitude_plan(steered, settings)).module
    except UserError:  # the budget is out of reach then
        return False
    return module is not None and not _why_unsaved(module)


def _why_unsaved(module: nn.Module) -> str:
    """Why a part that a run writes as a folder cannot be; where it would write none, why any cannot be."""
    parts = [part for _path, part in saved_parts(module)] or [module]
    return next((why for part in parts if (why := why_unsaved(part))), "")
