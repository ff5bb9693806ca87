"""The contract, as benchmarks and tests check it: dense with a plan's slices at zero equals slim, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import atograph
from atograph.passes.torch_private import pytree
from atograph.values.difference import relative_difference
from atograph.values.structures import tensors_of

_DRAWN = 1_000_003
"""So many random numbers serve a tensor of any size: a prime, so no two rows of a weight get the same ones."""
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


@dataclass(frozen=True)
class Outcome:
    """What a comparison found; differences are relative to the largest value of the same output."""

    graph: atograph.Graph
    plan: atograph.Plan
    slim: atograph.Slim
    difference: float
    """Masked dense against slim; infinite where an output that is no float (an index, a mask) differs at all."""
    moved: float
    alive: float
    """How much the slim output still depends on the input: a constant output would show nothing."""


def perturb(model: nn.Module, seed: int = 0) -> None:
    """Move every parameter and running statistic away from its initial value, which may hide a mistake."""
    generator = torch.Generator().manual_seed(seed)

    def noise(t: torch.Tensor, count: int) -> torch.Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64).to(t.dtype)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                values = parameter.view(-1) if parameter.is_contiguous() else parameter.flatten()
                pieces = values.split(_DRAWN)
                mean = sum(float(piece.abs().sum(dtype=torch.float64)) for piece in pieces) / max(values.numel(), 1)
                some = noise(parameter, len(pieces[0]))
                for piece in pieces:
                    piece.add_(some[: len(piece)], alpha=0.1 * mean + 0.02)
                if not parameter.is_contiguous():
                    parameter.copy_(values.view(parameter.shape))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * noise(buffer, buffer.numel()).view(buffer.shape))
            elif name.endswith("running_var"):
                buffer.mul_(1 + 0.3 * noise(buffer, buffer.numel()).view(buffer.shape).abs())
        for norm in model.modules():
            if isinstance(norm, _NORMS) and norm.weight is not None and norm.weight.abs().mean() < 0.5:
                norm.weight.add_(1.0)  # initial scales of 0 or 0.02 let a deep network's signal fade away


def settle(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
    """Let running statistics follow real activations, so that a deep network's signal does not fade away."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.momentum, norm.training = 0.999, True  # the rest bounds the scale of a dead channel
    with torch.no_grad():
        model(*args, **(kwargs or {}))
    for norm in norms:
        norm.training = False


def as_double(inputs: Inputs) -> Inputs:
    """The same inputs with their floating-point tensors in float64."""
    converted: Inputs = pytree.tree_map(lambda leaf: leaf.double() if _is_float(leaf) else leaf, inputs)
    return converted


def in_float64(model: nn.Module, inputs: Inputs) -> tuple[Inputs, str]:
    """A model and its inputs in float64, and why not: then both are in float32, for a kernel knows nothing else."""
    wide = as_double(inputs)
    try:
        with torch.no_grad():
            model.double()(*wide[0], **wide[1])
    except RuntimeError as error:
        model.float()
        return inputs, str(error).splitlines()[0]
    return wide, ""


def other_inputs(inputs: Inputs) -> Inputs:
    """Inputs of the same kind with other values.

    Floats are reversed as well as scaled and shifted, which a norm would undo. Integers are moved about, but masks (two
    values at most) stay.
    """

    def other(leaf: Any) -> Any:
        if _is_float(leaf):
            return (leaf.flip(-1) if leaf.dim() else leaf) * 1.3 + 0.1
        if isinstance(leaf, torch.Tensor) and leaf.dim() and len(set(leaf.flatten().tolist())) > 2:
            return leaf.roll(1, -1)
        return leaf

    changed: Inputs = pytree.tree_map(other, inputs)
    return changed


def compare(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    keep: float = 0.5,
    outputs: Sequence[str] = (),
    **plan: Any,
) -> Outcome:
    """Trace, plan, mask and slim a model in float64, and compare. The model itself is perturbed and made float64."""
    model = model.double().eval()
    inputs = as_double((args, dict(kwargs or {})))
    perturb(model, seed)
    settle(model, *inputs)
    graph = atograph.trace(model, *inputs, outputs=outputs)
    return compare_plan(graph, graph.plan(**plan) if plan else graph.plan(random=seed, keep=keep), inputs)


def compare_plan(
    graph: atograph.Graph, plan: atograph.Plan, inputs: Inputs, dense: Sequence[torch.Tensor] | None = None
) -> Outcome:
    """Mask and slim a traced model, and compare; ``dense`` are its own outputs, if they are known already."""
    assert graph.model is not None
    args, kwargs = inputs
    slim = atograph.slim(graph, plan)
    with torch.no_grad():
        if dense is None:
            dense = tensors_of(graph.model(*args, **kwargs), slim.left_out)
        masked = tensors_of(atograph.mask(graph.model, plan)(*args, **kwargs), slim.left_out)
        found = tensors_of(slim(*args, **kwargs))
        other_args, other_kwargs = other_inputs(inputs)
        other = tensors_of(slim(*other_args, **other_kwargs))
    forms = [[(t.shape, t.dtype) for t in outputs] for outputs in (masked, found)]
    assert forms[0] == forms[1], "masked and slim give outputs of different shapes or types"
    return Outcome(
        graph, plan, slim, difference=difference(masked, found), moved=movement(dense, masked),
        alive=movement(found, other),
    )  # fmt: skip


def difference(reference: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """The largest relative difference of any output; values that are no finite floats must be equal."""
    return max((_difference(a, b) for a, b in zip(reference, found, strict=True)), default=0.0)


def movement(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """The largest relative difference of any floating-point output; without one, the share of values that changed."""
    floats = [(a, b) for a, b in zip(before, after, strict=True) if _is_float(a) or a.is_complex()]
    if floats:
        return max(_difference(a, b) for a, b in floats)
    changed = [float((a != b).double().mean()) for a, b in zip(before, after, strict=True) if a.numel()]
    return max(changed, default=0.0)


def _difference(reference: torch.Tensor, found: torch.Tensor) -> float:
    reference, found = reference.detach(), found.detach()
    if reference.is_complex():
        reference, found = torch.view_as_real(reference.resolve_conj()), torch.view_as_real(found.resolve_conj())
    if not reference.is_floating_point():
        return 0.0 if torch.equal(reference, found) else float("inf")
    finite = torch.isfinite(reference)
    if not torch.allclose(reference[~finite], found[~finite], rtol=0.0, atol=0.0, equal_nan=True):
        return float("inf")
    return relative_difference(reference[finite], found[finite])


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
