"""A module whose parameters, gradients and optimiser state are spread over the processes: FSDP2, block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.processes.replicas import Replicas
from atograph.train.saved.weights import is_sharded, local
from atograph.train.settings import TrainSettings
from atograph.values.attributes import Attributes, values_of
from atograph.values.eval_mode import copy_of

_REFUSED: Mapping[str, tuple[object, str]] = {
    "precision": ("float16", "the scale of the loss is not that of all processes: use --precision bfloat16"),
    "compile": (True, "compiled blocks were not tried"),
    "channels_last": (True, "a part of a tensor has no channels"),
    "distill": (True, "the teacher would be whole on every device"),
    "prune_frozen": (True, "parameters without gradients show nothing to the controller"),
}
"""Setting → the value that does not go with sharding, and why."""


def check_shardable(settings: TrainSettings, replicas: Replicas) -> None:
    """Refuse what does not go with ``shard``.

    Raises:
        UserError: naming it.
    """
    if replicas.count == 1:
        raise UserError(
            "shard spreads the model over several processes, and there is one.",
            hint="torchrun --nproc-per-node 2 -m atograph compress ... --shard",
        )
    for name, (value, why) in _REFUSED.items():
        if getattr(settings, name) == value:
            raise UserError(f"{name}={value} does not go with shard: {why}.", hint=f"Leave out {name} or shard.")


def sharded(model: nn.Module, device: torch.device, count: int) -> nn.Module:
    """A copy of a model, spread over all processes, each part of it on this process's device.

    Each block (`blocks`) is gathered while it computes, and nothing of it stays whole afterwards.

    Args:
        model: on the host; no more than a block of it is on the device as a whole at any time.
        device: of this process.
        count: how many processes there are.

    Raises:
        UserError: `fully_shard` cannot take it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    made = copy_of(model)
    mesh = init_device_mesh(device.type, (count,))
    try:
        for module in (*blocks(made), made):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
        text = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"the model cannot be sharded: {text}.", hint="Leave out --shard.") from error
    return made


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand in a list (`nn.ModuleList`, `nn.Sequential`, `nn.ModuleDict`), are no lists
    themselves, and have parameters, of which no module outside has one."""
    uses = _uses(model)

    def within(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if not isinstance(module, _LISTS) or isinstance(child, _LISTS):
                yield from within(child)
                continue
            inside = _uses(child)
            if inside and all(uses[key] == count for key, count in inside.items()):
                yield child

    return within(model)


_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _uses(model: nn.Module) -> Counter[int]:
    """How many modules have each parameter as their own, by its id."""
    return Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))


@torch.no_grad()
def gather(made: nn.Module, model: nn.Module) -> None:
    """Give the model that was copied what its sharded copy has, one tensor at a time; all processes do so together."""
    whole = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in (*made.named_parameters(), *made.named_buffers()):
        whole[name].copy_(full(value.detach()))
    Attributes(model).put(values_of(made))


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor as a whole, on the device; any other one is."""
    if not is_sharded(tensor):
        return tensor
    spread: Any = tensor
    whole: Tensor = spread.full_tensor()
    return whole


def local_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state dict, of sharded tensors the parts of this process."""
    state = optimizer.state_dict()
    parts = {
        index: {key: local(value) if isinstance(value, Tensor) else value for key, value in entries.items()}
        for index, entries in state["state"].items()
    }
    return {**state, "state": parts}


def load_local_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from such a state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        index: {key: _like(parameters[index], value) for key, value in entries.items()}
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": spread})


def _like(parameter: Tensor, value: object) -> object:
    """A part of a tensor as the sharded tensor, of a parameter's shape."""
    if not is_sharded(parameter) or not isinstance(value, Tensor) or not value.ndim:
        return value
    from torch.distributed.tensor import DTensor

    like: Any = parameter
    if value.shape != local(parameter).shape:
        return value
    return DTensor.from_local(
        value.to(local(parameter).device), like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
