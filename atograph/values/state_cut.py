"""State at both widths: what the masked dense network carries from call to call, and what the slim program does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.state import state_among_outputs
from atograph.passes.plan.plan import Plan
from atograph.passes.torch_private import pytree

V = TypeVar("V")
"""A structure of tensors and other values: what comes back has the same."""

_Mask = torch.Tensor
"""bool: which indices along a dim stay."""


class StateCut:
    """How a plan cuts what a program carries from call to call. All of it does nothing where there is no state.

    Args:
        plan: which units stay.
        program: dense or slim.
    """

    def __init__(self, plan: Plan, program: Program) -> None:
        self._interface, self._names = program.interface, program.interface.inputs
        self._outputs = state_among_outputs(program)
        self._masks = masks_of(plan)

    def __bool__(self) -> bool:
        """Whether the program has state."""
        return bool(self._outputs)

    def inputs(self, inputs: V) -> V:
        """Inputs of the slim program, from those of the dense network.

        Raises:
            UserError: they are none of the dense network's.
        """
        if not self:
            return inputs
        return on_state(inputs, self._names, lambda name, leaf: cut(leaf, self._masks.get(name, {})))

    def started(self, inputs: V) -> V:
        """Inputs of the dense network whose state is zero where units go: what the proof asks of the first state."""
        if not self:
            return inputs
        return on_state(inputs, self._names, lambda name, leaf: _zeroed(leaf, self._masks.get(name, {})))

    def outputs(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that the slim program returns, from those that the dense network does."""
        return [
            cut(tensor, self._masks.get(self._outputs[position], {})) if position in self._outputs else tensor
            for position, tensor in enumerate(tensors)
        ]

    def following(self, inputs: V, tensors: Sequence[torch.Tensor]) -> V:
        """The inputs of the next call: the same, with the state that a call has returned.

        What is as long as the state and what is new (a mask) goes on with what it ends with.
        """
        state = {name: tensors[position] for position, name in self._outputs.items()}
        inputs = on_state(inputs, self._names, lambda name, leaf: state.get(name, leaf))
        leaves = dict(zip(self._names, pytree.tree_leaves(inputs), strict=True))
        sizes = {
            size.name: leaves[place.placeholder].shape[place.dim] // place.multiple
            for size in self._interface.dynamic
            for place in size.places[:1]
        }
        longer = {
            (place.placeholder, place.dim): place.multiple * total
            for name, total in self._interface.sums(sizes).items()
            for size in self._interface.dynamic
            for place in (size.places if size.name == name else ())
        }
        for (placeholder, dim), size in longer.items():
            inputs = on_state(inputs, self._names, partial(_lengthened, placeholder, dim, size))
        return inputs


def masks_of(plan: Plan) -> dict[str, dict[int, _Mask]]:
    """Placeholder of a state → dim → the indices that stay, where some go."""
    masks: dict[str, dict[int, _Mask]] = {}
    for group, parts in plan.carried.items():
        units = plan.mask(group)
        if bool(units.all()):
            continue
        for part in parts:
            of_input = masks.setdefault(part.parameter, {})
            of_input[part.dim] = of_input.get(part.dim, torch.ones(part.length).bool()) & part.mask(units).bool()
    return masks


def on_state(inputs: V, names: Sequence[str | None], change: Callable[[str, torch.Tensor], torch.Tensor]) -> V:
    """Inputs in which tensors are changed by their names; ``names``: of each leaf."""
    leaves, structure = pytree.tree_flatten(inputs)
    if len(leaves) != len(names):
        first = ", ".join([name for name in names if name is not None][:3]) + ", ..." * (len(names) > 3)
        raise UserError(f"the model was traced with {len(names)} arguments ({first}), and here are {len(leaves)}.")
    changed = [
        change(name, leaf) if name is not None and isinstance(leaf, torch.Tensor) else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    result: V = pytree.tree_unflatten(changed, structure)
    return result


def cut(tensor: torch.Tensor, masks: dict[int, _Mask]) -> torch.Tensor:
    """A state without the indices that go.

    Raises:
        UserError: it has other sizes than the dense network's.
    """
    for dim, mask in masks.items():
        if tensor.shape[dim] != len(mask):
            raise UserError(
                f"a state of the shape {list(tensor.shape)} is none of the dense model's, which has {len(mask)} at "
                f"dim {dim}."
            )
        tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
    return tensor


def widened(tensor: torch.Tensor, masks: dict[int, _Mask]) -> torch.Tensor:
    """A state of the slim program as the dense network has it, with zeros where units have gone."""
    for dim, mask in masks.items():
        shape = [*tensor.shape[:dim], len(mask), *tensor.shape[dim + 1 :]]
        kept = mask.nonzero().flatten().to(tensor.device)
        tensor = tensor.new_zeros(shape).index_copy(dim, kept, tensor)
    return tensor


def widened_inputs(plan: Plan, names: Sequence[str | None], inputs: V) -> V:
    """Inputs of the dense network, from those of a slim program; ``names``: of each leaf."""
    masks = masks_of(plan)
    return on_state(inputs, names, lambda name, leaf: widened(leaf, masks.get(name, {}))) if masks else inputs


def _lengthened(placeholder: str, dim: int, size: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name != placeholder:
        return tensor
    places = torch.arange(size, device=tensor.device).clamp(max=tensor.shape[dim] - 1)
    return tensor.index_select(dim, places)


def _zeroed(tensor: torch.Tensor, masks: dict[int, _Mask]) -> torch.Tensor:
    for dim, mask in masks.items():
        shape = [-1 if each == dim else 1 for each in range(tensor.dim())]
        tensor = tensor.masked_fill(~mask.to(tensor.device).reshape(shape), 0)
    return tensor
