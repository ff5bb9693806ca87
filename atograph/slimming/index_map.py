"""The slim module as the training needs it: beside it, which indices of each dense tensor it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atograph.capture.model_state import current_state
from atograph.graph.graph import Graph
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.passes.rewrite.kept import Kept
from atograph.passes.torch_private import tree_leaves
from atograph.repair.paths.dead_code import with_dead_code
from atograph.slimming.slim import slim
from atograph.train.pruning.shrink import CannotShrink, where
from atograph.values.attributes import Attributes


@dataclass(frozen=True)
class Small:
    """A slim module.

    Attributes:
        module: the user's module made slim; it shares no tensor with the dense one, and is where example inputs are.
        kept: dense parameter or buffer → for each of its dimensions the indices that stay (int64, increasing), or None
            where all of them do; a tensor that is not listed is whole.
    """

    module: nn.Module
    kept: Mapping[str, tuple[Tensor | None, ...]]


def small_module(graph: Graph, plan: Plan) -> Small:
    """Make the module of a graph slim, with the weights that it has now.

    Raises:
        CannotShrink: the module cannot be made slim; the text says why.
    """
    if graph.model is None:
        raise CannotShrink("the graph was not traced from a module")
    home = next((parameter.device for parameter in graph.model.parameters()), torch.device("cpu"))
    examples = [leaf for leaf in tree_leaves(graph.program.interface.example) if isinstance(leaf, Tensor)]
    trained = graph.changed_attributes()
    try:
        graph.model.to(examples[0].device if examples else home)  # the module is checked where the example inputs are
        slimmed = slim(graph, plan)
        module, cuts = slimmed.module, _cuts(graph, plan)
    finally:
        graph.model.to(home)
    if module is None:
        raise CannotShrink(slimmed.why_no_module)
    small = Attributes(module).values()
    for name, value in trained.items():
        if isinstance(value, Tensor) and getattr(small.get(name), "shape", None) != value.shape:
            raise CannotShrink(f"{name} is no buffer, the training changes it, and it is cut: register it as a buffer")
    dense, own = current_state(graph.model), current_state(module)
    whole = {name for name in dense.keys() & own.keys() if dense[name].shape == own[name].shape}
    return Small(module, {name: each for name, each in cuts.items() if name not in whole})


def cut_state(graph: Graph, plan: Plan, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the dense module as the slim one has it, in copies.

    Raises:
        UserError: a tensor has another shape than the dense module's.
    """
    names = _names(graph)
    cuts = {names.get(name, name): each for name, each in _cuts(graph, plan).items()}
    result, gone = {}, _gone(graph, plan)
    for name, value in state.items():
        if names.get(name, name) in gone:
            continue
        each = cuts.get(names.get(name, name), ())
        sizes = graph.program.state[name].shape if name in graph.program.state else value.shape
        if value.shape != sizes:
            raise UserError(f"{name} has the shape {list(value.shape)}, and the dense model's is {list(sizes)}.")
        on_device = [None if cut is None else cut.to(value.device) for cut in each]
        result[name] = value.detach()[where(value, on_device)].clone()
    return result


@public("atograph")
def masked_state(graph: Graph, plan: Plan, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the slim module of a plan as the dense model has it: zero where units are gone.

    With it the dense model computes what the slim one does, whoever has trained that.

    Args:
        graph: of the dense model, which is only asked for its shapes.
        plan: what the slim module keeps.
        state: of the slim module; tensors in the dense model's shape stay as they are.

    Raises:
        UserError: a tensor has neither the slim module's shape nor the dense one's.
    """
    names = _names(graph)
    cuts = {names.get(name, name): each for name, each in _cuts(graph, plan).items()}
    dense = {} if graph.model is None else current_state(graph.model)
    result = {name: torch.zeros_like(value) for name, value in dense.items() if name not in state}
    for name, value in state.items():
        if name not in dense or value.shape == dense[name].shape:
            result[name] = value.detach().clone()
            continue
        on_device = [None if cut is None else cut.to(value.device) for cut in cuts.get(names.get(name, name), ())]
        whole = value.new_zeros(dense[name].shape)
        if whole[where(whole, on_device)].shape != value.shape:
            shapes = f"{list(value.shape)}, and the dense model's is {list(whole.shape)}"
            raise UserError(f"{name} has the shape {shapes}; the slim module's is another one, too.")
        whole[where(whole, on_device)] = value.detach()
        result[name] = whole
    return result


def _gone(graph: Graph, plan: Plan) -> set[str]:
    """The tensors that go with a branch, by the first of their names."""
    if not plan.emptied:
        return set()
    names, groups = _names(graph), graph.groups
    rest = groups.branches.without([groups[name].axis for name in plan.emptied])
    left = {names.get(name, name): node in rest.runs for node, name in graph.program.state_nodes()}
    layers: dict[str, bool] = {}  # whether anything is left of a layer: what the program does not read goes with it
    for name, runs in left.items():
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, False) or runs
    return {name for name in names.values() if not left.get(name, layers.get(name.rpartition(".")[0], True))}


def _names(graph: Graph) -> dict[str, str]:
    """Each name of a tensor of the dense module → the first name that it has: tied weights have several."""
    first: dict[int, str] = {}
    named = [] if graph.model is None else current_state(graph.model).items()
    return {name: first.setdefault(id(value), name) for name, value in named}


def _cuts(graph: Graph, plan: Plan) -> dict[str, tuple[Tensor | None, ...]]:
    """What is cut of each tensor, those among them that only code reads whose results nobody takes."""
    program = graph.program
    cuts, example = Kept.by(plan, program).state_cuts(program), program.interface.example
    if graph.model is not None and example is not None:
        whole = with_dead_code(graph.model, program, plan, example)
        cuts = {**({} if whole is None else whole.cuts), **cuts}
    return {
        name: tuple(None if cut is None else torch.from_numpy(cut) for cut in each)
        for name, each in cuts.items()
        if any(cut is not None for cut in each)
    }
