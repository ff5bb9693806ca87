"""The tensors of a module exchanged for slim ones, and the integers in which torch's own layers repeat their sizes."""

from __future__ import annotations

import torch
from torch import nn

from atograph.passes.ir.program import Program
from atograph.passes.torch_private import ConvNd, NormBase


def replace_state(module: nn.Module, slimmed: Program) -> None:
    """Put the slim tensors in, under every name that a tied tensor has."""
    names = {name: id(value) for name, value in named_state(module)}
    replacement = {names[name]: value.detach().clone() for name, value in slimmed.state.items() if name in names}
    for name, identity in names.items():
        if identity not in replacement:
            continue
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        old, value = getattr(owner, leaf), replacement[identity]
        if isinstance(old, nn.Parameter):
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(value, requires_grad=old.requires_grad)
                replacement[identity] = value
            setattr(owner, leaf, value)  # a recurrent layer keeps its weights in a list as well, and watches for this
        elif leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            setattr(owner, leaf, value)


def named_state(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers under every name that they have."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _weight_of(part: nn.Module) -> object:
    """A layer's weight. One with a parametrisation is computed, which in training changes buffers (spectral norm)."""
    computing = [each for each in getattr(part, "parametrizations", nn.Module()).modules() if each.training]
    for each in computing:
        each.training = False
    try:
        return getattr(part, "weight", None)
    finally:
        for each in computing:
            each.training = True


_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def correct_widths(part: nn.Module) -> None:
    """Set the integers in which torch's own layers repeat their parameters' sizes."""
    weight = _weight_of(part)
    shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
    match part:
        case ConvNd() if shape:
            first, second = (1, 0) if part.transposed else (0, 1)
            part.out_channels = shape[first] * (part.groups if part.transposed else 1)
            part.in_channels = shape[second] * (1 if part.transposed else part.groups)
        case nn.RNNBase():
            rows, part.input_size = part.get_parameter("weight_ih_l0").shape
            part.hidden_size = rows // _GATES[part.mode]
            part.proj_size = part.get_parameter("weight_hr_l0").shape[0] if part.proj_size else 0
        case nn.Linear() if shape:
            part.out_features, part.in_features = shape
        case NormBase():
            stored = part.running_mean if part.running_mean is not None else weight
            if isinstance(stored, torch.Tensor):
                part.num_features = stored.shape[0]
        case nn.GroupNorm():
            part.num_channels = shape[0] if shape else part.num_channels
        case nn.LayerNorm() if shape:
            part.normalized_shape = shape
        case nn.Embedding() if shape:
            part.num_embeddings, part.embedding_dim = shape
        case nn.PReLU() if shape:
            part.num_parameters = shape[0]
