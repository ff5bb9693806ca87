"""Ways in for a dozen models: ``python -m benchmarks.programs`` prints the table of docs/programs.md.

Each model comes in as a module and in other forms. Of each form: how many of the module's prunable groups are found;
whether a random plan gives the masked network's numbers (float64: 1e-9; of float32 where it casts to that, and int8);
and whether the slim program is written to a file that is read again and gives the same.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import atograph
from atograph.passes.ir.program import Program
from atograph.passes.torch_private import pytree
from atograph.values.difference import TOLERANCES, relative_difference
from atograph.values.structures import tensors_of
from benchmarks.programs.int8_layers import in_int8
from benchmarks.programs.models import MODELS, Inputs

Way = Callable[[str, nn.Module, Inputs, Path], "tuple[object, nn.Module | None]"]
"""Gives, for a name of the table, what `atograph.trace` takes, and the module whose groups it is to have: None for the
one that is given."""


@lru_cache(maxsize=1)
def at_once(name: str) -> ExportedProgram:
    """A model of the table by torch.export, at the example's sizes."""
    torch.manual_seed(0)
    return exported(*MODELS[name]())


def exported(model: nn.Module, inputs: Inputs, *, sizes: bool = False) -> ExportedProgram:
    """By torch.export: at the example's sizes, or with all that may be dynamic."""
    args, kwargs = inputs
    shapes = pytree.tree_map(lambda leaf: dict.fromkeys(range(leaf.dim()), Dim.AUTO), (args, kwargs)) if sizes else None
    dynamic = None if shapes is None else (*shapes[0], *shapes[1].values())
    with torch.no_grad():
        return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)


def saved(program: ExportedProgram, folder: Path) -> Path:
    """As a file."""
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


class Turned(nn.Module):
    """A model whose first output is turned round where its sum is positive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        """The first output, or what it is turned round."""
        first = tensors_of(self.model(*args, **kwargs))[0]
        turned: torch.Tensor = torch.cond(first.sum() > 0, torch.neg, torch.clone, (first,))
        return turned


def int8(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """In int8, calibrated on the example: weights by channel, activations as a whole."""
    args, kwargs = pytree.tree_map(_float, inputs)
    return exported(in_int8(model.float(), *args), (args, kwargs))


def _float(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.float() if leaf.is_floating_point() else leaf


def loaded(_name: str, model: nn.Module, inputs: Inputs, folder: Path) -> tuple[object, nn.Module | None]:
    """The folder of a slim model, and its module."""
    graph = atograph.trace(model, *inputs)
    slim = atograph.slim(graph, graph.plan(random=1, keep=0.8))
    return slim.save(folder / "run"), slim.module


WAYS: dict[str, Way] = {
    "module": lambda name, model, inputs, folder: (model, None),
    "`.pt2`, fixed": lambda name, model, inputs, folder: (saved(at_once(name), folder), None),
    "`.pt2`, any size": lambda name, model, inputs, folder: (saved(exported(model, inputs, sizes=True), folder), None),
    "core ATen": lambda name, model, inputs, folder: (saved(at_once(name).run_decompositions(), folder), None),
    "pt2e int8": lambda name, model, inputs, folder: (saved(int8(model, inputs), folder), None),
    "control flow": lambda name, model, inputs, folder: (Turned(model).eval(), None),
    "loaded program": loaded,
    "fx": lambda name, model, inputs, folder: (at_once(name).module(), None),
    "jit.trace": lambda name, model, inputs, folder: (torch.jit.trace(model, inputs[0], strict=False), None),
}


def cell(way: Way, name: str, model: nn.Module, inputs: Inputs, known: list[Counter[int]]) -> str:
    """What came of one way: groups found of those of the module, and what is wrong, if anything is.

    Args:
        way: how it comes in.
        name, model, inputs: of `program_models.MODELS`.
        known: the groups of the module, once they were looked for.
    """
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        given, module = way(name, model, inputs, Path(place))
        own = () if isinstance(given, Path) else inputs
        graph = atograph.trace(given, *own)
        found = sizes_of(graph)
        if not known:
            known.append(found)
        wanted = known[0] if module is None else sizes_of(atograph.trace(module, *inputs))
        words = [f"{(found & wanted).total()}/{wanted.total()}"]
        if not graph.prunable:
            return words[0]
        plan = graph.plan(random=0)
        slim = atograph.slim(graph, plan)
        example = graph.program.interface.example
        assert example is not None and graph.model is not None
        reference = tensors_of(atograph.mask(graph.model, plan)(*example[0], **example[1]))
        wide = reference[0].dtype is torch.float64 and not casts(graph.program)
        tolerance = 1e-9 if wide else TOLERANCES[torch.float32]
        difference = apart(reference, tensors_of(slim(*example[0], **example[1])))
        words += [] if difference <= tolerance else [f"apart by {difference:.0e}"]
        slim.save(Path(place) / "slim")
        again = tensors_of(atograph.load(Path(place) / "slim")(*example[0], **example[1]))
        words += [] if apart(reference, again) <= tolerance else ["the file is another one"]
        return ", ".join(words)


def casts(program: Program) -> bool:
    """Whether a program computes in float32 by itself, as norms of transformers do."""
    return any(torch.float32 in (*node.args, *node.kwargs.values()) for node in program.graph.nodes)


def apart(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest relative difference."""
    return max(relative_difference(a, b) for a, b in zip(one, other, strict=True))


def sizes_of(graph: atograph.Graph) -> Counter[int]:
    """The sizes of the groups that can be pruned."""
    return Counter(group.size for group in graph.prunable)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs", description=__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all of them")
    parser.add_argument("--way", action="append", choices=WAYS, help="beside the module; default: all of them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ways = ["module", *(way for way in WAYS if way != "module" and way in (options.way or WAYS))]
    print(f"| model | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}", flush=True)
    for name in options.model or MODELS:
        print(f"| {name} |", end="", flush=True)
        known: list[Counter[int]] = []
        for way in ways:
            torch.manual_seed(0)
            model, inputs = MODELS[name]()
            try:
                text = cell(WAYS[way], name, model, inputs, known)
            except Exception as error:  # is shown in the table
                text = "told" if "torch.jit.trace" in str(error) else f"{type(error).__name__}: {str(error)[:120]}"
                text = " ".join(text.split())
            print(f" {text} |", end="", flush=True)
        print(flush=True)
