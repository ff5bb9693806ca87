"""What a model's outputs are called, and programs that return some of them only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx

from atograph.passes.errors import UserError
from atograph.passes.ir.interface import Interface
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.torch_private import TreeSpec, pytree

OutputPath = tuple[str, ...]
"""The keys and positions that lead to a value within a structure: ``("1", "feats")``."""

_LEFT_OUT, _SHOWN = object(), 6
_SIZE = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class Output:
    """One tensor that a model returns.

    Attributes:
        path: where it stands in what the model returns.
        name: as an ONNX file has it.
    """

    path: OutputPath
    name: str

    def is_meant_by(self, text: str) -> bool:
        """Whether a name or a glob stands for it: its own name, its path, or what holds it.

        ``feats.0`` is called ``feats_0`` in a file; ``feats`` stands for all of it. Positions need no ``output_``.
        """
        heads = [self.path[:count] for count in range(1, len(self.path) + 1)]
        forms = [self.name, *(sep.join(head) for head in heads for sep in ("_", ".")), *map(plain_name, heads)]
        return text in forms or any(fnmatchcase(form, text) for form in forms)


def plain_name(path: OutputPath) -> str:
    """What an output is called: ``logits``; ``output_0`` where a position comes first; ``output`` for a lone tensor."""
    return "_".join(path if path and not path[0].isdigit() else ("output", *path))


def names_of(paths: Iterable[OutputPath], taken: Iterable[str]) -> list[str]:
    """One name for each output; one that an input has, or an output before, gets ``_out``."""
    known, names = {*taken}, []
    for path in paths:
        name = plain_name(path)
        while name in known:
            name += "_out"
        known.add(name)
        names.append(name)
    return names


def paths_of(structure: TreeSpec) -> list[OutputPath]:
    """For each leaf of a structure the way to it."""
    return [path for path, _ in _leaves(pytree.tree_unflatten(range(structure.num_leaves), structure))]


def outputs_of(program: Program) -> list[Output]:
    """The tensors that a program returns, in order."""
    tensors = [path for path, value in _returned(program) if _is_tensor(value)]
    return [*map(Output, tensors, names_of(tensors, (node.name for node in program.input_nodes())))]


def without(value: object, left_out: Collection[OutputPath]) -> object:
    """What a model returns, with None for what is left out of it; a container of nothing else is None, too."""
    if not left_out:
        return value
    leaves, structure = pytree.tree_flatten(value)
    chosen = [_LEFT_OUT if path in left_out else leaf for path, leaf in zip(paths_of(structure), leaves, strict=True)]
    return pytree.tree_map(_kept, pytree.tree_unflatten(chosen, structure), is_leaf=_is_left_out)


def returning(program: Program, names: Sequence[str]) -> Program:
    """A program that returns some of its outputs only, without the code that only the others need.

    What is left out is None in what it returns; what is no tensor stays.

    Args:
        program: without facts.
        names: of the outputs, or globs (`Output.is_meant_by`).

    Raises:
        UserError: one of them stands for no output.
    """
    outputs = outputs_of(program)
    read = {output for text in names for output in meant(text, outputs)}
    left_out = [output for output in outputs if output not in read]
    if not left_out:
        return program
    graph, nodes = copy_graph(program.graph)
    paths = {output.path for output in left_out}
    values = [None if path in paths else nodes.get(value, value) for path, value in _returned(program)]
    leaves, structure = pytree.tree_flatten(without(pytree.tree_unflatten(values, program.interface.returns), paths))
    writes = {name: nodes[value] for name, value in _still_written(program, paths).items()}
    output = next(iter(reversed(graph.nodes)))
    output.args = ([*writes.values(), *leaves],)
    dead = drop_dead_code(graph)
    places, kept = paths_of(program.interface.returns), {path: place for place, path in enumerate(paths_of(structure))}
    pairs = {name: places[place] for name, place in program.interface.state_pairs.items()}
    interface = replace(
        program.interface,
        returns=structure,
        writes=tuple(writes),
        outputs=tuple(output.name for output in outputs if output in read),
        left_out={output.name: output.path for output in left_out},
        dead=dead or program.interface.dead,
        state_pairs={name: kept[path] for name, path in pairs.items() if path not in paths},
    )
    return Program.build(graph, interface, program.state, root=program)


def without_unread(program: Program) -> Program:
    """The same program, which ignores the inputs that nothing reads, or nothing but sizes that another one has as well.

    Args:
        program: without facts.
    """
    graph, nodes = copy_graph(program.graph)
    inputs = [nodes[node] for node in program.input_nodes()]
    read = [node for node in inputs if any(user.target is not _SIZE for user in node.users)]
    tells = {size: (node, dim) for node in reversed(read) for dim, size in enumerate(_sizes(node))}
    for node in inputs:
        for user in () if node in read else list(node.users):
            teller = tells.get(_sizes(node)[user.args[1]])  # type: ignore[index]
            user.args = user.args if teller is None else teller
    unread = {node.name for node in inputs if not node.users}
    for node in inputs:
        if not node.users:
            graph.erase_node(node)
    interface = program.interface
    dynamic = [
        replace(size, places=tuple(place for place in size.places if place.placeholder not in unread))
        for size in interface.dynamic
    ]
    told = {size.name for size in dynamic if size.places}
    interface = replace(
        interface,
        ways=tuple(tuple(each for each in way if each.names <= told) for way in interface.ways),
        inputs=tuple(None if name in unread else name for name in interface.inputs),
        dynamic=tuple(size for size in dynamic if size.places),
        state_pairs={name: place for name, place in interface.state_pairs.items() if name not in unread},
    )
    return Program.build(graph, interface, program.state, root=program)


def _sizes(node: fx.Node) -> Sequence[int]:
    value = node.meta.get("val")
    return value.shape if isinstance(value, torch.Tensor) else ()


def left_out_text(interface: Interface) -> str:
    """What is left out, in words: a container by its own name where nothing of it is returned."""
    opened = {path[:1] for path in paths_of(interface.returns) if len(path) > 1}
    names = [name if path[:1] in opened else plain_name(path[:1]) for name, path in interface.left_out.items()]
    names = list(dict.fromkeys(names))
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_left_out(value: object) -> bool:
    leaves = pytree.tree_leaves(value)
    return bool(leaves) and all(leaf is _LEFT_OUT for leaf in leaves)


def _kept(value: object) -> object:
    return None if _is_left_out(value) else value


def _still_written(program: Program, left_out: Collection[OutputPath]) -> dict[str, fx.Node]:
    """Placeholder → new value, for what a call writes, but for state that only outputs read which are left out."""
    new = dict(zip(program.interface.writes, program.output_node.args[0], strict=False))  # type: ignore[arg-type]
    results = dict(_returned(program))
    read = _behind(value for path, value in results.items() if path in left_out)
    needed = [value for path, value in results.items() if path not in left_out]
    kept: dict[str, fx.Node] = {}
    while True:
        before = _behind([*needed, *kept.values()])
        more = {name: value for name, value in new.items() if name in before or name not in read}
        if more == kept:
            return kept
        kept = more


def _behind(values: Iterable[object]) -> set[str]:
    """The names of all nodes that some values are computed from."""
    found: set[fx.Node] = set()
    left = [value for value in values if isinstance(value, fx.Node)]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return {node.name for node in found}


def meant(text: str, outputs: Sequence[Output]) -> list[Output]:
    """The outputs that a name or a glob stands for.

    Raises:
        UserError: there is none.
    """
    chosen = [output for output in outputs if output.name == text] or [
        output for output in outputs if output.is_meant_by(text)
    ]
    if not chosen:
        raise UserError(
            f"the model has no output {text!r}.",
            hint=f"It returns {', '.join(output.name for output in outputs) or 'no tensor'}. Globs stand for several "
            "of them, and the name of a container for all that it holds.",
        )
    return chosen


def _returned(program: Program) -> Iterator[tuple[OutputPath, Any]]:
    values = program.output_node.args[0]
    assert isinstance(values, (tuple, list))
    return zip(paths_of(program.interface.returns), values[len(program.interface.writes) :], strict=True)


def _is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _leaves(value: object) -> Iterator[tuple[OutputPath, object]]:
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        yield tuple(map(_text, path)), leaf


def _text(key: object) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
