"""Whether a network looks as if it had never been trained."""

from __future__ import annotations

from torch import nn

NOISE = (
    "the teacher looks like a network that was never trained, and teaches noise then: give it trained weights "
    "({how}), or train without a teacher"
)
"""What is said of one; ``how`` they are given."""


def looks_untrained(model: nn.Module) -> bool:
    """Whether all parameters are as torch initialises them, where that shows.

    It shows in norms, whose weights and biases are each one number throughout until the first step; without norms in
    linear layers and convolutions, whose weights are within one over the square root of the inputs, and reach that.
    """
    norms = [
        [parameter for parameter in module.parameters(recurse=False) if parameter.numel() > 1]
        for module in model.modules()
        if "norm" in type(module).__name__.lower()
    ]
    scales = [parameter for each in norms for parameter in each if parameter.dim() == 1]
    if scales:
        return all(bool((parameter == parameter[0]).all()) for parameter in scales)
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    return bool(layers) and all(_within_bound(layer) for layer in layers)


def _within_bound(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    """Whether a layer's weights are as ``reset_parameters`` draws them: even within a bound."""
    weight = layer.weight
    inputs = weight.numel() // weight.shape[0]
    largest = float(weight.detach().abs().max()) * inputs**0.5
    return bool(0.7 < largest <= 1.0 + 1e-3)
