"""Whether a slim module computes what the slim program does: on the example, at another batch size, in training."""

from __future__ import annotations

import torch
from torch import nn

from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.repair.observe.problem import Example, Problem, failed, told
from atograph.repair.observe.samples import samples_of
from atograph.repair.training import Cut, same_in_training
from atograph.values.batch_size import batch_of, with_batch
from atograph.values.difference import alike, tolerance
from atograph.values.eval_mode import eval_mode
from atograph.values.structures import tensors_of


class Checks:
    """What a slim program computes, to hold a module against.

    Attributes:
        example: what the program was captured with.
        samples: what it computes on the way there, by the number of the call to torch.
        left_out: the ways to outputs of the module that the program does not return: they are not compared.
        whole: the example as the masked dense module takes it: state has another width there.
        cut: makes what the program returns of the tensors that the dense module does.
        close: relative difference up to which results are the same, by their precision and that of the weights.
    """

    def __init__(self, program: Program, example: Example, whole: Example | None = None, cut: Cut = list) -> None:
        self._program, self.example = program, example
        self.whole, self.cut = example if whole is None else whole, cut
        self.left_out = frozenset(program.interface.left_out.values())
        result, self.samples = samples_of(program, *example)
        self._expected = tensors_of(result)
        self.close = tolerance([*self._expected, *program.state.values()])

    def same(self, module: nn.Module) -> bool:
        """Whether a module computes what the program does for the example."""
        return not self._problems(module, self.example, self._expected)

    def problems(self, module: nn.Module) -> list[Problem]:
        """What a module does not compute as the program: for the example, and for a batch larger by one."""
        batch, wrong = batch_of(self.example), self._problems(module, self.example, self._expected)
        if wrong or batch is None or self._program.interface.fixed:
            return wrong
        other = with_batch(self.example, batch + 1)
        with torch.no_grad():
            return self._problems(module, other, tensors_of(ProgramModule(self._program)(*other[0], **other[1])))

    def _problems(self, module: nn.Module, inputs: Example, expected: list[torch.Tensor]) -> list[Problem]:
        args, kwargs = inputs
        with eval_mode(module), torch.no_grad():
            try:
                found = tensors_of(module(*args, **kwargs), self.left_out)
            except Exception as error:
                return [Problem(failed(error))]
        return (
            [] if alike(expected, found, self.close) else [Problem("the module does not compute what the program does")]
        )

    def in_training(self, module: nn.Module, masked: nn.Module) -> tuple[list[Problem], list[str]]:
        """What a module does not compute in training mode as the masked dense one; and what is to be told of it."""
        try:
            same = same_in_training(module, masked, self.example, self.whole, self.cut, self.left_out)
        except Exception as error:  # a second head that only training has stays as it is
            return [], [f"in training mode it fails: {told(error)}"]
        text = "in training mode its code goes another way, and computes something else than the masked model"
        return ([] if same else [Problem(text)]), []
