"""How a program is called, and what its placeholders stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import Signature
from typing import Any

from torch import Tensor

from atograph.passes.torch_private import TreeSpec, pytree


@dataclass(frozen=True)
class Interface:
    """What a program takes, and what it returns.

    Attributes:
        state: placeholder → name in the user's model, for parameters, buffers and constants.
        parameters: those names that are parameters.
        buffers: those that are buffers; the rest are constants that the model's code made.
        inputs: for each leaf of a call's arguments its placeholder, or None where the program ignores it.
        takes: the structure of a call's arguments, ``(args, kwargs)``.
        returns: the structure of the results.
        writes: placeholders whose new values stand before the results among what the graph returns.
        signature: of the user's ``forward``.
        example: arguments of one call, or None.
        looked_at: buffer → its value, where the model's code has looked at values: the program holds for these only.
        fixed: why the batch is fixed to the example's size; empty where it is dynamic.
        dead: whether the model computes more than this: ops whose results nobody takes.
        outputs: names of the outputs that are returned, where others are left out; empty where none is.
        left_out: name of an output that the model returns and the program does not → the way to it (`ir.outputs`).
    """

    state: Mapping[str, str]
    parameters: frozenset[str]
    buffers: frozenset[str]
    inputs: tuple[str | None, ...]
    takes: TreeSpec
    returns: TreeSpec
    signature: Signature
    writes: tuple[str, ...] = ()
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = field(default=None, compare=False, repr=False)
    looked_at: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    fixed: str = ""
    dead: bool = False
    outputs: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """What ``forward`` calls the arguments that a call is captured with."""
        args, kwargs = pytree.tree_unflatten(range(len(self.inputs)), self.takes)
        return frozenset((*tuple(self.signature.parameters)[: len(args)], *kwargs))

    def without(self, placeholders: set[str]) -> Interface:
        """The same without some placeholders of the state."""
        return replace(self, state={p: name for p, name in self.state.items() if p not in placeholders})

    def with_constant(self, placeholder: str, name: str) -> Interface:
        """The same with one more constant."""
        return replace(self, state={**self.state, placeholder: name})
