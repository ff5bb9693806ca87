"""What an exported program knows besides its graph: names in files, what such a file says, conditions of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import sympy
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import free_symbols, is_symbolic

from atograph.passes.errors import UserError
from atograph.passes.ir.about import About
from atograph.passes.ir.interface import Ways
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import BATCH
from atograph.passes.ir.state import file_names

SizeNames: TypeAlias = Mapping[str, Mapping[int, str]]
"""Input → dim → what its size is called: ``{"x": {2: "32*height"}}``."""


_SIZES, _NAMES, _WAYS, _ABOUT = "atograph.sizes", "atograph.names", "atograph.ways", "atograph.about"


def size_names(exported: ExportedProgram) -> SizeNames:
    """What the dynamic sizes of a program's inputs are called, besides the batch, as far as it was told."""
    names: SizeNames = exported.graph_module.meta.get(_SIZES, {})
    return names


def with_size_names(exported: ExportedProgram, names: SizeNames) -> ExportedProgram:
    """The same program, which knows what sizes of its inputs are called."""
    exported.graph_module.meta[_SIZES] = names
    return exported


def ways_of(exported: ExportedProgram) -> Ways:
    """What has to hold of the sizes of a program besides their limits (`Interface.ways`)."""
    ways: Ways = exported.graph_module.meta.get(_WAYS, ())
    return ways


def with_ways(exported: ExportedProgram, ways: Ways) -> ExportedProgram:
    """The same program, which knows what has to hold of its sizes."""
    exported.graph_module.meta[_WAYS] = ways
    return exported


def names_in_files(exported: ExportedProgram) -> Mapping[str, str]:
    """Input or output of a program → what a file calls it, where that is another name."""
    names: Mapping[str, str] = exported.graph_module.meta.get(_NAMES, {})
    return names


def with_file_names(exported: ExportedProgram, names: Mapping[str, str]) -> ExportedProgram:
    """The same program, which knows what files call its inputs and outputs."""
    exported.graph_module.meta[_NAMES] = names
    return exported


def about_of(exported: ExportedProgram) -> About:
    """What the file that a program comes from says of itself."""
    about: About = exported.graph_module.meta.get(_ABOUT, About())
    return about


def with_about(exported: ExportedProgram, about: About) -> ExportedProgram:
    """The same program, which knows what the file that it comes from says of itself."""
    exported.graph_module.meta[_ABOUT] = about
    return exported


def names_of_sizes(exported: ExportedProgram, program: Program) -> SizeNames:
    """What the sizes of an exported program's inputs are called.

    Raises:
        UserError: torch.export has made a number of one, or takes two of them for one.
    """
    name_of, shapes = _called(exported, program), _shapes(exported)
    names: dict[str, dict[int, str]] = {}
    meant: dict[sympy.Symbol, str] = {}
    nodes = {node.name: node for node in program.input_nodes()}
    for placeholder, own in name_of.items():
        if placeholder is not None and own in shapes and _is_batch(nodes[placeholder]):
            meant |= dict.fromkeys(free_symbols(shapes[own][0]), "batch")
    for size in program.interface.dynamic:
        for place in size.places:
            own = name_of[place.placeholder]
            symbols = free_symbols(shapes[own][place.dim])
            (symbol, *others) = symbols or (None,)
            other = None if others or size.parts else meant.setdefault(symbol, size.name)
            if symbol is None or other not in (None, size.name):
                what = "makes a constant of" if symbol is None else f"takes for the same as {other}"
                raise UserError(
                    f"torch.export {what} the size {size.name} (dim {place.dim} of {own}) here.",
                    hint="Leave it out of dynamic=, or --dynamic.",
                )
            names.setdefault(own, {})[place.dim] = size.text(place)
    return names


def all_file_names(exported: ExportedProgram, program: Program) -> dict[str, str]:
    """What files call inputs, outputs and sizes of an exported program, where that is another name (`file_names`).

    torch.export writes the names of inputs in small letters, and leaves out of them what is no ASCII.
    """
    names, found = file_names(program), dict[str, str]()
    for placeholder, own in _called(exported, program).items():
        if placeholder is not None:
            told = names.pop(placeholder, placeholder if placeholder.lower() == own else own)
            found |= {own: told} if told != own else {}
    return {**names, **found}


def input_symbols(exported: ExportedProgram, program: Program) -> dict[str, sympy.Symbol]:
    """Dynamic size → the symbol that torch.export has for it, where it has one for it alone."""
    name_of, shapes = _called(exported, program), _shapes(exported)
    places = {size.name: size.places[0] for size in program.interface.dynamic}
    dims = {name: shapes[name_of[place.placeholder]][place.dim] for name, place in places.items()}
    return {name: dim.node.expr for name, dim in dims.items() if is_symbolic(dim) and dim.node.expr.is_Symbol}


def _called(exported: ExportedProgram, program: Program) -> dict[str | None, str]:
    """Placeholder of an input → what the exported program calls it."""
    specs = exported.graph_signature.input_specs
    called = [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
    return dict(zip(program.interface.inputs, called, strict=False))


def _shapes(exported: ExportedProgram) -> dict[str, Any]:
    return {n.name: n.meta["val"].shape for n in exported.graph.nodes if hasattr(n.meta.get("val"), "shape")}


def _is_batch(node: fx.Node) -> bool:
    shape = list(getattr(node.meta.get("val"), "shape", ()))
    return bool(shape) and int(shape[0]) == BATCH
