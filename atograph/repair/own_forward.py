"""A ``forward`` of a single module's own, around that of its class; it is copied and pickled with the module."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import CodeType, MethodType

import torch
from torch import nn


class OwnForward(ABC):
    """What a module is called as, once ``module.forward`` is set to it.

    Args:
        module: whose ``forward`` it runs: that of its class, or the own one that it has already.
    """

    __wrapped__: Callable[..., object]

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        own = vars(module).get("forward")
        self.__wrapped__ = MethodType(type(module).forward, module) if own is None else own

    @abstractmethod
    def run(self, *args: object, **kwargs: object) -> object:
        """Run the module's forward."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """As the module's forward; where code is compiled, this part stays as it is."""
        run = self.run
        if "torch._dynamo" in sys.modules:
            run = torch.compiler.disable(run)  # type: ignore[no-untyped-call]
        return run(*args, **kwargs)

    @property
    def __code__(self) -> CodeType:  # torch.export looks at it
        return self.__wrapped__.__code__
