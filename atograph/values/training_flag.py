"""Who looks at ``training`` while a model runs: code that nobody does goes the same way in training as in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from atograph.passes.torch_private import DropoutNd, NormBase


@contextmanager
def readers_of_training(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Within it, the list gets each module whose ``training`` is read, but for torch's own norms and dropouts.

    A ScriptModule counts as one: nobody sees what its code reads.
    """
    readers: list[nn.Module] = [each for each in model.modules() if isinstance(each, torch.jit.ScriptModule)]
    if "training" in vars(nn.Module):  # one within another
        readers.append(model)
        yield readers
        return
    nn.Module.training = _Flag(readers)  # type: ignore[assignment]
    try:
        yield readers
    finally:
        del nn.Module.training


class _Flag:
    """Stands on the class, and gives what each module holds."""

    def __init__(self, readers: list[nn.Module]) -> None:
        self._readers = readers

    def __get__(self, module: nn.Module | None, kind: type) -> object:
        if module is None or "training" not in module.__dict__:
            raise AttributeError("training")
        if not isinstance(module, (NormBase, DropoutNd)):
            self._readers.append(module)
        return module.__dict__["training"]

    def __set__(self, module: nn.Module, value: object) -> None:
        module.__dict__["training"] = value
