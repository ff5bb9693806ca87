"""The certificates of a run's declared changes, again: the dense model gets the weights that were trained since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from atograph.declared.certificate import certify
from atograph.declared.smaller import counted_for, smaller
from atograph.declared.token_inputs import with_old_numbers
from atograph.passes.declared import Declared
from atograph.report.declared import DeclaredProof
from atograph.spec.example_inputs import Inputs


def certify_again(
    dense: nn.Module, small: nn.Module, changes: Sequence[Declared], inputs: Inputs
) -> Iterator[DeclaredProof]:
    """Prove changes of a model beside it, the last one first, with the weights that what is left has now.

    Args:
        dense: before all changes; it gets the weights of what is left, and keeps its own of what is gone.
        small: after all of them, trained since.
        changes: in order.
        inputs: of one call of what is left.

    Raises:
        UserError, InternalError: as `certify`.
    """
    models = [dense]
    for change in changes[:-1]:
        models.append(smaller(models[-1], change))
    for model, change in zip(reversed(models), reversed(changes), strict=True):
        take_weights(model, small, change)
        if change.kind == "tokens":
            found = counted_for(model.get_submodule(change.part), change)
            inputs = with_old_numbers(small, change, found, inputs)
        yield certify(model, small, change, inputs)
        small = model


@torch.no_grad()
def take_weights(dense: nn.Module, small: nn.Module, change: Declared) -> None:
    """Give a dense model the weights of what is left of it; it keeps its own of what is gone.

    Args:
        dense: before the change.
        small: after it.
        change: what stays.
    """
    part, left = dense.get_submodule(change.part), small.get_submodule(change.part)
    found, own = counted_for(part, change), part.state_dict(keep_vars=True)
    weights = left.state_dict()
    for name, origin, rows in found.origins(list(weights), change.kept):
        target, value = own[origin], weights[name].to(own[origin])
        if rows is None:
            target.copy_(value)
        else:
            target.index_copy_(found.dims.get(origin, 0), rows.to(target.device), value)
    if part is not dense:
        others, taken = small.state_dict(), {id(tensor) for tensor in own.values()}
        for name, tensor in dense.state_dict(keep_vars=True).items():
            if id(tensor) not in taken and name in others:
                tensor.copy_(others[name])
