"""Whether a slim module computes what the slim program does: on the example, at another batch size, in training.

Where the module calls the very ops of the program (`same_program`), that holds for any batch; then it is run once more
with real numbers, on a smaller example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property

import torch
from torch import nn

from atograph.passes.ir.decisions import DecidesOtherwise
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.repair.observe.problem import Problem, failed, told
from atograph.repair.observe.samples import Sample, samples_of
from atograph.repair.same_program import recorded_alike
from atograph.repair.training import Cut, same_in_training, same_on_less
from atograph.values.batch_size import batch_of, with_batch
from atograph.values.difference import alike, tolerance
from atograph.values.eval_mode import eval_mode, same_buffers
from atograph.values.resized import less_of
from atograph.values.structures import copied, tensors_of


class Checks:
    """What a slim program computes, to hold a module against.

    Attributes:
        example: what the program was captured with.
        left_out: the ways to outputs of the module that the program does not return: they are not compared.
        whole: the example as the masked dense module takes it: state has another width there.
        cut: makes what the program returns of the tensors that the dense module does.
        close: relative difference up to which results are the same, by their precision and that of the weights.
    """

    def __init__(
        self,
        program: Program,
        example: Example,
        whole: Example | None = None,
        cut: Cut = list,
        within: Callable[[], nn.Module] | None = None,
    ) -> None:
        self._program, self.example, self._within = program, example, within
        self.whole, self.cut = example if whole is None else whole, cut
        self._alike: Program | None = None  # what was recorded of the last module, if it is the program
        self.left_out = frozenset(program.interface.left_out.values())
        results = [getattr(node, "meta", {}).get("val") for node in program.output_node.args[0]]  # type: ignore[union-attr]
        self.close = tolerance([
            *(value for value in results if isinstance(value, torch.Tensor)), *program.state.values(),
        ])  # fmt: skip

    @cached_property
    def _sampled(self) -> tuple[list[torch.Tensor], Mapping[int, Sample]]:
        result, samples = samples_of(self._program, *copied(self.example))
        return tensors_of(result), samples

    @property
    def samples(self) -> Mapping[int, Sample]:
        """What the program computes on the way there, by the number of the call to torch."""
        return self._sampled[1]

    def same(self, module: nn.Module) -> bool:
        """Whether a module computes what the program does for the example."""
        return not self._problems(module, self.example, self._sampled[0])

    def problems(self, module: nn.Module) -> list[Problem]:
        """What a module does not compute as the program: for the example, and for a batch larger by one.

        Where that makes code decide otherwise, for a batch of each sample twice, which has the same means.
        """
        if self.calls_the_same(module):
            return []
        batch, wrong = batch_of(self.example), self._problems(module, self.example, self._sampled[0])
        interface = self._program.interface
        unchecked = interface.decided and not interface.checked  # nobody says whether another batch decides the same
        if wrong or batch is None or interface.fixed or unchecked:
            return wrong
        for larger in (batch + 1, 2 * batch):
            with suppress(DecidesOtherwise):
                return self._problems_at(with_batch(self.example, larger), module)
        return []

    def calls_the_same(self, module: nn.Module) -> bool:
        """Whether a module is recorded as the program, and computes what that does at one size."""
        self._alike = recorded_alike(module, self._program, self.example)
        return self._alike is not None and self._agrees_on_less(module)

    def _agrees_on_less(self, module: nn.Module) -> bool:
        """Whether a module computes what the program does, at less than the example's size where both run there."""
        for less in less_of(self.example):
            try:
                if not self._problems_at(less, module):
                    return True
            except Exception:  # the program takes no such images
                continue
        return not self._problems_at(self.example, module)

    def _problems_at(self, inputs: Example, module: nn.Module) -> list[Problem]:
        args, kwargs = copied(inputs)
        with torch.no_grad():
            expected = tensors_of(_OfAnySize(self._program)(*args, **kwargs))
        return self._problems(module, inputs, expected)

    def _problems(self, module: nn.Module, inputs: Example, expected: list[torch.Tensor]) -> list[Problem]:
        args, kwargs = copied(inputs)
        with eval_mode(module), same_buffers(module), torch.no_grad():
            try:
                found = tensors_of(module(*args, **kwargs), self.left_out)
            except Exception as error:
                return [Problem(failed(error))]
        return (
            [] if alike(expected, found, self.close) else [Problem("the module does not compute what the program does")]
        )

    def in_training(self, module: nn.Module, masked: Callable[[], nn.Module]) -> tuple[list[Problem], list[str]]:
        """What a module does not compute in training mode as the masked dense one; and what is to be told of it.

        Nothing where nobody looks at ``training``. Less than the example does, if both modules run with it and agree.

        Args:
            module: the module that `problems` or `calls_the_same` has told of.
            masked: gives the dense module with what the plan drops at zero.
        """
        recorded = (self._alike, self._program)
        if not any(each is None or each.interface.reads_training for each in recorded):
            return [], []
        lesser = list(less_of(self.example)) if self.whole is self.example else []
        if self._within is not None and lesser and self._same_on_less(module, self._within(), lesser):
            return [], []
        dense = masked()
        if self._same_on_less(module, dense, lesser):
            return [], []
        try:
            same = same_in_training(module, dense, self.example, self.whole, self.cut, self.left_out)
        except Exception as error:  # a second head that only training has stays as it is
            return [], [f"in training mode it fails: {told(error)}"]
        text = "in training mode its code goes another way, and computes something else than the masked model"
        return ([] if same else [Problem(text)]), []

    def _same_on_less(self, module: nn.Module, dense: nn.Module, lesser: Iterable[Example]) -> bool:
        """Whether two modules agree in training on the first of some inputs that the dense one takes."""
        for less in lesser:
            same = same_on_less(module, dense, less, self.left_out)
            if same is not None:
                return same
        return False


class _OfAnySize(ProgramModule):
    """A program that is tried with inputs of sizes that it was not captured for."""

    def inputs_of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, torch.Tensor]:
        """The arguments of a call by their placeholders."""
        names = self._called[0].interface.inputs
        leaves = self._leaves(args, kwargs)
        return {name: leaf for name, leaf in zip(names, leaves, strict=True) if name is not None}
