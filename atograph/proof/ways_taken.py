"""Which branches of ``cond`` inputs take, and inputs made of the example that take others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.regions.control import Control, control_of
from atograph.passes.ir.run import ProgramModule
from atograph.passes.rules import name_of
from atograph.passes.torch_private import pytree
from atograph.values.structures import copied, tensors_of

WAYS = (True, False)

FLOATS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "negated": lambda x: -x, "times 10": lambda x: 10 * x, "times 0.1": lambda x: 0.1 * x,
    "plus 1": lambda x: x + 1, "minus 1": lambda x: x - 1,
}  # fmt: skip
"""What is tried of inputs of floats, in words, all of them together. Zeros are not: there rounding alone may decide."""

WHOLE: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plus 1": lambda x: x + 1, "minus 1": lambda x: x - 1, "at zero": lambda x: 0 * x, "halved": lambda x: x // 2,
    "doubled": lambda x: x * 2,
}  # fmt: skip
"""Of whole numbers, one input at a time."""


def all_ways(program: Program) -> list[str]:
    """The branches of a program that can be told: ``choose is true``, ``choose is false``; within branches, too."""

    def within(module: fx.GraphModule) -> Iterator[str]:
        for node in module.graph.nodes:
            control = _cond(node, module)
            for way, region in zip(WAYS, control.regions if control else (), strict=False):
                yield _told(node, way)
                yield from within(region.module)

    return [*within(program)]


def ways_taken(program: Program, inputs: Example) -> set[str]:
    """Which of them some inputs take.

    Raises:
        Exception: whatever the program has against these inputs.
    """
    module = _Followed(program)
    args, kwargs = copied(inputs)
    with torch.no_grad():
        results = tensors_of(module(*args, **kwargs))
    if any(bool(torch.isnan(each).any()) for each in results):
        raise ValueError("nothing is shown by values that are none")
    return module.taken


def inputs_by_ways(
    program: Program, inputs: Example, taken: Callable[[Example], Example]
) -> Iterator[tuple[str, Example, set[str]]]:
    """An example, and inputs made of it that take branches that none before take: in words what they are, the inputs,
    and what is new. Few and cheap ones are tried, so not every branch is reached.

    Args:
        program: with branches; nothing is given without.
        inputs: the example.
        taken: makes of inputs what the program takes.
    """
    left = {*all_ways(program)}
    for words, made in _made_of(inputs):
        if not left:
            return
        try:
            new = left & ways_taken(program, taken(made))
        except Exception:  # numbers beyond a table, say; of the example it is told where it matters
            continue
        if new:
            left -= new
            yield words, made, new


def _made_of(inputs: Example) -> Iterator[tuple[str, Example]]:
    leaves, structure = pytree.tree_flatten(inputs)
    tensors = {index: leaf for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}

    def with_leaves(made: Mapping[int, torch.Tensor]) -> Example:
        found: Example = pytree.tree_unflatten([made.get(i, leaf) for i, leaf in enumerate(leaves)], structure)
        return found

    yield "", inputs
    floats = {index: leaf for index, leaf in tensors.items() if leaf.is_floating_point()}
    for words, make in FLOATS.items() if floats else ():
        yield f"inputs {words}", with_leaves({index: make(leaf).to(leaf.dtype) for index, leaf in floats.items()})
    for index in tensors.keys() - floats.keys():
        leaf = tensors[index]
        if leaf.dtype == torch.bool:
            yield "truths turned", with_leaves({index: ~leaf})
        elif not leaf.is_complex():
            for words, make in WHOLE.items():
                yield f"whole numbers {words}", with_leaves({index: make(leaf).to(leaf.dtype)})


def _cond(node: fx.Node, module: fx.GraphModule) -> Control | None:
    return control_of(node, module) if name_of(node.target) == "cond" else None


def _told(node: fx.Node, way: bool) -> str:
    return f"{node.name} is {str(way).lower()}"


class _Followed(ProgramModule):
    """A program that takes down which branches it takes."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.taken: set[str] = set()

    def _results(self, program: Program, inputs: list[torch.Tensor]) -> Any:
        (called,) = self._raising
        return _Following(called, self.taken).run(*inputs)


class _Following(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, taken: set[str]) -> None:
        super().__init__(module)
        self._holder, self._taken = module, taken

    def run_node(self, n: fx.Node) -> Any:
        control = _cond(n, self._holder) if n.op == "call_function" else None
        if control is None:
            return super().run_node(n)
        predicate, _one, _other, operands = self.fetch_args_kwargs_from_env(n)[0]
        way = bool(predicate)
        self._taken.add(_told(n, way))
        region = control.regions[WAYS.index(way)]
        return _Following(region.module, self._taken).run(*operands)
