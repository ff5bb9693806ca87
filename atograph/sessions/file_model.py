"""A file in a runtime as a module: called like the program that it was exported from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from atograph.onnx.names import with_constants
from atograph.passes.ir.exported.notes import names_in_files
from atograph.passes.torch_private import pytree
from atograph.sessions.feed import Feed
from atograph.sessions.session import Session


class FileModel(Session, nn.Module):
    """The same inputs and outputs as the program that the file was exported from, on the CPU.

    Attributes:
        captured: the names of the arguments that the program takes by name.
    """

    captured: frozenset[str]

    def made_from(self, program: ExportedProgram) -> None:
        """Say which program the file was exported from: it tells the names of inputs and the form of outputs."""
        names = names_in_files(program)
        self._names = [names.get(str(name), name) for name in program.graph_signature.user_inputs]
        self.captured = _keywords(program)
        self._program = program

    def feed(self, *args: object, **kwargs: object) -> Feed:
        """The inputs as the runtime takes them: arrays by name."""
        try:  # by the names of keywords, whatever their order is
            leaves = self._program.call_spec.in_spec.flatten_up_to((args, kwargs))
        except (ValueError, AttributeError):  # given by position where the program has keywords, or the other way round
            leaves = pytree.tree_leaves((args, kwargs))
        taken = {value.name for value in self.inputs}
        return {
            str(name): leaf.detach().cpu().numpy()
            for name, leaf in zip(self._names, leaves, strict=True)
            if name in taken
        }

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the file."""
        values = self.run(self.feed(*args, **kwargs))
        return with_constants(self._program, [torch.from_numpy(value) for value in values])


def _keywords(program: ExportedProgram) -> frozenset[str]:
    """The names of the arguments that a program takes by name."""
    takes = program.call_spec.in_spec
    if takes is None:
        return frozenset()
    _args, kwargs = pytree.tree_unflatten(range(takes.num_leaves), takes)
    return frozenset(kwargs)
