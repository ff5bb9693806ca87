"""What a model holds: its tensors as they are now, and whether that is what its program was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.values.attributes import Attributes, Mark, Value, changed
from atograph.values.batches import describe


def current_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer of a module as it is now, under each of its names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


class ModelState:
    """A model beside the program that it was captured as.

    Attributes:
        marks: what the model's attributes held when it was traced: the program has it as constants.

    Args:
        model: as it was traced; None if there was none.
        program: captured.
        marks: None: as the attributes are now.
    """

    def __init__(self, model: nn.Module | None, program: Program, marks: Mapping[str, Mark] | None = None) -> None:
        self._model, self._program = model, program
        self.marks: Mapping[str, Mark] = {}
        self.marks = {name: Mark.of(value) for name, value in self._attributes()} if marks is None else marks

    def changed_attributes(self) -> dict[str, Value]:
        """Numbers in attributes that are others than when the model was traced, and tensors that the program holds."""
        return changed(self.marks, dict(self._attributes()))

    def _attributes(self) -> Iterator[tuple[str, Value]]:
        """Every number, for a program does not tell which it holds; of plain tensors those that are its constants."""
        held = {tensor.data_ptr() for tensor in self._program.constants().values()}
        for name, value in Attributes(self._model).values().items() if self._model is not None else ():
            if not isinstance(value, torch.Tensor) or value.data_ptr() in held or name in self.marks:
                yield name, value

    def read_weights(self) -> None:
        """Give the program the model's weights and buffers as they are now; a move to a device replaces buffers.

        Raises:
            UserError: the model holds other layers than when it was traced.
        """
        if self._model is None:
            return
        current, program = current_state(self._model), self._program
        interface = program.interface
        for node, name in program.state_nodes():
            if name in interface.parameters | interface.buffers:
                before, now = node.meta["val"], current.get(name)
                if now is None or now.shape != before.shape or now.dtype != before.dtype:
                    raise UserError(
                        f"the model has changed since it was traced: {name} was {describe(before)}, and is "
                        f"{'gone' if now is None else describe(now)}.",
                        hint="Trace it again.",
                    )
        for name, value in interface.looked_at.items():
            if not torch.equal(current[name].to(value.device), value):
                raise UserError(
                    f"the model's code looks at the values of {name}, and these have changed since it was traced.",
                    hint="Trace it again: the code may take another way now.",
                )
        program.state.update((name, current[name]) for name in program.state if name in current)
