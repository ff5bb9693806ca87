"""The contract, as benchmarks and tests check it: dense with a plan's slices at zero equals slim, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import atograph
from atograph.slim_module import relative_difference, tensors_of


@dataclass(frozen=True)
class Outcome:
    """What a comparison found; differences are relative to the largest output."""

    graph: atograph.Graph
    plan: atograph.Plan
    slim: atograph.Slim
    difference: float
    moved: float
    alive: float
    """How much the slim output still depends on the input: a constant output would show nothing."""


def perturb(model: nn.Module, seed: int = 0) -> None:
    """Move every parameter and running statistic away from its initial value, which may hide a mistake."""
    generator = torch.Generator().manual_seed(seed)

    def noise(t: torch.Tensor) -> torch.Tensor:
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise(parameter) * (0.1 * parameter.abs().mean() + 0.02))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(1 + 0.3 * noise(buffer).abs())


def settle(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Let running statistics follow real activations, so that a deep network's signal does not fade away."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 0.9, True
    with torch.no_grad():
        for _ in range(2):
            model(*args)
    for norm in norms:
        norm.training = False


def compare(model: nn.Module, args: tuple[Any, ...], *, seed: int = 0, keep: float = 0.5, **plan: Any) -> Outcome:
    """Trace, plan, mask and slim a model in float64, and compare."""
    model = model.double().eval()
    args = tuple(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
    perturb(model, seed)
    settle(model, args)
    graph = atograph.trace(model, args)
    chosen = graph.plan(**plan) if plan else graph.plan(random=seed, keep=keep)
    slim = atograph.slim(graph, chosen)
    with torch.no_grad():
        dense = tensors_of(model(*args))
        masked = tensors_of(atograph.mask(model, chosen)(*args))
        found = tensors_of(slim(*args))
        others = tuple(a * 1.3 + 0.1 if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
        other = tensors_of(slim(*others))
    assert [t.shape for t in masked] == [t.shape for t in found]
    return Outcome(
        graph,
        chosen,
        slim,
        difference=_largest(masked, found),
        moved=_largest(masked, dense),
        alive=_largest(found, other),
    )


def _largest(reference: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(relative_difference(a, b) for a, b in zip(reference, other, strict=True))
