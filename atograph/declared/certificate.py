"""The certificate of a declared change: the smaller model is the dense one wherever nothing is used that is gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atograph.declared.counted import Counted
from atograph.declared.routing import Routing
from atograph.declared.smaller import counted_for
from atograph.declared.token_inputs import TokenInputs, outputs_of
from atograph.passes.declared import Declared
from atograph.passes.errors import InternalError, UserError
from atograph.passes.torch_private import pytree
from atograph.report.declared import DeclaredProof
from atograph.spec.example_inputs import Inputs
from atograph.values.difference import largest_difference, tolerance
from atograph.values.eval_mode import copy_of, eval_mode
from atograph.values.structures import copied, tensors_of


def certify(dense: nn.Module, small: nn.Module, change: Declared, inputs: Inputs) -> DeclaredProof:
    """Compare a dense model with the smaller one, in float64 where both run so.

    Args:
        dense: the model before the change.
        small: after it, with the same weights.
        change: what stays.
        inputs: of the dense model.

    Raises:
        UserError: the smaller model does not run, or what the routers do cannot be seen; or more than they and their
            experts hangs on the number.
        InternalError: they differ otherwise.
    """
    comparing = _experts if change.kind == "experts" else _tokens
    found = counted_for(dense.get_submodule(change.part), change)
    try:
        wide = _to_double(inputs)
        proof = comparing(copy_of(dense).double(), copy_of(small).double(), change, found, wide)
    except RuntimeError:  # no kernel for float64, or code that casts
        proof = comparing(dense, small, change, found, inputs)
    if not proof.holds and change.kind == "experts":
        raise UserError(
            f"in this model more hangs on {change.field} than its experts and their routers: with {change} it differs "
            f"from the dense one that has no others to choose from by {proof.difference:.1e} (relative; allowed are "
            f"{proof.tolerance:.0e}).",
            hint="A router that gives its experts a capacity, or tells them by more than their numbers, is one such.",
        )
    if not proof.holds:
        raise InternalError(
            f"the smaller model ({change}) differs from the dense one by {proof.difference:.1e} (relative), allowed "
            f"are {proof.tolerance:.0e}."
        )
    return proof


def _to_double(inputs: Inputs) -> Inputs:
    wide: tuple[tuple[object, ...], dict[str, object]] = pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs.example
    )
    return Inputs(*wide)


def _experts(dense: nn.Module, small: nn.Module, change: Declared, found: Counted, inputs: Inputs) -> DeclaredProof:
    part, routers = dense.get_submodule(change.part), found.routers_of_blocks()
    gone = {block: sorted({*range(change.size)} - {*ids}) for block, ids in change.kept.items()}
    with Routing(part, routers, change.size, gone) as masked:
        reference = _outputs(dense, inputs)
    with Routing(part, routers, change.size) as watched:
        untouched = _outputs(dense, inputs)
    silent = next((block for block in routers if not masked.logits[block]), None)
    if silent is not None:
        raise UserError(
            f"what {silent} chooses could not be watched on these inputs: nothing is a product with its router's "
            "weights, so it cannot be proved that it does without experts."
        )
    outputs = outputs_of(small, inputs, change)
    pairs = [(a, b) for a, b in zip(reference, outputs, strict=True) if a.shape == b.shape]
    samples = next((len(tensor) for tensor in tensors_of(inputs.example) if tensor.dim()), 1)
    used = _used(watched, gone, samples)
    unused = None if used is None else int((~used).sum())
    apart = None
    if used is not None and unused:
        rows = [(a, b) for a, b in zip(untouched, outputs, strict=True) if a.shape == b.shape and len(a) == samples]
        apart = _difference([(a[~used], b[~used]) for a, b in rows])
    return DeclaredProof(
        kind="experts", what=str(change), field=change.field, size=change.size, count=change.count,
        params=(_params(dense), _params(small)),
        difference=_difference(pairs), tolerance=tolerance([each for pair in pairs for each in pair], masked.finest),
        moved=_difference([(a, b) for a, b in zip(reference, untouched, strict=True) if a.shape == b.shape]),
        samples=samples, unused=unused, unused_difference=apart,
    )  # fmt: skip


def _used(watched: Routing, gone: dict[str, list[int]], samples: int) -> Tensor | None:
    """Which samples met an expert that is gone, ``[samples]``; None where that cannot be told."""
    used = torch.zeros(samples, dtype=torch.bool)
    for block, calls in watched.chosen.items():
        for chosen in calls:
            if chosen is None or len(chosen) % samples:
                return None
            met = torch.isin(chosen.cpu(), torch.tensor(gone[block])).reshape(samples, -1)
            used |= met.any(1)
    return used


def _tokens(dense: nn.Module, small: nn.Module, change: Declared, found: Counted, inputs: Inputs) -> DeclaredProof:
    kept = torch.tensor(change.kept[""])
    where = TokenInputs.of(dense, change, found, inputs, small)
    only = where.with_kept_only(inputs)
    with Routing(dense, {}, 0) as watched:
        reference = _outputs(dense, only)
    outputs = outputs_of(small, where.renumbered(only), change)
    pairs = [
        (a if a.shape == b.shape else a.index_select(-1, kept.to(a.device)), b)
        for a, b in zip(reference, outputs, strict=True)
    ]
    return DeclaredProof(
        kind="tokens", what=str(change), field=change.field, size=change.size, count=change.count,
        params=(_params(dense), _params(small)),
        difference=_difference(pairs), tolerance=tolerance([each for pair in pairs for each in pair], watched.finest),
        samples=next((len(tensor) for tensor in tensors_of(inputs.example) if tensor.dim()), 1),
    )  # fmt: skip


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    return largest_difference([a for a, _b in pairs], [b for _a, b in pairs])


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    args, kwargs = copied(inputs.example)
    with eval_mode(model), torch.no_grad():
        return list(tensors_of(model(*args, **kwargs)))
